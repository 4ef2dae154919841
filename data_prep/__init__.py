"""Building labelled datasets: news in, a Parquet folder with topics and spaCy's entities out."""
