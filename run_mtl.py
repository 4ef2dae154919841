"""Trains, evaluates and saves one encoder for several tasks: `accelerate launch run_mtl.py --config recipe.yaml`.

The program itself is `mtsbert/commands/train.py`, which an installation runs as `mtsbert train`.
"""

from mtsbert.commands.train import main


if __name__ == "__main__":
    main(prog="run_mtl.py")
