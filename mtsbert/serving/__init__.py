"""The HTTP server of `mtsbert serve`. Imports FastAPI, uvicorn and prometheus_client, and of the package `network`."""
