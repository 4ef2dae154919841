"""Metrics, tables, plots and the model card. Imports only arguments and its siblings, `data` and `network`."""
