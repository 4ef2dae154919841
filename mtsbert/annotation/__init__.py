"""Chooses texts for people to label, and writes them for their tool with the model's answers."""
