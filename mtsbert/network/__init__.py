"""
Loading, freezing and speeding up the model. Imports only `mtsbert.arguments` and its siblings, `settings`, and `data`.
"""
