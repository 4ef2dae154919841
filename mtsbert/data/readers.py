"""Reads datasets from files and folders of several formats. Errors name the file and the line."""

import csv
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

from mtsbert.settings import unique_keys


WORDS, TAGS = "tokens", "tags"  # the columns of a BIO file

Refuse = Callable[[int, str], None]
"""Called with the number of a row (from 0) that cannot be read and the reason. If it returns, the row is empty."""

csv.field_size_limit(sys.maxsize)  # texts may be longer than the csv module's default limit of 131,072 characters


def read_folder(folder: Path, splits: dict[str, str]) -> DatasetDict:
    """Reads a folder of Parquet files named after their splits, as `data_prep` and the Hub write them.

    Args:
        folder (`Path`): The folder.
        splits (`dict[str, str]`): `train`, `validation` or `test` → how the file names begin.
    """
    files = {split: sorted(folder.glob(f"**/{stem}*.parquet")) for split, stem in splits.items()}
    files = {split: [str(path) for path in paths if _num_rows(path)] for split, paths in files.items() if paths}
    if empty := [split for split, paths in files.items() if not paths]:
        raise ValueError(f"folder {folder} has no row in its files of split {empty[0]!r}.")
    if not files:
        raise ValueError(
            f"folder {folder} has no {' or '.join(f'{stem}*.parquet' for stem in splits.values())} in it. "
            "Name single files under 'files'."
        )
    # Not `load_dataset(folder)`: if the dataset card has a `configs` section, datasets 5.2 uses only the folder's name
    # and this section as its cache key, and returns outdated rows when the files have changed.
    return _load_parquet(str(folder), lambda: load_dataset("parquet", data_files=files))


def is_saved(folder: Path) -> bool:
    """Whether the folder was written by `save_to_disk` of a `Dataset` or `DatasetDict`."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def read_saved(folder: Path, splits: dict[str, str]) -> DatasetDict:
    """Reads a folder written by `save_to_disk`. A single `Dataset` becomes the training split.

    Args:
        folder (`Path`): The folder.
        splits (`dict[str, str]`): `train`, `validation` or `test` → the name of the split in the folder.
    """
    try:
        saved = load_from_disk(str(folder))
    except Exception as error:  # the errors of pyarrow and datasets for broken files share no base class
        raise ValueError(f"{folder} cannot be read ({type(error).__name__}: {error}).") from None
    if isinstance(saved, Dataset):
        return DatasetDict({"train": saved})
    found = DatasetDict({split: saved[named] for split, named in splits.items() if named in saved})
    if not found:
        raise ValueError(f"{folder} has none of the splits {list(splits.values())}; it has {list(saved)}.")
    return found


def read_file(path: Path, broken: dict[int, str] | None = None) -> Dataset:
    """
    Reads a file in the format given by its suffix:

    - `.parquet`;
    - `.csv`, `.tsv`: with a header; all cells are text, and empty cells are missing values;
    - `.jsonl`: one JSON object per line;
    - `.bio`, `.conll`: one word and its tag per line (first and last column, separated by tabs or spaces), with empty
      lines between texts. The columns are `tokens` and `tags`. Lines that begin with `#` are not comments.

    Args:
        path (`Path`): The file.
        broken (`dict[int, str]`, *optional*): If given, rows that cannot be read are left empty and added here with
            the reason. Otherwise the first such row is an error. A file that cannot be read at all is always an error.
    """

    def refuse(row: int, reason: str) -> None:
        if broken is None:
            raise ValueError(reason)
        broken.setdefault(row, reason)

    readers: dict[str, Callable[[Path, Refuse], Dataset]] = {
        ".parquet": _read_parquet,
        ".csv": _read_rows,
        ".tsv": _read_rows,
        ".jsonl": _read_rows,
        ".bio": _read_bio,
        ".conll": _read_bio,
    }
    if path.suffix not in readers:
        raise ValueError(f"{path}: files are read as {', '.join(readers)}; not {path.suffix or 'without a suffix'!r}.")
    if not path.is_file():
        raise ValueError(f"{path}: no such file.")
    try:
        rows = readers[path.suffix](path, refuse)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None
    if broken and len(broken) >= len(rows):
        raise ValueError(f"No row of {path} can be read. The first: {broken[0]}")
    return rows


def _read_parquet(path: Path, refuse: Refuse) -> Dataset:
    if not _num_rows(path):  # datasets 5.2 fails on a row group without rows
        return Dataset.from_dict({})
    return _load_parquet(str(path), lambda: Dataset.from_parquet(str(path)))


def _load_parquet(name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:  # the errors of pyarrow and datasets for broken pages share no base class
        raise _damaged(name, error.__cause__ or error) from None


def _damaged(name: str, error: BaseException) -> ValueError:
    return ValueError(f"{name} cannot be read as Parquet ({type(error).__name__}: {error}).")


def _num_rows(path: Path) -> int:
    """Reads the number of rows from the footer of a Parquet file. Raises `ValueError` if it is not a Parquet file."""
    try:
        return pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} is not a Parquet file: {error}") from None


def stream_rows(path: Path) -> Iterator[dict]:
    """
    Reads a file row by row, with constant memory. Supports `.parquet`, `.csv`, `.tsv` and `.jsonl` like `read_file`,
    and `.txt` with one text per line, which becomes the column `text`.
    """
    if path.suffix not in STREAMS:
        known = ", ".join(STREAMS)
        raise ValueError(f"{path}: files are read as {known}; not {path.suffix or 'without a suffix'!r}.")
    try:
        yield from STREAMS[path.suffix](path)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None


def _not_utf8(path: Path, error: UnicodeDecodeError) -> ValueError:
    return ValueError(f"{path} is not UTF-8 ({error}); convert it first.")


def _raise(row: int, reason: str) -> None:
    raise ValueError(reason)


def _csv_rows(path: Path, delimiter: str, refuse: Refuse = _raise) -> Iterator[dict[str, str | None]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            if len(set(header)) != len(header):
                raise ValueError(f"{path} names a column twice in its header: {header}.")
            for row, cells in enumerate(reader):
                if len(cells) != len(header):
                    refuse(
                        row,
                        f"Row {row + 1} of {path} has {len(cells)} cells; the header has {len(header)}: {header}.",
                    )
                    cells = [""] * len(header)
                yield {column: cell or None for column, cell in zip(header, cells, strict=True)}
        except csv.Error as error:  # a quotation mark is not closed, so the next row cannot be found
            raise ValueError(f"Line {reader.line_num} of {path} is not CSV: {error}.") from None


def _jsonl_rows(path: Path, refuse: Refuse = _raise) -> Iterator[dict]:
    row = -1
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            row += 1
            columns: Any = {}
            try:
                columns = json.loads(line, object_pairs_hook=unique_keys)
            except json.JSONDecodeError as error:
                refuse(row, f"Line {number} of {path} is not JSON: {error}.")
            except RecursionError:
                refuse(row, f"Line {number} of {path} is nested too deeply.")
            except ValueError as error:
                refuse(row, f"Line {number} of {path}: {error}")
            if not isinstance(columns, dict):
                refuse(row, f"Line {number} of {path} is not an object of columns: {line.strip()[:80]}")
                columns = {}
            yield columns


def _parquet_rows(path: Path) -> Iterator[dict]:
    _num_rows(path)
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1_000):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(str(path), error) from None


def _text_rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="\n") as lines:
        for line in lines:
            yield {"text": line.removesuffix("\n").removesuffix("\r")}


STREAMS: dict[str, Callable[..., Iterator[dict]]] = {
    ".parquet": _parquet_rows,
    ".csv": lambda path, *refuse: _csv_rows(path, ",", *refuse),
    ".tsv": lambda path, *refuse: _csv_rows(path, "\t", *refuse),
    ".jsonl": _jsonl_rows,
    ".txt": _text_rows,
}


def _read_rows(path: Path, refuse: Refuse) -> Dataset:
    rows = list(STREAMS[path.suffix](path, refuse))
    names = list(dict.fromkeys(column for row in rows for column in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    try:
        return Dataset.from_dict(columns)
    except (ValueError, TypeError, OverflowError, RecursionError):  # Arrow columns have a single type
        for name, values in columns.items():
            for row, kind in sorted(_odd_values(values).items()):
                refuse(row, f"Row {row + 1} of {path} mixes kinds of values in a column: {name!r} has {kind}.")
                for others in columns.values():
                    others[row] = None
    try:
        return Dataset.from_dict(columns)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} mixes kinds of values in a column, or names one oddly: {error}") from None


def _odd_values(values: list) -> dict[int, str]:
    """Maps each row of a column whose value has another type than most, or no Arrow type, to the problem."""
    odd: dict[int, str] = {}
    rows_of: dict[pa.DataType, list[int]] = defaultdict(list)
    for row, value in enumerate(values):
        try:
            rows_of[pa.array([value]).type].append(row)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            odd[row] = f"what cannot be kept there ({error})"
    kinds = sorted(rows_of, key=lambda kind: (pa.types.is_null(kind), -len(rows_of[kind])))
    common = pa.null()
    for kind in kinds:
        try:
            common = pa.unify_schemas(
                [pa.schema({"": common}), pa.schema({"": kind})], promote_options="permissive"
            ).types[0]
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            odd |= dict.fromkeys(rows_of[kind], f"{kind} there, and {kinds[0]} in most rows")
    return odd


def _read_bio(path: Path, refuse: Refuse) -> Dataset:
    columns: dict[str, list[list[str]]] = {WORDS: [], TAGS: []}
    within = False
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            # Only tabs and spaces separate columns: a word may contain a no-break space.
            fields = line.rstrip("\r\n").split("\t") if "\t" in line else re.split(" +", line.strip(" \r\n"))
            if not line.strip() or fields[0] == "-DOCSTART-":
                within = False
                continue
            if not within:
                columns[WORDS].append([])
                columns[TAGS].append([])
                within = True
            if len(fields) < 2 or not fields[0]:
                missing = "word" if len(fields) > 1 else "tag"
                refuse(
                    len(columns[WORDS]) - 1,
                    f"Line {number} of {path} has no {missing}: {line.strip()[:80]!r}. It needs a word and its tag.",
                )
            columns[WORDS][-1].append(fields[0])
            columns[TAGS][-1].append(fields[-1].strip())
    return Dataset.from_dict(columns)
