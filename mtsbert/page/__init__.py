"""The page of `mtsbert demo`, which runs without the rest of the project as well."""
