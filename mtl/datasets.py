"""Reading the datasets that a recipe names: from Hub ids, folders and files to one list of examples per split.

An example is `{"text": str, <sequence task>: label name or None, <token task>: spans or None}`: what a row says in
the words of the recipe's tasks, whatever its columns were called.
"""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetDict, load_dataset

from configuration_mtsbert import TOKEN_CLASSIFICATION
from entities_mtsbert import check_spans, join_words, tags_to_spans


TEXT = "text"
SPLITS = ("train", "validation", "test")
SPEC_KEYS = ("path", "files", "columns")


@dataclass
class SourceDataset:
    """One dataset of the recipe, with its columns checked against the tasks."""

    name: str
    splits: DatasetDict
    columns: dict[str, str]
    """Role (`text` or a task) → column."""

    def where(self, split: str, row: int) -> str:
        return f"Row {row} of dataset {self.name!r}, split {split!r}"


def open_datasets(specs: dict[str, dict], tasks: dict[str, dict]) -> list[SourceDataset]:
    """Opens every dataset of a recipe. Raises `ValueError` for what cannot be found, or does not fit the tasks."""
    opened = [_open_dataset(name, spec, tasks) for name, spec in specs.items()]
    fed = {role for source in opened for role in source.columns}
    if unfed := [task for task in tasks if task not in fed]:
        raise ValueError(
            f"No dataset feeds the tasks {unfed}. Map a column to each in `columns` of a dataset, or drop the task."
        )
    return opened


def _open_dataset(name: str, spec: dict, tasks: dict[str, dict]) -> SourceDataset:
    if not isinstance(spec, dict) or ("path" in spec) == ("files" in spec):
        raise ValueError(f"Dataset {name!r} needs either 'path' or 'files'; got {spec!r}.")
    if unknown := sorted(set(spec) - set(SPEC_KEYS)):
        raise ValueError(f"Dataset {name!r} has unknown keys {unknown}; allowed are {list(SPEC_KEYS)}.")
    splits = _read_splits(name, spec)
    for split, rows in splits.items():
        if len(rows) == 0:
            raise ValueError(f"Dataset {name!r}, split {split!r}, is empty.")
    return SourceDataset(name, splits, _roles(name, spec, splits, tasks))


def _read_splits(name: str, spec: dict) -> DatasetDict:
    if "files" in spec:
        files = spec["files"]
        if not isinstance(files, dict) or not files or not set(files) <= set(SPLITS):
            raise ValueError(f"Dataset {name!r}: 'files' maps some of {list(SPLITS)} to files; got {files!r}.")
        return DatasetDict({split: read_file(Path(path)) for split, path in files.items()})
    path = Path(spec["path"])
    if path.is_file():
        return DatasetDict({"train": read_file(path)})
    if path.is_dir():
        return _read_folder(name, path)
    if path.suffix or path.is_absolute() or len(path.parts) != 2:
        raise ValueError(
            f"Dataset {name!r}: {path} is neither a file nor a folder. A folder of labelled news is made by "
            f"`python -m data_prep --output {path}`."
        )
    try:
        splits = load_dataset(str(path))
    except Exception as error:  # the Hub's errors share no base class
        raise ValueError(f"Dataset {name!r}: {path} could not be loaded ({type(error).__name__}: {error}).") from error
    splits = DatasetDict({split: rows for split, rows in splits.items() if split in SPLITS})
    if not splits:
        raise ValueError(f"Dataset {name!r}: {path} has none of the splits {list(SPLITS)}.")
    return splits


def _read_folder(name: str, folder: Path) -> DatasetDict:
    """A folder of Parquet files that are called after their splits, as `data_prep` and the Hub write them."""
    files = {split: sorted(folder.glob(f"**/{split}*.parquet")) for split in SPLITS}
    files = {split: [str(_check_parquet(path)) for path in paths] for split, paths in files.items() if paths}
    if not files:
        raise ValueError(
            f"Dataset {name!r}: folder {folder} has no train*.parquet, validation*.parquet or test*.parquet in it. "
            "Name single files under 'files'."
        )
    # Not `load_dataset(folder)`: where the folder's card has a `configs` section, datasets 5.2 caches under the
    # folder's name and that section alone, and returns the old rows when the files have changed.
    return load_dataset("parquet", data_files=files)


def _check_parquet(path: Path) -> Path:
    try:
        pq.read_schema(path)
    except pa.ArrowException as error:
        raise ValueError(f"{path} is not a Parquet file: {error}") from None
    return path


def read_file(path: Path) -> Dataset:
    """Reads one `.parquet`, `.csv`, `.tsv` or `.jsonl` file. Cells of a CSV are text; an empty one is missing."""
    readers: dict[str, Callable[[Path], Dataset]] = {
        ".parquet": lambda path: Dataset.from_parquet(str(_check_parquet(path))),
        ".csv": lambda path: _read_csv(path, ","),
        ".tsv": lambda path: _read_csv(path, "\t"),
        ".jsonl": _read_jsonl,
    }
    if path.suffix not in readers:
        raise ValueError(f"{path}: files are read as {', '.join(readers)}; not {path.suffix or 'without a suffix'!r}.")
    if not path.is_file():
        raise ValueError(f"{path}: no such file.")
    try:
        return readers[path.suffix](path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); convert it first.") from None


def _read_csv(path: Path, delimiter: str) -> Dataset:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            rows = list(reader)
        except csv.Error as error:
            raise ValueError(f"Line {reader.line_num} of {path} is not CSV: {error}.") from None
    if len(set(header)) != len(header):
        raise ValueError(f"{path} names a column twice in its header: {header}.")
    for row, cells in enumerate(rows, start=1):
        if len(cells) != len(header):
            raise ValueError(f"Row {row} of {path} has {len(cells)} cells; the header has {len(header)}: {header}.")
    return Dataset.from_dict({column: [row[place] or None for row in rows] for place, column in enumerate(header)})


def _read_jsonl(path: Path) -> Dataset:
    rows = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"Line {number} of {path} is not JSON: {error}.") from None
            if not isinstance(row, dict):
                raise ValueError(f"Line {number} of {path} is not an object of columns: {line.strip()[:80]}")
            rows.append(row)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    try:
        return Dataset.from_dict({column: [row.get(column) for row in rows] for column in columns})
    except (ValueError, TypeError) as error:  # Arrow wants one type a column
        raise ValueError(f"{path} mixes kinds of values in a column: {error}") from None


def _roles(name: str, spec: dict, splits: DatasetDict, tasks: dict[str, dict]) -> dict[str, str]:
    """The `columns` of a dataset turned round, checked: role → column."""
    existing = {column for rows in splits.values() for column in rows.column_names}
    mapping = spec.get("columns")
    if mapping is None:
        mapping = {role: role for role in (TEXT, *tasks) if role in existing}
    if not isinstance(mapping, dict):
        raise ValueError(f"Dataset {name!r}: 'columns' maps columns to 'text' and tasks; got {mapping!r}.")
    roles: dict[str, str] = {}
    for column, role in mapping.items():
        if role != TEXT and role not in tasks:
            raise ValueError(
                f"Dataset {name!r} maps column {column!r} to {role!r}, which is neither 'text' nor a task "
                f"of the recipe ({', '.join(tasks)})."
            )
        if role in roles:
            raise ValueError(f"Dataset {name!r} maps both {roles[role]!r} and {column!r} to {role!r}.")
        for split, rows in splits.items():
            if column not in rows.column_names:
                raise ValueError(
                    f"Dataset {name!r}, split {split!r}, has no column {column!r}; it has {rows.column_names}."
                )
        roles[role] = column
    if TEXT not in roles:
        raise ValueError(
            f"Dataset {name!r} maps no column to 'text'; its columns are {sorted(existing)}. Say so in `columns`."
        )
    if len(roles) == 1:
        raise ValueError(f"Dataset {name!r} feeds no task; its columns are {sorted(existing)}. Say so in `columns`.")
    return roles


def read_examples(
    source: SourceDataset, split: str, tasks: dict[str, dict], max_rows: int | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of one split as examples (see the head of this file), each checked."""
    rows = source.splits[split]
    if max_rows is not None:
        rows = rows.select(range(min(max_rows, len(rows))))
    features = rows.features
    columns = {role: rows.with_format("arrow")[column].to_pylist() for role, column in _read_columns(source, rows)}
    for row in range(len(rows)):
        try:
            yield _read_example({role: values[row] for role, values in columns.items()}, source, features, tasks)
        except ValueError as error:
            raise ValueError(f"{source.where(split, row)}: {error}") from None


def _read_columns(source: SourceDataset, rows: Dataset) -> list[tuple[str, str]]:
    return [(role, column) for role, column in source.columns.items() if column in rows.column_names]


def _read_example(row: dict[str, Any], source: SourceDataset, features: Any, tasks: dict[str, dict]) -> dict[str, Any]:
    text, words = row[TEXT], None
    if isinstance(text, list):
        if not all(isinstance(word, str) for word in text):
            raise ValueError(f"column {source.columns[TEXT]!r} holds {text!r}; it needs a text or a list of words.")
        text, words = join_words(text)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"column {source.columns[TEXT]!r} has no text in it: {text!r}.")
    example: dict[str, Any] = {TEXT: text}
    for role, value in row.items():
        if role == TEXT:
            continue
        column = source.columns[role]
        try:
            if tasks[role]["type"] == TOKEN_CLASSIFICATION:
                example[role] = _read_entities(value, text, words, features[column])
            else:
                example[role] = _read_label(value, features[column])
        except ValueError as error:
            raise ValueError(f"column {column!r}: {error}") from None
    return example


def _read_label(value: Any, feature: Any) -> str | None:
    if isinstance(feature, ClassLabel):
        return None if value is None or value < 0 else feature.int2str(value)
    if isinstance(value, list | dict):
        raise ValueError(f"{value!r} is not a label.")
    return None if value is None else str(value)


def _read_entities(
    value: list | None, text: str, words: list[tuple[int, int]] | None, feature: Any
) -> list[dict[str, Any]] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is neither a list of {{start, end, label}} nor a list of tags.")
    if words is None:
        for span in value:
            if not isinstance(span, dict) or not {"start", "end", "label"} <= set(span):
                raise ValueError(f"entity {span!r} needs 'start', 'end' and 'label'; tags need a 'text' of words.")
        check_spans(value, text)
        return [{"start": span["start"], "end": span["end"], "label": str(span["label"])} for span in value]
    if len(value) != len(words):
        raise ValueError(f"{len(value)} tags for {len(words)} words.")
    names = getattr(feature, "feature", None)
    tags = [names.int2str(tag) if isinstance(names, ClassLabel) else tag for tag in value]
    if not all(isinstance(tag, str) for tag in tags):
        raise ValueError(f"tags are strings, or a list of a ClassLabel; got {value!r}.")
    return [{"start": s["start"], "end": s["end"], "label": s["label"]} for s in tags_to_spans(tags, words)]
