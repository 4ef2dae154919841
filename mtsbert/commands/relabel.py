"""Removes machine-made entity labels that models trained on them disagree with.

    mtsbert relabel --config recipes/ag_news_first.yaml --folds 5 --data data/ag_news --output data/ag_news_confirmed
    mtsbert relabel --model runs/ag_news_first --data data/ag_news --output data/ag_news_agreed

Writes a copy of a prepared dataset. An entity that a model finds as well, with the same boundaries and type, is kept.
Where the two differ, a span without a label covers both entities, so that nothing is learned there. Only the training
split is changed.

With --folds, that many models are trained by a recipe. Each is asked only about what it has not learned: entities that
were open in all its training texts, and texts that it has not seen. Interrupted, the same command goes on. With
--model, one model is asked about all of what it has learned, mistakes included.
"""

import argparse
import hashlib
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path

from datasets import Dataset

from configuration_mtsbert import TOKEN_CLASSIFICATION
from mtsbert.commands.evaluate.entities import Finder, load_finder
from mtsbert.data.gold import ENTITIES
from mtsbert.data.sources import TEXT
from mtsbert.formats.files import read_file
from mtsbert.formats.folders import visible
from mtsbert.formats.parquet import labels_in
from mtsbert.machine import add_precision_option
from mtsbert.preparation import data_prep
from mtsbert.relabelling.folds import Folds
from mtsbert.relabelling.models import FoldModels
from mtsbert.results.unfinished import DESCRIPTION_FILE, locked, new_folder, read_description, write_json


TRAIN_FILE, CARD_FILE = "train.parquet", "README.md"
WORD_COLUMNS = ("tokens", "ner_tags")  # they have no tag for a span without a label


@dataclass
class Agreement:
    """Counts of entities over all rows."""

    given: int = 0
    """Entities of the dataset whose type is known."""
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
    marks = [
        {(span["start"], span["end"], span["label"]) for span in spans if span["label"] is not None}
        for spans in (given, found)
    ]
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
    _check_beside(data, output)
    read_training_rows(data)
    return _copy(data, output, finder.find, Path(finder.name).name)


def confirm(
    config: Path, data: Path, output: Path, *, num_folds: int, task: str | None = None, precision: str = "auto"
) -> Agreement:
    """
    Copies the prepared dataset in `data` to `output`, keeping only training entities that are confirmed out of fold:
    see [`Folds`]. What is finished stays in a folder beside `output` until all is.

    Args:
        config (`Path`): The recipe by which the models are trained, on `data`.
        num_folds (`int`): How many models to train.
        task (`str`, *optional*): The token task of the recipe. Required if it has several.
        precision (`str`, *optional*, defaults to `"auto"`): Precision in which they are asked.

    Raises:
        `ValueError`: if `data` is not a prepared dataset that the recipe trains on, or `output` exists.
    """
    if num_folds < 2:
        raise ValueError(f"--folds is {num_folds}; there must be 2 at least.")
    _check_beside(data, output)
    rows = read_training_rows(data)
    if output.exists():
        raise ValueError(f"{output} exists already; remove it or name another folder.")
    work = output.with_name(f".{output.name}.folds")
    models = FoldModels(config, data, work, lambda name: load_finder(name, task=task, precision=precision).find)
    check_task(models, task)
    with locked(work, output):
        return _confirm(models, rows, output, num_folds=num_folds, asked=[task, precision])


def check_task(models: FoldModels, task: str | None) -> None:
    """Raises `ValueError` unless it is clear which token task of a recipe is asked."""
    of_tokens = [name for name, settings in models.tasks.items() if settings["type"] == TOKEN_CLASSIFICATION]
    if task not in of_tokens if task is not None else len(of_tokens) != 1:
        raise ValueError(f"The tasks of {models.config} that find entities are {of_tokens}; --task is {task!r}.")


def _confirm(models: FoldModels, rows: Dataset, output: Path, *, num_folds: int, asked: list[str | None]) -> Agreement:
    data, work = models.data, models.folder
    question = {
        "recipe": models.config.read_text(encoding="utf-8"),
        "data": hashlib.sha256((data / TRAIN_FILE).read_bytes()).hexdigest(),
        "folds": num_folds,
        "task and precision": asked,
    }
    if read_description(work) not in (None, question):
        raise ValueError(
            f"{work} has what an interrupted run has found with another recipe, other data, folds, task or precision. "
            "Remove it, or run the same command again."
        )
    write_json(work / DESCRIPTION_FILE, question)
    shown = round(len(rows) * (1 - 1 / num_folds))
    sys.stdout.write(
        f"Trains {num_folds} models by {models.config}, {models.epochs:g} epochs of about {shown:,} texts each, and "
        f"reads {num_folds} x {len(rows):,} texts: about {num_folds - 1} runs of the recipe. What is finished is kept "
        f"in {work}.\n"
    )
    sys.stdout.flush()
    texts, given = rows[TEXT][:], [spans or [] for spans in rows[ENTITIES]]
    folds = Folds(texts, given, num_folds)
    found_by = [models.found(fold, rows, folds) for fold in range(num_folds)]
    found = (folds.found(text, spans, of_text) for text, spans, *of_text in zip(texts, given, *found_by, strict=True))
    counts = _copy(data, output, lambda some: list(islice(found, len(some))), f"{num_folds} models")
    shutil.rmtree(work)
    return counts


def _check_beside(data: Path, output: Path) -> None:
    """Raises `ValueError` if the copy lies in the dataset, which would have all its rows twice then."""
    if data.resolve() in output.resolve().parents:
        raise ValueError(f"{output} lies in {data}, whose rows would be read from both then; name a folder beside it.")


def read_training_rows(data: Path) -> Dataset:
    """Reads the training split of a prepared dataset, without words and tags. Raises `ValueError` if it has none."""
    if not (data / TRAIN_FILE).is_file():
        raise ValueError(f"{data} has no {TRAIN_FILE}; `python -m data_prep` makes such a folder.")
    if others := sorted(path for path in visible(data, "**/train*.parquet") if path != data / TRAIN_FILE):
        raise ValueError(
            f"{others[0]} has training rows as well, and those of {TRAIN_FILE} alone are relabelled. Join the files, "
            f"or move it out of {data}."
        )
    rows = read_file(data / TRAIN_FILE)
    if missing := sorted({TEXT, ENTITIES} - set(rows.column_names)):
        raise ValueError(f"{data / TRAIN_FILE} has no columns {missing}; it has {rows.column_names}.")
    if labels_in(rows.features[ENTITIES]):  # which no model answers with
        raise ValueError(f"{data / TRAIN_FILE} has ids of a ClassLabel in {ENTITIES!r}; write the types as text.")
    for row, text in enumerate(rows[TEXT]):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"Row {row} of {data / TRAIN_FILE} has no text in it: {text!r}.")
    return rows.remove_columns([name for name in WORD_COLUMNS if name in rows.column_names])


def lost_types(data: Path, output: Path) -> list[str]:
    """The entity types of a prepared dataset of which its relabelled copy has no training entity left."""
    before, after = (
        {span["label"] for spans in read_training_rows(folder)[ENTITIES] for span in spans or ()}
        for folder in (data, output)
    )
    return sorted(before - after - {None})


def _copy(data: Path, output: Path, find: Callable, by: str) -> Agreement:
    with new_folder(output) as partial:
        left_behind = shutil.ignore_patterns("*.parquet", "report", "report.md")
        how = {"ignore": lambda folder, names: left_behind(folder, names) if Path(folder) == data else ()}
        shutil.copytree(data, partial, **how, dirs_exist_ok=True)
        counts = Agreement()

        def agree_on(batch: dict[str, list]) -> dict[str, list]:
            nonlocal counts
            spans = []
            for given, found in zip(batch[ENTITIES], find(batch[TEXT]), strict=True):
                kept, of_row = (None, Agreement()) if given is None else agree(given, found)
                spans.append(kept)
                counts += of_row
            return {ENTITIES: spans}

        for path in sorted(data.glob("*.parquet")):  # all splits have the same columns
            split = read_file(path)
            split = split.remove_columns([name for name in WORD_COLUMNS if name in split.column_names])
            if path.name == TRAIN_FILE:
                split = split.map(agree_on, batched=True, load_from_cache_file=False, desc="Relabelling")
            split.to_parquet(partial / path.name)
        _note(partial / CARD_FILE, by, counts)
    return counts


def _note(card: Path, by: str, counts: Agreement) -> None:
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    card.write_text(
        f"{text}\n## Entities that a second model confirmed\n\nOf the training rows' {counts.given:,} entities, "
        f"{counts.agreed:,} were also found by {by}. {counts.open:,} "
        "stretches of text, where the two differ or the dataset leaves it open, have an entity without a label: it is "
        "not known what is there. "
        "`tokens` and `ner_tags` are left out.\n",
        encoding="utf-8",
    )


def main(argv: list[str] | None = None, *, prog: str = "mtsbert relabel") -> None:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--model", help="mtsbert checkpoint that was trained on the entities.")
    how.add_argument("--config", type=Path, help="Recipe by which the models of --folds are trained on --data.")
    parser.add_argument("--folds", type=int, help="How many models to train; with --config. Default: 5")
    parser.add_argument("--task", help="The token task of the checkpoint or recipe. Required if it has several.")
    parser.add_argument("--data", required=True, type=Path, help="Dataset folder written by data_prep.")
    parser.add_argument("--output", required=True, type=Path, help="Folder to create.")
    add_precision_option(parser)
    args = parser.parse_args(argv)
    if args.model is not None and args.folds is not None:
        raise ValueError("--folds trains models of its own by --config; drop --model, or --folds.")
    if args.config is not None:
        how_many = 5 if args.folds is None else args.folds
        options = {"task": args.task, "precision": args.precision}
        counts = confirm(args.config, args.data, args.output, num_folds=how_many, **options)
    else:
        counts = relabel(load_finder(args.model, task=args.task, precision=args.precision), args.data, args.output)
    sys.stdout.write(
        f"{args.output}: of {counts.given:,} entities {counts.agreed:,} are agreed on; the models have "
        f"{counts.added:,} others; {counts.open:,} places are left open.\n"
    )
    if lost := lost_types(args.data, args.output):
        sys.stdout.write(
            f"No entity of {', '.join(lost)} is left. Where other splits have them, a recipe must name all types of "
            "its task (`labels`).\n"
        )
