"""Turns files, Hub datasets and in-memory datasets into batches. Imports only `mtsbert.arguments` and its siblings."""
