"""Adapters: small trained factors beside weights that stay as they are."""
