"""Learning from a larger model: its answers as targets, and a student made of its layers. Imports from the network."""
