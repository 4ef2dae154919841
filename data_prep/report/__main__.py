"""Writes the report of a prepared dataset: `python -m data_prep.report`."""

import sys

from .document import main


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"Error: {error}")
