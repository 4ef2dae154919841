"""Reads single files in the format given by their suffix. Errors name the file and the line."""

from collections.abc import Callable, Iterator
from pathlib import Path

from datasets import Dataset

from mtsbert.formats.annotations import docbin_rows
from mtsbert.formats.conll import read_conll
from mtsbert.formats.options import AS_USUAL, CONLL, FileOptions, Refuse
from mtsbert.formats.parquet import parquet_rows, read_parquet
from mtsbert.formats.tables import csv_rows, json_rows, text_rows, to_dataset


PARQUET = ".parquet"
STREAMS: dict[str, Callable[..., Iterator[dict]]] = {
    PARQUET: parquet_rows,
    ".csv": csv_rows,
    ".tsv": csv_rows,
    ".jsonl": json_rows,
    ".txt": text_rows,
}
TABLES: dict[str, Callable[..., Iterator[dict]]] = {
    ".csv": csv_rows,
    ".tsv": csv_rows,
    ".jsonl": json_rows,
    ".json": json_rows,
    ".spacy": docbin_rows,
}
DATASETS = (PARQUET, *TABLES, *CONLL)


def read_file(path: Path, broken: dict[int, str] | None = None, options: FileOptions = AS_USUAL) -> Dataset:
    """
    Reads a file in the format given by its suffix:

    - `.parquet`;
    - `.csv`, `.tsv`: with a header; all cells are text, and empty cells are missing values. In TSV, quotation marks
      are part of the text;
    - `.jsonl`: one JSON object per line; `.json`: a list of objects. Exports of annotation tools become plain rows,
      see [`~mtsbert.formats.annotations.plain_row`];
    - `.spacy`: a `DocBin`, with the columns `text`, `entities` and `cats`;
    - `.bio`, `.conll`: one word and its tag per line (first and last column, separated by tabs or spaces), with empty
      lines between texts. The columns are `tokens` and `tags`. Lines that begin with `#` are not comments.

    Args:
        path (`Path`): The file.
        broken (`dict[int, str]`, *optional*): If given, rows that cannot be read are left empty and added here with
            the reason. Otherwise the first such row is an error. A file that cannot be read at all is always an error.
        options ([`FileOptions`], *optional*): How the file is written, where its format leaves that open.
    """

    def refuse(row: int, reason: str) -> None:
        if broken is None:
            raise ValueError(reason)
        broken.setdefault(row, reason)

    if path.suffix not in DATASETS:
        raise _unknown(path, DATASETS)
    if not path.is_file():
        raise ValueError(f"{path}: no such file.")
    options.check(path)
    try:
        rows = _read(path, options, refuse)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None
    if broken and len(broken) >= len(rows):
        raise ValueError(f"No row of {path} can be read. The first: {broken[min(broken)]}")
    return rows


def _read(path: Path, options: FileOptions, refuse: Refuse) -> Dataset:
    if path.suffix == PARQUET:
        return read_parquet(path)
    if path.suffix in CONLL:
        return read_conll(path, options, refuse)
    return to_dataset(list(TABLES[path.suffix](path, options, refuse)), path, refuse)


def stream_rows(path: Path, options: FileOptions = AS_USUAL) -> Iterator[dict]:
    """
    Reads a file row by row, with constant memory. Supports `.parquet`, `.csv`, `.tsv` and `.jsonl` like `read_file`,
    and `.txt` with one text per line, which becomes the column `text`.
    """
    if path.suffix not in STREAMS:
        raise _unknown(path, STREAMS)
    try:
        yield from STREAMS[path.suffix](path, options)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None


def _unknown(path: Path, known) -> ValueError:
    return ValueError(f"{path}: files are read as {', '.join(known)}; not {path.suffix or 'without a suffix'!r}.")


def _not_utf8(path: Path, error: UnicodeDecodeError) -> ValueError:
    return ValueError(f"{path} is not UTF-8 ({error}); convert it first.")
