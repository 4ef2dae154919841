"""Evaluates the sentence embedding of a model on scored pairs and on retrieval, optionally next to a reference model.

    mtsbert evaluate-embedding --model runs/quickstart --reference sentence-transformers/all-MiniLM-L6-v2 \\
        --pairs stsb.csv --retrieval questions.jsonl

The model and the reference are mtsbert checkpoints or SentenceTransformers. The 95 % intervals come from bootstrap
resampling of pairs and of queries; for a difference, both models get the same samples. With a reference that has
embeddings of the same size, retrieval is also measured with the queries of the model in an index of the reference.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mtsbert.data.readers import STREAMS, stream_rows
from mtsbert.machine import add_precision_option
from mtsbert.network.embedder import Embedder, load_embedder
from mtsbert.results.embedding_scores import (
    Estimate,
    distinct,
    embedding_metrics,
    normalized,
    ranks_of_relevant,
    score_pairs,
    score_retrieval,
)
from mtsbert.results.tables import escape, markdown_table


MODEL, REFERENCE, MIXED = "model", "reference", "model in the reference's index"
PAIR_COLUMNS = (("sentence1", "sentence2", "score"), ("text", "text_pair", "score"))
RETRIEVAL_COLUMNS = (("query", "document"), ("anchor", "positive"))


@dataclass(frozen=True)
class ScoredPairs:
    """Texts that were compared with each other, and how similar they are."""

    first: list[str]
    second: list[str]
    scores: np.ndarray


@dataclass(frozen=True)
class Retrieval:
    """Queries, documents, and which documents answer which query."""

    queries: list[str]
    documents: list[str]
    relevant: list[set[int]]


def read_pairs(path: Path, columns: Sequence[str] | None = None) -> ScoredPairs:
    """Reads scored pairs. Raises `ValueError`, naming the row, for texts or scores that are missing or no such."""
    rows = _read(path, PAIR_COLUMNS if columns is None else [columns], "--pair_columns")
    scores = []
    for number, row in enumerate(rows, start=1):
        try:
            score = float(row[2])
        except (TypeError, ValueError):
            score = math.nan
        if not math.isfinite(score):
            raise ValueError(f"Row {number} of {path}: the score is {row[2]!r}; it must be a number.")
        scores.append(score)
    if len(rows) < 2 or len(set(scores)) < 2:
        raise ValueError(f"{path} has {len(rows)} pairs with {len(set(scores))} different scores; needed are 2 each.")
    first, second = ([_text(row[place], path, n) for n, row in enumerate(rows, start=1)] for place in (0, 1))
    return ScoredPairs(first, second, np.array(scores))


def read_retrieval(path: Path, columns: Sequence[str] | None = None) -> Retrieval:
    """
    Reads queries with the documents that answer them. A query may have several rows, and so may a document; equal
    texts are the same one. Raises `ValueError`, naming the row, for texts that are missing.
    """
    rows = _read(path, RETRIEVAL_COLUMNS if columns is None else [columns], "--retrieval_columns")
    texts = [[_text(value, path, number) for value in row] for number, row in enumerate(rows, start=1)]
    queries, query_index = distinct([query for query, _ in texts])
    documents, document_index = distinct([document for _, document in texts])
    if len(documents) < 2:
        raise ValueError(f"{path} has {len(documents)} different documents; a search needs at least 2.")
    relevant: list[set[int]] = [set() for _ in queries]
    for query, document in texts:
        relevant[query_index(query)].add(document_index(document))
    return Retrieval(queries, documents, relevant)


def _read(path: Path, choices: Sequence[Sequence[str]], flag: str) -> list[list]:
    """Reads the values of the first group of columns that the file has."""
    if path.suffix not in STREAMS:
        raise ValueError(f"{path}: the file must be one of {', '.join(STREAMS)}.")
    if not path.is_file():
        raise ValueError(f"{path} is not a file.")
    rows = list(stream_rows(path))
    if not rows:
        raise ValueError(f"{path} has no rows.")
    names = set().union(*rows)
    columns = next((group for group in choices if names.issuperset(group)), None)
    if columns is None:
        wanted = " or ".join(", ".join(group) for group in choices)
        raise ValueError(f"{path} needs the columns {wanted}; it has {sorted(names)}. Name others with {flag}.")
    return [[row.get(column) for column in columns] for row in rows]


def _text(value: object, path: Path, number: int) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"Row {number} of {path}: a text is {value!r}; it must be a string that is not empty.")
    return value


class Vectors:
    """The normalized embeddings that models give to texts, each computed once."""

    def __init__(self, models: dict[str, Embedder], texts: Sequence[str]):
        texts, self._index = distinct(texts)
        self._of = {name: normalized(model.encode(texts)) for name, model in models.items()}
        self.can_be_mixed = len({vectors.shape[1] for vectors in self._of.values()}) == 1

    def __call__(self, name: str, texts: Sequence[str]) -> np.ndarray:
        return self._of[name][[self._index(text) for text in texts]]


def evaluate(
    models: dict[str, Embedder],
    pairs: ScoredPairs | None,
    retrieval: Retrieval | None,
    *,
    at: Sequence[int] = (1, 10),
    num_resamples: int = 1_000,
    seed: int = 42,
) -> dict[str, dict]:
    """
    Evaluates one or two models.

    Args:
        models (`dict[str, Embedder]`): `"model"`, and optionally `"reference"`.
        pairs (`ScoredPairs`, *optional*): Pairs to correlate cosines with scores on.
        retrieval (`Retrieval`, *optional*): Queries and documents to search.
        at (`Sequence[int]`, *optional*, defaults to `(1, 10)`): The k of `recall_at_k`.
        num_resamples, seed (`int`, *optional*): Bootstrap samples, and their seed.

    Returns:
        `pairs` and `retrieval`, each by model and difference; and `agreement` of the two models on the documents, or
        else on the texts of the pairs.
    """
    options = {"num_resamples": num_resamples, "seed": seed}
    of_pairs = [] if pairs is None else [*pairs.first, *pairs.second]
    of_search = [] if retrieval is None else [*retrieval.queries, *retrieval.documents]
    vectors = Vectors(models, [*of_pairs, *of_search])
    results: dict[str, dict] = {}
    if pairs is not None:
        cosines = {
            name: (vectors(name, pairs.first) * vectors(name, pairs.second)).sum(axis=1, dtype=np.float64)
            for name in models
        }
        results["pairs"] = score_pairs(cosines, pairs.scores, **options)
    if retrieval is not None:
        sides = {name: (name, name) for name in models}
        if REFERENCE in models and vectors.can_be_mixed:
            sides[MIXED] = (MODEL, REFERENCE)
        ranks = {
            side: ranks_of_relevant(
                vectors(of_queries, retrieval.queries), vectors(of_index, retrieval.documents), retrieval.relevant
            )
            for side, (of_queries, of_index) in sides.items()
        }
        results["retrieval"] = score_retrieval(ranks, at=at, **options)
    if REFERENCE in models and vectors.can_be_mixed:
        texts = list(dict.fromkeys(of_pairs)) if retrieval is None else retrieval.documents
        moved = embedding_metrics(vectors(MODEL, texts), vectors(REFERENCE, texts))
        results["agreement"] = {"num_texts": len(texts)} | {
            name.removeprefix("embedding_"): value for name, value in moved.items()
        }
    return results


def in_words(results: dict[str, dict], pairs: ScoredPairs | None, retrieval: Retrieval | None) -> str:
    """Formats the results as Markdown tables, in percent."""
    parts = []
    titles = {}
    if pairs is not None:
        titles["pairs"] = f"{len(pairs.scores):,} scored pairs"
    if retrieval is not None:
        titles["retrieval"] = f"{len(retrieval.queries):,} queries, {len(retrieval.documents):,} documents"
    for kind, title in titles.items():
        sides = results[kind]
        names = list(next(iter(sides.values())))
        cells = [["", *names], *([side, *(_cell(figures[name]) for name in names)] for side, figures in sides.items())]
        parts.append(f"{title}:\n\n{markdown_table(cells)}")
    if (agreement := results.get("agreement")) is not None:
        overlap = agreement.get("overlap_at_10")
        said = (
            f"Agreement with the reference on {agreement['num_texts']:,} texts: mean cosine {agreement['cosine']:.3f}"
        )
        parts.append(f"{said}{'' if overlap is None else f', neighbour overlap@10 {overlap:.3f}'}.")
    return "\n\n".join(parts)


def _cell(estimate: Estimate) -> str:
    value, low, high = (f"{100 * number:.1f}" for number in (estimate.value, estimate.low, estimate.high))
    return escape(f"{value} [{low}, {high}]")


def main(argv: list[str] | None = None, *, prog: str = "mtsbert evaluate-embedding") -> None:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    what = "mtsbert checkpoint or SentenceTransformer: a folder, a Hub id or package:NAME/FOLDER"
    parser.add_argument("--model", required=True, help=f"{what}.")
    parser.add_argument("--reference", help=f"The model to compare with, such as the encoder it started from: {what}.")
    formats = ", ".join(suffix for suffix in STREAMS if suffix != ".txt")
    parser.add_argument(
        "--pairs", type=Path, metavar="FILE", help=f"Scored pairs of texts ({formats}): Spearman and Pearson."
    )
    parser.add_argument(
        "--pair_columns",
        nargs=3,
        metavar=("TEXT", "TEXT_PAIR", "SCORE"),
        help=f"Their columns. Default: {' or '.join(map(' '.join, PAIR_COLUMNS))}",
    )
    parser.add_argument(
        "--retrieval",
        type=Path,
        metavar="FILE",
        help="Queries, each with a document that answers it: recall, MRR and nDCG among all documents of the file.",
    )
    parser.add_argument(
        "--retrieval_columns",
        nargs=2,
        metavar=("QUERY", "DOCUMENT"),
        help=f"Their columns. Default: {' or '.join(map(' '.join, RETRIEVAL_COLUMNS))}",
    )
    parser.add_argument("--at", type=int, nargs="+", default=[1, 10], metavar="K", help="Recall at K. Default: 1 10")
    add_precision_option(parser)
    parser.add_argument("--num_resamples", type=int, default=1_000, help="Bootstrap samples. Default: %(default)s")
    parser.add_argument("--seed", type=int, default=42, help="Seed of the bootstrap samples. Default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="Also write all results to this file.")
    args = parser.parse_args(argv)
    if args.pairs is None and args.retrieval is None:
        raise ValueError("Give --pairs, --retrieval or both: what the embedding is measured on.")
    if args.num_resamples < 1 or min(args.at) < 1:
        raise ValueError(f"--num_resamples {args.num_resamples} and --at {args.at} must be at least 1.")
    if args.json is not None and not args.json.parent.is_dir():
        raise ValueError(f"--json {args.json}: there is no folder {args.json.parent}.")
    pairs = None if args.pairs is None else read_pairs(args.pairs, args.pair_columns)
    retrieval = None if args.retrieval is None else read_retrieval(args.retrieval, args.retrieval_columns)
    names = {MODEL: args.model} | ({} if args.reference is None else {REFERENCE: args.reference})
    models = {side: load_embedder(name, precision=args.precision) for side, name in names.items()}
    options = {"num_resamples": args.num_resamples, "seed": args.seed}
    results = evaluate(models, pairs, retrieval, at=args.at, **options)
    sys.stdout.write(in_words(results, pairs, retrieval) + "\n")
    if args.json is not None:
        partial = args.json.with_name(f"{args.json.name}.partial")
        report = {**names, **options, **results}
        partial.write_text(json.dumps(report, indent=2, default=asdict, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.rename(args.json)
