"""What a model achieves and how it is told: metrics, tables, plots, the card. Imports arguments, data, network."""
