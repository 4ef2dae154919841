"""Reads Parquet files. Each gives its labels by its own names, whatever the other files of a dataset call them."""

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Value, concatenate_datasets
from datasets.data_files import DataFilesList

from mtsbert.formats.options import AS_USUAL, FileOptions, Refuse, raise_error


logger = logging.getLogger(__name__)


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
    return joined([read_parquet(path) for path in paths], paths)


def joined(parts: Sequence[Dataset], files: Sequence[Path | str]) -> Dataset:
    """
    Concatenates the files of one split. Where `ClassLabel`s differ, ids become names. Numbers get a type that holds
    those of all files. A column that a file lacks is None there, with a warning.

    Args:
        parts (`Sequence[Dataset]`): The rows of each file.
        files (`Sequence[Path | str]`): The names of the files, for messages.

    Raises:
        `ValueError`: naming file and column, for a column whose types do not go together, or whose labels would lose
            their names.
    """
    named = [by_name(part) if labels_in(part.features) else part for part in parts] if _labels_differ(parts) else parts
    features = Features()
    for part in named:
        for column, feature in part.features.items():
            try:
                features[column] = _common(features.get(column, feature), feature)
            except pa.ArrowException:
                raise ValueError(
                    f"The files of a split are one dataset, and column {column!r} is "
                    f"{_types_of(column, parts, files)}. Write it alike in all of them."
                ) from None
    for part, file in zip(named, files, strict=True):
        for column, feature in part.features.items():
            if labels_in(feature) not in (None, labels_in(features[column])):
                raise ValueError(
                    f"{file}: the names of labels in column {column!r} would be lost. Write them as text."
                )
    for column in features:
        if without := [file for part, file in zip(parts, files, strict=True) if column not in part.column_names]:
            logger.warning(
                f"{len(without):,} of {len(files):,} files of a split have no column {column!r}, {without[0]} among "
                "them: it is empty in their rows."
            )
    return concatenate_datasets([_cast(part, features, file) for part, file in zip(named, files, strict=True)])


def _labels_differ(parts: Sequence[Dataset]) -> bool:
    """Whether a column has a `ClassLabel` in one file, and in another one other names, or other values."""
    of_columns: dict[str, list] = defaultdict(list)
    for part in parts:
        for column, feature in part.features.items():
            if feature != Value("null"):
                of_columns[column].append(feature)
    return any(any(map(labels_in, found)) and found != found[:1] * len(found) for found in of_columns.values())


def _common(first: Any, second: Any) -> Any:
    """The feature that holds the values of both. Raises `pa.ArrowException` if there is none."""
    if first == second:
        return first
    schemas = [Features({"": feature}).arrow_schema.remove_metadata() for feature in (first, second)]
    if pa.null() in (types := [schema.types[0] for schema in schemas]):
        return second if types[0] == pa.null() else first
    return Features.from_arrow_schema(pa.unify_schemas(schemas, promote_options="permissive"))[""]


def _types_of(column: str, parts: Sequence[Dataset], files: Sequence[Path | str]) -> str:
    """Lists the types that a column has, each with the first file that has it."""
    found: dict[str, Path | str] = {}
    for part, file in zip(parts, files, strict=True):
        if (feature := part.features.get(column, Value("null"))) != Value("null"):
            kind = "ClassLabel" if labels_in(feature) else str(Features({column: feature}).arrow_schema.types[0])
            found.setdefault(kind, file)
    return " and ".join(f"{kind} in {file}" for kind, file in found.items())


def _cast(part: Dataset, features: Features, file: Path | str) -> Dataset:
    for column in part.column_names:
        if part.features[column] != features[column]:
            try:
                part = part.cast(Features(part.features | {column: features[column]}))
            except (pa.ArrowException, TypeError) as error:
                raise ValueError(
                    f"{file}: column {column!r} cannot be read as in the other files of its split ({error})."
                ) from None
    return part


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
    return type(feature)(_named(feature.feature)) if hasattr(feature, "feature") else feature  # a list of any kind


def name_of(value: Any, feature: Any) -> Any:
    """The name of an id in a column of a `ClassLabel`, None for a negative one. Other values stay as they are."""
    if value is None or not isinstance(feature, ClassLabel):
        return value
    return None if value < 0 else feature.int2str(value)


def _names(feature: Any, value: Any) -> Any:
    if value is None or isinstance(feature, ClassLabel):
        return name_of(value, feature)
    if isinstance(feature, dict):
        return {name: _names(of_name, value[name]) for name, of_name in feature.items()}
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return value if inner is None else [_names(inner, one) for one in value]


def parquet_rows(path: Path, options: FileOptions = AS_USUAL, refuse: Refuse = raise_error) -> Iterator[dict]:
    """Yields the rows of a file one by one, with constant memory. Ids of a `ClassLabel` become names."""
    num_rows(path)
    try:
        with pq.ParquetFile(path) as file:
            features = features_in(file.schema_arrow) or {}
            named = {column: feature for column, feature in features.items() if labels_in(feature)}
            for batch in file.iter_batches(batch_size=1_000):
                for row in batch.to_pylist():
                    yield row | {column: _names(feature, row[column]) for column, feature in named.items()}
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
