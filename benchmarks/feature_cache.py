"""Measures the feature cache: seconds of the second epoch with and without it, on the same rows in the same order.

Without the cache, the epoch is timed without padding, which is the default of this project, and with padding.

python benchmarks/feature_cache.py --config recipes/ag_news_minilm.yaml -- --max_train_samples=4000
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from quality import PLAIN, ROOT, TRAINING_ALONE, write_report
from train import our_trainer
from transformers import TrainerCallback


sys.path.insert(0, str(ROOT))

from mtsbert.data.loading import TaskData, load_recipe_data
from mtsbert.network.starting_point import load_tokenizer
from mtsbert.recipe import parse_arguments


FROZEN = {
    "whole encoder": ["--freeze_encoder"],
    "lower half": ["--freeze_embeddings", "--num_frozen_layers=3"],
}


HOW = {
    "cached": ["--feature_cache=True"],
    "uncached": ["--feature_cache=False"],
    "uncached, with padding": ["--feature_cache=False", "--padding_free=False"],
}


class EpochTimes(TrainerCallback):
    def __init__(self):
        self.seconds: list[float] = []

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.began = time.perf_counter()

    def on_epoch_end(self, args, state, control, **kwargs):
        self.seconds.append(time.perf_counter() - self.began)


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("flags", nargs="*", help="Further flags of run_mtl.py, after '--'.")
    args = parser.parse_args()
    always = [*TRAINING_ALONE, *PLAIN, "--num_train_epochs=2"]
    arguments = ["--config", str(ROOT / args.config), "--disable_tqdm=True", *always, *args.flags]
    model_args, data_args, _ = parse_arguments(arguments)
    data = load_recipe_data(data_args, load_tokenizer(model_args), ["train"])
    figures = {"threads": torch.get_num_threads(), "rows": len(data.features["train"])}
    for name, frozen in FROZEN.items():
        with tempfile.TemporaryDirectory() as folder:
            seconds: dict[str, list[float]] = {how: [] for how in HOW}
            for _ in range(args.repeats):
                for how, values in seconds.items():
                    flags = [*frozen, *HOW[how], f"--feature_cache_dir={folder}"]
                    values.append(second_epoch([*arguments, "--output_dir", folder, *flags], data))
        medians = {how: statistics.median(values) for how, values in seconds.items()}
        times_faster = {how: medians[how] / medians["cached"] for how in HOW if how != "cached"}
        figures[name] = {"seconds": seconds, "times_faster_than": times_faster}
        sys.stdout.write(f"{name} frozen: {medians} seconds; times faster than {times_faster}\n")
    path = write_report("feature_cache", args.config.stem, figures)
    sys.stdout.write(f"Written to {path}\n")


def second_epoch(arguments: list[str], data: TaskData) -> float:
    """Trains for two epochs without evaluation, and returns the duration of the second one in seconds."""
    trainer, _, _ = our_trainer(arguments, data, callbacks=[times := EpochTimes()])
    trainer.train()
    return times.seconds[1]


if __name__ == "__main__":
    main()
