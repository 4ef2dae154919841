"""Loads datasets from the Hub."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

import fsspec
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, load_dataset, load_dataset_builder
from datasets.data_files import DataFilesList

from mtsbert.formats.files import PARQUET
from mtsbert.formats.parquet import features_in, joined, labels_in


def is_no_hub_id(name: str) -> bool:
    """Whether a name is a path, and no `owner/name`, which may end in a version (`owner/name-1.5`)."""
    path = PurePosixPath(name)
    is_file = re.fullmatch(r"\.(?!v\d)[A-Za-z]\w*", path.suffix) is not None
    return is_file or path.is_absolute() or name.startswith(".") or len(path.parts) != 2


def load_from_hub(name: str, splits: dict[str, str]) -> DatasetDict:
    """
    Loads a dataset from the Hub.

    Args:
        name (`str`): The id of the dataset, `owner/name`.
        splits (`dict[str, str]`): `train`, `validation` or `test` → the dataset's own name of the split.

    Raises:
        `ValueError`: if it cannot be loaded, or has none of the splits.
    """
    try:
        loaded = load_dataset(name)
        if any(labels_in(rows.features) for rows in loaded.values()):
            loaded = DatasetDict(loaded | _with_other_labels(name, loaded))
    except Exception as error:  # the Hub's errors share no common base class
        raise ValueError(f"{name} could not be loaded ({type(error).__name__}: {error}).") from error
    found = DatasetDict({split: loaded[named] for split, named in splits.items() if named in loaded})
    if not found:
        raise ValueError(f"{name} has none of the splits {list(splits.values())}; it has {list(loaded)}.")
    return found


def _with_other_labels(name: str, loaded: DatasetDict) -> dict[str, Dataset]:
    """
    Split → rows, for splits with a Parquet file that names its labels otherwise than `load_dataset` does: that takes
    the names of the first file, or of the dataset card, for the ids in all files.
    """
    files = load_dataset_builder(name).config.data_files or {}
    again = {}
    for split, urls in files.items():
        if split in loaded and any(_differs(url, loaded[split]) for url in _parquet(urls)):
            # Each with its own features. The commit in the URL makes the cache's key.
            parts = [load_dataset("parquet", data_files={"train": DataFilesList([url], [(url,)])}) for url in urls]
            again[str(split)] = joined([part["train"] for part in parts], urls)
    return again


def _parquet(urls: Iterable[str]) -> list[str]:
    return [url for url in urls if url.endswith(PARQUET)]


def _differs(url: str, rows: Dataset) -> bool:
    with fsspec.open(url) as file:
        own = features_in(pq.read_schema(file))
    return own is not None and labels_in(own) is not None and labels_in(own) != labels_in(rows.features)
