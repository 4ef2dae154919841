"""Builds labelled datasets from news: a folder of Parquet files with topics and entities labelled by spaCy."""
