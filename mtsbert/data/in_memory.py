"""Datasets in memory in the form that a recipe names its datasets in, so that both are read by the same code."""

from collections.abc import Mapping
from typing import Any

from datasets import Dataset, IterableDataset

from mtsbert.data.examples import DATASET, ROW
from mtsbert.data.sources import SPLITS


ONLY = "data"  # the name, in messages, of a dataset that was given without one


def specs_of(data: Any, columns: Mapping | None = None) -> dict[str, dict]:
    """
    The `datasets` of a recipe: name → `{"dataset": {split: rows}, "columns": ...}`. What has that form already stays.

    Args:
        data: See [`~mtsbert.load_data`].
        columns (*optional*): Column → role, for all datasets alike; or dataset → such a mapping.

    Raises:
        `ValueError`: for anything else, naming the remedy.
    """
    if isinstance(data, Dataset):
        data = {ONLY: {"train": data}}
    if not isinstance(data, Mapping):
        raise _not_a_dataset(data)
    if data and set(data) <= set(SPLITS):  # a `DatasetDict`, say
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
        if rows and set(rows) <= set(SPLITS):
            rows = {"dataset": {split: _checked(name, split, of_split) for split, of_split in rows.items()}}
        of_dataset = columns.get(name) if is_nested else columns
        specs[name] = dict(rows) if of_dataset is None else {**rows, "columns": dict(of_dataset)}
    return specs


def is_by_dataset(columns: Mapping | None) -> bool:
    """Whether `columns` are given for each dataset by its name, and not for all alike."""
    return columns is not None and any(isinstance(of_dataset, Mapping) for of_dataset in columns.values())


def is_features(rows: Any, tasks: Mapping[str, dict]) -> bool:
    """Whether rows are what [`~mtsbert.data.features.build_features`] returns for these tasks."""
    needed = {"input_ids", "pair_input_ids", "length", DATASET, ROW, *tasks}
    return isinstance(rows, Dataset) and needed <= set(rows.column_names)


def as_datasets(rows: Any, argument: str) -> Mapping[str, Dataset]:
    """
    One split of one or several datasets, by name.

    Args:
        rows (`Dataset` or `dict[str, Dataset]`): What a user gave as `argument` of the Trainer.

    Raises:
        `ValueError`: for anything else, a `DatasetDict` of splits among it.
    """
    if isinstance(rows, Dataset):
        return {ONLY: rows}
    if isinstance(rows, Mapping) and rows:
        if set(rows) <= set(SPLITS):
            raise ValueError(
                f"`{argument}` has the splits {list(rows)}; give one of them, as data[{next(iter(rows))!r}]."
            )
        return {name: _checked(name, argument, of_name) for name, of_name in rows.items()}
    raise _not_a_dataset(rows, argument)


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
    return ValueError(f"{f'`{where}`' if where else 'The data'} is a {kind}, not a `datasets.Dataset`. {remedy}")
