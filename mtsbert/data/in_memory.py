"""Converts in-memory datasets to the format of a recipe's `datasets`, so that the same code reads both."""

import logging
from collections.abc import Mapping
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset

from mtsbert.data.examples import DATASET, ROW
from mtsbert.data.sources import SPLITS, TEXT, TEXT_PAIR


ONLY = "data"  # name in messages for a dataset without a name

logger = logging.getLogger(__name__)


def specs_of(data: Any, columns: Mapping | None = None) -> dict[str, dict]:
    """
    Converts datasets to the format of a recipe's `datasets`: name → `{"dataset": {split: rows}, "columns": ...}`. Data
    that already has this format is returned unchanged.

    Args:
        data: See [`~mtsbert.load_data`].
        columns (`dict`, *optional*): Column → `"text"`, `"text_pair"`, `"text_negative"` or a task, for all
            datasets; or dataset name → such a mapping.

    Raises:
        `ValueError`: for any other type, with advice on how to convert it; for splits beside what is none.
    """
    if isinstance(data, Dataset):
        data = {ONLY: {"train": data}}
    if not isinstance(data, Mapping):
        raise _not_a_dataset(data)
    if _are_splits(data):
        data = {ONLY: data}
    is_nested = is_by_dataset(columns)
    if is_nested and (unknown := sorted(set(columns) - set(data))):
        raise ValueError(f"`columns` names the datasets {unknown}; there are {list(data)}.")
    specs = {}
    for name, rows in data.items():
        if isinstance(rows, Dataset):
            rows = {"train": rows}
        if not isinstance(rows, Mapping):
            raise _not_a_dataset(rows, name)
        if _are_splits(rows, name):
            rows = {"dataset": {split: _checked(name, split, of_split) for split, of_split in rows.items()}}
        of_dataset = columns.get(name) if is_nested else columns
        specs[name] = dict(rows) if of_dataset is None else {**rows, "columns": dict(of_dataset)}
    return specs


def is_by_dataset(columns: Mapping | None) -> bool:
    """
    Whether `columns` are given for each dataset by its name, and not for all alike.

    Raises:
        `ValueError`: if they are neither.
    """
    if columns is None:
        return False
    kinds = {isinstance(value, Mapping) for value in columns.values()} if isinstance(columns, Mapping) else None
    if kinds is None or len(kinds) > 1:
        raise ValueError(
            f"`columns` is {columns!r}; it maps columns to 'text', 'text_pair', 'text_negative' and tasks, or names "
            "of datasets to such mappings."
        )
    return True in kinds


def columns_of_rows(columns: Mapping, datasets: Mapping[str, Dataset]) -> dict[str, Mapping]:
    """
    Returns `columns` by dataset, for rows that are evaluated or predicted: without those of labels that a dataset does
    not have, with one warning. A column may also be called by its role there (`text` instead of `body`).

    Args:
        columns (`dict`): See `specs_of`. Not every dataset that it names must be there.
        datasets (`dict[str, Dataset]`): Dataset name → rows.
    """
    is_nested = is_by_dataset(columns)
    found = {}
    for name, rows in datasets.items():
        if (of_dataset := columns.get(name) if is_nested else columns) is None:
            continue
        found[name], missing = {}, {}
        for column, role in of_dataset.items():
            if column in rows.column_names:
                found[name][column] = role
            elif role in rows.column_names and role not in of_dataset:
                found[name][role] = role
            elif role in (TEXT, TEXT_PAIR):  # an error later
                found[name][column] = role
            else:
                missing[column] = role
        if missing:
            logger.warning(
                f"Dataset {name!r} has no column {', '.join(map(repr, missing))}: its rows are read without "
                f"{', '.join(map(repr, missing.values()))}."
            )
    return found


def is_features(rows: Any, tasks: Mapping[str, dict]) -> bool:
    """Whether rows are already features for these tasks, as [`~mtsbert.data.features.build_features`] returns them."""
    needed = {"input_ids", "pair_input_ids", "length", DATASET, ROW, *tasks}
    return isinstance(rows, Dataset) and needed <= set(rows.column_names)


def as_datasets(rows: Any, argument: str) -> Mapping[str, Dataset]:
    """
    Returns one split of one or several datasets as a mapping from name to dataset.

    Args:
        rows (`Dataset` or `dict[str, Dataset]`): The value of an argument of the Trainer.
        argument (`str`): The name of the argument, for error messages.

    Raises:
        `ValueError`: for any other type, and for splits.
    """
    if isinstance(rows, Dataset):
        return {ONLY: rows}
    if isinstance(rows, Mapping) and rows:
        if isinstance(rows, DatasetDict) or set(rows) & set(SPLITS):
            raise ValueError(
                f"`{argument}` has the splits {list(rows)}; give one of them, as data[{next(iter(rows))!r}]. Several "
                "datasets are a `dict` of names that are no splits."
            )
        return {name: _checked(name, argument, of_name) for name, of_name in rows.items()}
    raise _not_a_dataset(rows, argument)


def _are_splits(data: Mapping, where: str | None = None) -> bool:
    """
    Whether a mapping has the splits of one dataset, and not several datasets by name. A dataset may be called like a
    split if it has splits itself, as in a recipe.

    Raises:
        `ValueError`: for datasets of both kinds, and for a `DatasetDict` with other keys: rows that are kept for a
            test would be trained on.
    """
    others = [name for name in data if name not in SPLITS]
    splits = [name for name in data if name in SPLITS and isinstance(data[name], Dataset)]
    if others and (splits or isinstance(data, DatasetDict)):
        raise ValueError(
            f"{_called(where)} has {list(data)}, of which {others} are no splits. Splits are called {list(SPLITS)}: "
            "rename or leave out the others. To learn from several datasets, give a `dict` with names of your own."
        )
    return bool(data) and not others and not all(isinstance(rows, Mapping) for rows in data.values())


def _checked(name: str, split: str, rows: Any) -> Dataset:
    if not isinstance(rows, Dataset):
        raise _not_a_dataset(rows, f"{name!r}, {split!r}")
    return rows


def _not_a_dataset(value: Any, where: str | None = None) -> ValueError:
    kind = type(value).__name__
    remedies = {
        "DataFrame": "Write `Dataset.from_pandas(frame)`.",
        "list": "Write `Dataset.from_list(rows)`.",
        "dict": "Write `Dataset.from_dict(columns)`.",
    }
    remedy = remedies.get(kind, "Give a `datasets.Dataset`, or a mapping of names to them.")
    if isinstance(value, IterableDataset):
        remedy = (
            "Rows are counted, sorted by length and checked before the first step, which a stream does not allow: "
            "write it to disk once, as with `Dataset.from_generator`, which is read from there as it is needed."
        )
    return ValueError(f"{_called(where)} is a {kind}, not a `datasets.Dataset`. {remedy}")


def _called(where: str | None) -> str:
    return f"`{where}`" if where else "The data"
