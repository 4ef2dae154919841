"""The training side of mtsbert: recipes, data, the Trainer, freezing, metrics and reports."""
