"""The Trainer and what it is made of. Imports everything but commands."""
