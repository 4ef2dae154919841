"""Removes machine-made entity labels that a model trained on them disagrees with.

    mtsbert relabel --model runs/ag_news_first --data data/ag_news --output data/ag_news_agreed

Writes a copy of a prepared dataset. An entity that the model finds as well, with the same boundaries and type, is
kept. Where the two differ, a span without a label covers both entities, so that nothing is learned there. Only the
training split is changed.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from mtsbert.commands.evaluate_entities import Finder, load_finder
from mtsbert.data.gold import ENTITIES
from mtsbert.data.sources import TEXT
from mtsbert.formats.files import read_file
from mtsbert.machine import add_precision_option
from mtsbert.preparation import data_prep
from mtsbert.results.unfinished import new_folder


TRAIN_FILE, CARD_FILE = "train.parquet", "README.md"
WORD_COLUMNS = ("tokens", "ner_tags")  # they have no tag for a span without a label


@dataclass
class Agreement:
    """Counts of entities over all rows."""

    given: int = 0
    """Entities of the dataset."""
    agreed: int = 0
    """Entities of the dataset that the model found as well."""
    added: int = 0
    """Entities that only the model found."""
    open: int = 0
    """Spans that are left without a label."""

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


def agree(given: Sequence[dict], found: Sequence[dict]) -> tuple[list[dict], Agreement]:
    """
    Returns the spans that are in both lists, and spans without a label that cover the others (overlapping ones are
    merged), with their counts. A given span without a label stays without one.
    """
    marks = [{(span["start"], span["end"], span["label"]) for span in spans} for spans in (given, found)]
    spans = data_prep("spans").vote([given, found])
    counts = Agreement(
        given=len(marks[0]),
        agreed=len(marks[0] & marks[1]),
        added=len(marks[1] - marks[0]),
        open=sum(span["label"] is None for span in spans),
    )
    return spans, counts


def relabel(finder: Finder, data: Path, output: Path) -> Agreement:
    """
    Copies the prepared dataset in `data` to `output`, keeping only training entities that `finder` agrees with.

    Raises:
        `ValueError`: if `data` is not a prepared dataset, or `output` already exists. Nothing is left behind then.
    """
    if not (data / TRAIN_FILE).is_file():
        raise ValueError(f"{data} has no {TRAIN_FILE}; `python -m data_prep` makes such a folder.")
    columns = read_file(data / TRAIN_FILE).column_names
    if missing := sorted({TEXT, ENTITIES} - set(columns)):
        raise ValueError(f"{data / TRAIN_FILE} has no columns {missing}; it has {columns}.")
    with new_folder(output) as partial:
        left_behind = shutil.ignore_patterns("*.parquet", "report", "report.md")
        shutil.copytree(data, partial, ignore=left_behind, dirs_exist_ok=True)
        counts = Agreement()

        def agree_on(batch: dict[str, list]) -> dict[str, list]:
            nonlocal counts
            pairs = zip(batch[ENTITIES], finder.find(batch[TEXT]), strict=True)
            spans, of_rows = zip(*(agree(given, found) for given, found in pairs), strict=True)
            counts = sum(of_rows, counts)
            return {ENTITIES: list(spans)}

        for path in sorted(data.glob("*.parquet")):  # all splits have the same columns
            split = read_file(path)
            split = split.remove_columns([name for name in WORD_COLUMNS if name in split.column_names])
            if path.name == TRAIN_FILE:
                split = split.map(agree_on, batched=True, load_from_cache_file=False, desc="Relabelling")
            split.to_parquet(partial / path.name)
        _note(partial / CARD_FILE, finder, counts)
    return counts


def _note(card: Path, finder: Finder, counts: Agreement) -> None:
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    card.write_text(
        f"{text}\n## Entities that a second model confirmed\n\nOf the training rows' {counts.given:,} entities, "
        f"{counts.agreed:,} were also found by {Path(finder.name).name}, which had learned them. {counts.open:,} "
        "stretches of text, where the two differ, have an entity without a label: it is not known what is there. "
        "`tokens` and `ner_tags` are left out.\n",
        encoding="utf-8",
    )


def main(argv: list[str] | None = None, *, prog: str = "mtsbert relabel") -> None:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", required=True, help="mtsbert checkpoint that was trained on the entities.")
    parser.add_argument("--task", help="The checkpoint's token task. Required if it has several.")
    parser.add_argument("--data", required=True, type=Path, help="Dataset folder written by data_prep.")
    parser.add_argument("--output", required=True, type=Path, help="Folder to create.")
    add_precision_option(parser)
    args = parser.parse_args(argv)
    counts = relabel(load_finder(args.model, task=args.task, precision=args.precision), args.data, args.output)
    sys.stdout.write(
        f"{args.output}: of {counts.given:,} entities {counts.agreed:,} are agreed on; the model has {counts.added:,} "
        f"others; {counts.open:,} places are left open.\n"
    )
