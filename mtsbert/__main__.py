"""`python -m mtsbert COMMAND`: the command `mtsbert` from a clone."""

from mtsbert.cli import main


main()
