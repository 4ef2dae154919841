"""Reads Parquet files. Each gives its labels by its own names, whatever the other files of a dataset call them."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, List, Value, concatenate_datasets
from datasets import Sequence as SequenceFeature
from datasets.data_files import DataFilesList

from mtsbert.formats.options import AS_USUAL, FileOptions, Refuse, raise_error


def read_parquet(path: Path) -> Dataset:
    """Reads one file. A file without rows has no columns."""
    if not num_rows(path):  # datasets 5.2 fails on a row group without rows
        return Dataset.from_dict({})
    stat = path.stat()
    # Not the path itself, which would be a pattern: `data[2024]/a.parquet`.
    literal = DataFilesList([str(path.absolute())], [(str(path.absolute()), str(stat.st_mtime_ns), str(stat.st_size))])
    return _load(str(path), lambda: Dataset.from_parquet({"train": literal}, split="train"))


def read_parquet_files(paths: Sequence[Path]) -> Dataset:
    """Reads the files of one split as one dataset."""
    return joined([read_parquet(path) for path in paths])


def joined(parts: Sequence[Dataset]) -> Dataset:
    """Concatenates datasets. Where their `ClassLabel`s differ, ids become names."""
    first = parts[0].features
    if any(labels_in(part.features) != labels_in(first) for part in parts):
        parts = [by_name(part) for part in parts]
        first = parts[0].features
    if any(part.features != first for part in parts):
        parts = [part.cast(Features({name: first[name] for name in part.column_names})) for part in parts]
    return concatenate_datasets(list(parts))


def labels_in(feature: Any) -> Any:
    """The names of all `ClassLabel`s in features, by column; None where there are none."""
    if isinstance(feature, ClassLabel):
        return feature.names
    if isinstance(feature, dict):
        found = {name: labels_in(of_name) for name, of_name in feature.items()}
        return {name: names for name, names in found.items() if names is not None} or None
    if isinstance(feature, list):
        return labels_in(feature[0])
    return labels_in(feature.feature) if hasattr(feature, "feature") else None


def by_name(rows: Dataset) -> Dataset:
    """Replaces the ids of `ClassLabel`s by their names, and negative ids, which stand for no label, by None."""
    columns = list(labels_in(rows.features) or ())
    features = Features({name: _named(rows.features[name]) for name in rows.column_names})

    def read(batch: dict[str, list]) -> dict[str, list]:
        return {name: [_names(rows.features[name], value) for value in batch[name]] for name in columns}

    return rows.map(read, batched=True, features=features, desc="Reading the names of labels")


def _named(feature: Any) -> Any:
    if isinstance(feature, ClassLabel):
        return Value("string")
    if isinstance(feature, dict):
        return {name: _named(of_name) for name, of_name in feature.items()}
    if isinstance(feature, list):
        return [_named(feature[0])]
    return type(feature)(_named(feature.feature)) if isinstance(feature, List | SequenceFeature) else feature


def _names(feature: Any, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(feature, ClassLabel):
        return None if value < 0 else feature.int2str(value)
    if isinstance(feature, dict):
        return {name: _names(of_name, value[name]) for name, of_name in feature.items()}
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return value if inner is None else [_names(inner, one) for one in value]


def parquet_rows(path: Path, options: FileOptions = AS_USUAL, refuse: Refuse = raise_error) -> Iterator[dict]:
    """Yields the rows of a file one by one, with constant memory."""
    num_rows(path)
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1_000):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(str(path), error) from None


def num_rows(path: Path) -> int:
    """Reads the number of rows from the footer of a Parquet file. Raises `ValueError` if it is not a Parquet file."""
    try:
        return pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} is not a Parquet file: {error}") from None


def features_in(schema: pa.Schema) -> Features | None:
    """The features that a Parquet file declares in its metadata; None if it was not written by datasets."""
    info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {})
    return Features.from_arrow_schema(schema) if info.get("features") else None


def _load(name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:  # the errors of pyarrow and datasets for broken pages share no base class
        raise _damaged(name, error.__cause__ or error) from None


def _damaged(name: str, error: BaseException) -> ValueError:
    return ValueError(f"{name} cannot be read as Parquet ({type(error).__name__}: {error}).")
