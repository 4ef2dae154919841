"""Trains, evaluates and saves one encoder for several tasks: `accelerate launch run_mtl.py --config recipe.yaml`.

The program itself is `mtsbert/commands/train.py`, which an installation runs as `mtsbert train`.
"""

import sys

from mtsbert.cli import run
from mtsbert.commands.train import main


if __name__ == "__main__":
    run(main, sys.argv[1:], prog="run_mtl.py")
