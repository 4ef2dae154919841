"""Compares the quality of the fast defaults with fp32, random batches and padding, with several seeds.

python benchmarks/shortcuts.py --config recipes/ag_news_minilm.yaml --seeds 42 43 44 -- --max_train_samples=2000
"""

import sys

from quality import TRAINING_ALONE, argument_parser, run, write_report

from mtsbert.results.metrics import PRIMARY_METRIC
from mtsbert.runs import mean_and_sd


PLAIN = ["--precision=fp32", "--train_sampling_strategy=random", "--padding_free=False"]
WAYS = {"defaults": [], "plain": PLAIN}


def main() -> None:
    args = argument_parser(__doc__).parse_args()
    runs = {
        way: {seed: run(args.config, seed, [*TRAINING_ALONE, *flags, *args.flags], name=way) for seed in args.seeds}
        for way, flags in WAYS.items()
    }
    metrics = [*(key for key in runs["plain"][args.seeds[0]] if is_primary(key)), "train_runtime"]
    values = {metric: {way: [runs[way][seed][metric] for seed in args.seeds] for way in WAYS} for metric in metrics}
    for ways in values.values():
        ways["defaults - plain"] = [fast - plain for fast, plain in zip(*ways.values(), strict=True)]
    figures = {metric: {way: mean_and_sd(of_way) for way, of_way in ways.items()} for metric, ways in values.items()}
    for metric, ways in figures.items():
        cells = ", ".join(f"{way} {value['mean']:.4f} ± {value['sd']:.4f}" for way, value in ways.items())
        sys.stdout.write(f"{metric}: {cells}\n")
    sys.stdout.write(f"Written to {write_report('shortcuts', args.config.stem, figures | {'runs': runs})}\n")


def is_primary(key: str) -> bool:
    return key.startswith("test_") and key.rpartition("_")[2] in PRIMARY_METRIC.values()


if __name__ == "__main__":
    main()
