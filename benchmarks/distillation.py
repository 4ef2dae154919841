"""Measures what `embedding_distillation` and `num_task_layers` cost in a training step.

python benchmarks/distillation.py --config recipes/ag_news_minilm.yaml --rows 512 --repeats 5

The target embeddings are on disk before the first measurement. The runs alternate.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from quality import write_report
from train import joint, one_epoch


WAYS = {
    "neither": ["--embedding_distillation=0", "--num_task_layers=0"],
    "distillation": ["--embedding_distillation=2", "--num_task_layers=0"],
    "task layers": ["--embedding_distillation=0", "--num_task_layers=2"],
    "both": ["--embedding_distillation=2", "--num_task_layers=2"],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="Recipe that starts from an encoder.")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        arguments, data = one_epoch(args.config, args.rows, folder)
        arguments += ["--feature_cache_dir", f"{folder}/cache", "--gradient_statistics_steps=0"]
        for repeat in range(args.repeats + 1):  # the first one writes the targets, and is left out
            for name, way in WAYS.items():
                took = joint([*arguments, *way], data)
                seconds[name] += [took] if repeat else []
    base = seconds["neither"]
    ratios = {
        name: statistics.median(took / of_base for took, of_base in zip(values, base, strict=True))
        for name, values in seconds.items()
    }
    for name, ratio in ratios.items():
        sys.stdout.write(f"{name:15} {statistics.median(seconds[name]):7.2f} s, {ratio:.3f} of neither\n")
    path = write_report("distillation", args.config.stem, {"rows": args.rows, "seconds": seconds, "ratios": ratios})
    sys.stdout.write(f"Written to {path}\n")


if __name__ == "__main__":
    main()
