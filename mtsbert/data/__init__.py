"""From files, Hub ids and datasets in memory to batches. Imports nothing of `mtsbert` but `arguments` and its like."""
