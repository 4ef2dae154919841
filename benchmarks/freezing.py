"""Compares freezing strategies for a recipe (see `mtsbert study`), and records the machine.

python benchmarks/freezing.py --config recipes/ag_news_minilm.yaml --seeds 3 -- --max_train_samples=1000
"""

import json
import sys

from quality import write_report

from mtsbert.commands.study import main as study


def main() -> None:
    folder = study(sys.argv[1:])
    path = write_report("freezing", folder.name, json.loads((folder / "study.json").read_text()))
    sys.stdout.write(f"Written to {path}\n")


if __name__ == "__main__":
    main()
