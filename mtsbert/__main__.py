"""Runs the `mtsbert` command from a clone: `python -m mtsbert COMMAND`."""

from mtsbert.cli import main


main()
