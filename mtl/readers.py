"""Files and folders → rows, whatever the format. What cannot be read is named with file and line."""

import csv
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, load_dataset


WORDS, TAGS = "tokens", "tags"  # the columns of a BIO file

csv.field_size_limit(sys.maxsize)  # a text may be longer than 131,072 characters, where the csv module gives up


def read_folder(folder: Path, splits: dict[str, str]) -> DatasetDict:
    """A folder of Parquet files that are called after their splits, as `data_prep` and the Hub write them.

    Args:
        splits: Our name of a split → how the files are called.
    """
    files = {split: sorted(folder.glob(f"**/{stem}*.parquet")) for split, stem in splits.items()}
    files = {split: [str(_check_parquet(path)) for path in paths] for split, paths in files.items() if paths}
    if not files:
        raise ValueError(
            f"folder {folder} has no {' or '.join(f'{stem}*.parquet' for stem in splits.values())} in it. "
            "Name single files under 'files'."
        )
    # Not `load_dataset(folder)`: where the folder's card has a `configs` section, datasets 5.2 caches under the
    # folder's name and that section alone, and returns the old rows when the files have changed.
    return load_dataset("parquet", data_files=files)


def read_file(path: Path) -> Dataset:
    """
    Reads one file by its suffix.

    - `.parquet`;
    - `.csv`, `.tsv`: with a header; cells are text, and an empty one is missing;
    - `.jsonl`: one object of columns a line;
    - `.bio`, `.conll`: a word and its tag a line (first and last column), blank lines between texts; the columns are
      `tokens` and `tags`. A line that begins with `#` is a word like any other.
    """
    readers: dict[str, Callable[[Path], Dataset]] = {
        ".parquet": lambda path: Dataset.from_parquet(str(_check_parquet(path))),
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
        return readers[path.suffix](path)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None


def _check_parquet(path: Path) -> Path:
    try:
        pq.read_schema(path)
    except pa.ArrowException as error:
        raise ValueError(f"{path} is not a Parquet file: {error}") from None
    return path


def stream_rows(path: Path) -> Iterator[dict]:
    """
    Reads one file row by row, in memory that does not grow with it: `.parquet`, `.csv`, `.tsv` and `.jsonl` as
    `read_file` does, and `.txt` with a text a line, in the column `text`.
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


def _csv_rows(path: Path, delimiter: str) -> Iterator[dict[str, str | None]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            if len(set(header)) != len(header):
                raise ValueError(f"{path} names a column twice in its header: {header}.")
            for row, cells in enumerate(reader, start=1):
                if len(cells) != len(header):
                    raise ValueError(
                        f"Row {row} of {path} has {len(cells)} cells; the header has {len(header)}: {header}."
                    )
                yield {column: cell or None for column, cell in zip(header, cells, strict=True)}
        except csv.Error as error:
            raise ValueError(f"Line {reader.line_num} of {path} is not CSV: {error}.") from None


def _jsonl_rows(path: Path) -> Iterator[dict]:
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
            yield row


def _parquet_rows(path: Path) -> Iterator[dict]:
    with pq.ParquetFile(_check_parquet(path)) as file:
        for batch in file.iter_batches(batch_size=1_000):
            yield from batch.to_pylist()


def _text_rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="\n") as lines:
        for line in lines:
            yield {"text": line.removesuffix("\n").removesuffix("\r")}


STREAMS: dict[str, Callable[[Path], Iterator[dict]]] = {
    ".parquet": _parquet_rows,
    ".csv": lambda path: _csv_rows(path, ","),
    ".tsv": lambda path: _csv_rows(path, "\t"),
    ".jsonl": _jsonl_rows,
    ".txt": _text_rows,
}


def _read_rows(path: Path) -> Dataset:
    rows = list(stream_rows(path))
    columns = list(dict.fromkeys(column for row in rows for column in row))
    try:
        return Dataset.from_dict({column: [row.get(column) for row in rows] for column in columns})
    except (ValueError, TypeError) as error:  # Arrow wants one type a column
        raise ValueError(f"{path} mixes kinds of values in a column: {error}") from None


def _read_bio(path: Path) -> Dataset:
    words: list[list[str]] = [[]]
    tags: list[list[str]] = [[]]
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
            if not line.strip():
                words.append([])
                tags.append([])
            elif len(fields) < 2:
                raise ValueError(
                    f"Line {number} of {path} has no tag: {line.strip()[:80]!r}. It needs a word and its tag."
                )
            elif fields[0] != "-DOCSTART-":
                words[-1].append(fields[0])
                tags[-1].append(fields[-1].strip())
    kept = [index for index, text in enumerate(words) if text]
    return Dataset.from_dict({WORDS: [words[index] for index in kept], TAGS: [tags[index] for index in kept]})
