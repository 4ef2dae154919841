"""The model around its weights: where it starts, what is frozen, how it runs fast. Imports arguments and data."""
