"""Measures how seconds and memory grow with rows and tasks: reading and one epoch, for 1, 4 and 16 times as many.

python benchmarks/scale.py --config recipes/ag_news_minilm.yaml

- the tasks of the recipe on an increasing number of rows (repeating the dataset if necessary);
- the smallest number of rows with 1, 4 and 16 artificial text classification tasks with four classes.

Each measurement runs in a fresh process. Memory is the peak resident memory, or the peak allocated on a GPU.
"""

import argparse
import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from datasets import Dataset
from multitask import take_rows
from quality import ROOT, TRAINING_ALONE, write_report
from train import our_trainer


sys.path.insert(0, str(ROOT))

from configuration_mtsbert import SEQUENCE_CLASSIFICATION
from mtsbert.data.loading import load_recipe_data
from mtsbert.machine import peak_memory_gb
from mtsbert.network.starting_point import load_tokenizer
from mtsbert.recipe import parse_arguments


TIMES = (1, 4, 16)
CLASSES = ("north", "east", "south", "west")


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", type=Path, required=True, help="Recipe with a single dataset, a folder written by data_prep."
    )
    parser.add_argument("--rows", type=int, default=1500, help="The smallest number of rows.")
    args = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--config", str(ROOT / args.config), "--output_dir", folder, "--disable_tqdm=True"]
        arguments += [*TRAINING_ALONE, "--num_train_epochs=1"]
        sizes = {f"{times * args.rows:,} rows": Path(folder) / f"rows{times}" for times in TIMES}
        runs = {
            name: take_rows(arguments, {"train": times * args.rows}, path)
            for (name, path), times in zip(sizes.items(), TIMES, strict=True)
        }
        smallest, *_ = sizes.values()
        runs |= {f"{args.rows:,} rows, {number} tasks": made_up_tasks(smallest, number) for number in TIMES}
        for name, flags in runs.items():
            for figure, value in in_a_fresh_process(measure, [*arguments, *flags]).items():
                figures.setdefault(figure, {})[name] = value
            sys.stdout.write(f"{name:25} { ({key: round(values[name], 2) for key, values in figures.items()}) }\n")
    path = write_report("scale", args.config.stem, figures)
    sys.stdout.write(f"Written to {path}\n")


def made_up_tasks(folder: Path, number: int) -> list[str]:
    """Adds columns with random labels to the texts of a folder, and returns the flags for these tasks."""
    rows = Dataset.from_parquet(str(folder / "train.parquet"), cache_dir=str(folder / "cache"))
    draw = random.Random(0)
    tasks = [f"label_{task}" for task in range(number)]
    labels = {task: draw.choices(CLASSES, k=len(rows)) for task in tasks}
    path = folder / f"tasks{number}.parquet"
    Dataset.from_dict({"text": rows["text"][:], **labels}).to_parquet(path)
    datasets = {"made_up": {"files": {"train": str(path)}, "columns": {name: name for name in ("text", *tasks)}}}
    settings = {task: {"type": SEQUENCE_CLASSIFICATION} for task in tasks}
    return [f"--datasets={json.dumps(datasets)}", f"--tasks={json.dumps(settings)}"]


def in_a_fresh_process(measured: Callable[..., dict], *arguments: Any) -> dict[str, float]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measured, *arguments).result()


def measure(arguments: list[str]) -> dict[str, float]:
    """Reads the data and trains like `run_mtl.py`."""
    model_args, data_args, _ = parse_arguments(arguments)
    began = time.perf_counter()
    data = load_recipe_data(data_args, load_tokenizer(model_args), ["train"])
    reading, memory = time.perf_counter() - began, peak_memory_gb()
    trainer, _, _ = our_trainer(arguments, data)
    metrics = trainer.train().metrics
    return {
        "reading_seconds": reading,
        "reading_memory_gb": memory,
        "training_seconds": metrics["train_runtime"],
        "training_memory_gb": metrics["train_peak_memory_gb"],
    }


if __name__ == "__main__":
    main()
