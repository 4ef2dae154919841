"""Reads files of every format as rows, without knowing tasks. Imports only `mtsbert.settings` and its siblings."""
