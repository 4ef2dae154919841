"""Confirms machine-made entity labels by models that have learned neither the entity nor, where none is, the text."""
