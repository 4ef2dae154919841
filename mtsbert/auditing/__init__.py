"""Finds labels that are probably wrong, with classifiers on a frozen encoder that have not seen them."""
