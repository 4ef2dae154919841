"""Reads rows of columns: CSV, TSV, JSON and plain text."""

import csv
import json
import logging
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset

from mtsbert.formats.annotations import asked_in, plain_row
from mtsbert.formats.options import AS_USUAL, FileOptions, Refuse, raise_error
from mtsbert.settings import unique_keys


csv.field_size_limit(sys.maxsize)  # texts may be longer than the csv module's default limit of 131,072 characters

OF_TOOLS = ('"annotations"', '"annotation_id"', '_hash"')  # in every row of Label Studio and Prodigy

logger = logging.getLogger(__name__)


def csv_rows(
    path: Path, options: FileOptions = AS_USUAL, refuse: Refuse = raise_error
) -> Iterator[dict[str, str | None]]:
    """Yields the rows of a CSV or TSV file: column → cell, None where it is empty."""
    delimiter = "\t" if path.suffix == ".tsv" else ","
    is_quoted = options.quoting if options.quoting is not None else path.suffix == ".csv"
    with path.open(encoding="utf-8-sig", newline="" if is_quoted else "\n") as lines:
        rows = _quoted(lines, path, delimiter) if is_quoted else _unquoted(lines, path, delimiter)
        header = next(rows, [])
        if len(set(header)) != len(header):
            raise ValueError(f"{path} names a column twice in its header: {header}.")
        for row, cells in enumerate(_without_last_empty(rows)):
            if len(cells) != len(header):
                refuse(row, f"Row {row + 1} of {path} has {len(cells)} cells; the header has {len(header)}: {header}.")
                cells = [""] * len(header)
            yield {column: cell or None for column, cell in zip(header, cells, strict=True)}


def _without_last_empty(rows: Iterator[list[str]]) -> Iterator[list[str]]:
    """Leaves out empty lines at the end of a file, which are no rows."""
    empty: list[list[str]] = []
    for cells in rows:
        if cells:
            yield from empty
            empty.clear()
            yield cells
        else:
            empty.append(cells)


def _quoted(lines: Iterator[str], path: Path, delimiter: str) -> Iterator[list[str]]:
    taken: list[str] = []  # the lines of the current row

    def taking() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    reader = csv.reader(taking(), delimiter=delimiter, strict=True)
    width, suspicious = None, []
    try:
        for cells in reader:
            width = len(cells) if width is None else width
            # Every line would be a row by itself, so this may be a quotation mark that was never meant to open a cell.
            if len(taken) > 1 and width > 1 and all(line.count(delimiter) == width - 1 for line in taken):
                suspicious.append((reader.line_num - len(taken) + 1, reader.line_num))
            taken.clear()
            yield cells
    except csv.Error as error:  # a quotation mark is not closed, so the next row cannot be found
        raise ValueError(
            f"Line {reader.line_num} of {path} is not CSV: {error}. Where quotation marks are part of the texts, say "
            "`quoting: false`."
        ) from None
    if suspicious:
        first, last = suspicious[0]
        logger.warning(
            f"{path}: {len(suspicious):,} rows have several lines, each of which could be a row by itself (lines "
            f"{first} to {last}). If their quotation marks are part of the texts, say `quoting: false`."
        )


def _unquoted(lines: Iterator[str], path: Path, delimiter: str) -> Iterator[list[str]]:
    num_quoted = 0
    for line in lines:
        line = line.removesuffix("\n").removesuffix("\r")
        cells = line.split(delimiter) if line else []
        num_quoted += any(len(cell) > 1 and cell[0] == cell[-1] == '"' and '""' in cell[1:-1] for cell in cells)
        yield cells
    if num_quoted:
        logger.warning(
            f"{path}: {num_quoted:,} rows have a cell in quotation marks with doubled ones in it, which are read as "
            "part of the text. If the file was written with quoting, as by pandas, say `quoting: true`."
        )


def json_rows(path: Path, options: FileOptions = AS_USUAL, refuse: Refuse = raise_error) -> Iterator[dict]:
    """Yields the rows of a JSONL file, or of a JSON file with a list of objects; see `plain_row`."""
    if path.suffix == ".json":
        found: Iterable[tuple[str, Any]] = list(_json_list(path))
        asked = asked_in(value for _, value in found)
    else:
        found = _json_lines(path, refuse)
        of_tools = _json_lines(path, lambda row, reason: None, containing=OF_TOOLS)  # others refuse what is wrong
        asked = asked_in(value for _, value in of_tools)
    for row, (where, value) in enumerate(found):
        columns: Any = {}
        try:
            columns = plain_row(value, asked)
        except ValueError as error:
            refuse(row, f"{where} of {path}: {error}")
        if not isinstance(columns, dict):
            refuse(row, f"{where} of {path} is not an object of columns: {json.dumps(columns)[:80]}")
            columns = {}
        yield columns


def _json_list(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise
        raise ValueError(
            f"{path} is not JSON: {error}. A file with an object in each line is called .jsonl."
        ) from None
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds {type(rows).__name__}; a .json file holds a list of objects.")
    for number, row in enumerate(rows, start=1):
        yield f"Entry {number}", row


def _json_lines(path: Path, refuse: Refuse, containing: Sequence[str] = ("",)) -> Iterator[tuple[str, Any]]:
    """Yields place and value of each line that is not empty and has one of these strings in it."""
    row = -1
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip() or not any(part in line for part in containing):
                continue
            row += 1
            value: Any = {}
            try:
                value = json.loads(line, object_pairs_hook=unique_keys)
            except json.JSONDecodeError as error:
                refuse(row, f"Line {number} of {path} is not JSON: {error}.")
            except RecursionError:
                refuse(row, f"Line {number} of {path} is nested too deeply.")
            except ValueError as error:
                refuse(row, f"Line {number} of {path}: {error}")
            yield f"Line {number}", value


def text_rows(path: Path, options: FileOptions = AS_USUAL, refuse: Refuse = raise_error) -> Iterator[dict]:
    """Yields one text per line, as the column `text`."""
    with path.open(encoding="utf-8-sig", newline="\n") as lines:
        for line in lines:
            yield {"text": line.removesuffix("\n").removesuffix("\r")}


def to_dataset(rows: list[dict], path: Path, refuse: Refuse) -> Dataset:
    """Turns rows into a dataset. A row whose value has another type than its column is refused."""
    names = list(dict.fromkeys(column for row in rows for column in row))
    if (name := next(filter(lambda name: "\0" in name, _names_in(rows)), None)) is not None:
        raise ValueError(f"{path} has a name with a NUL character in it: {name!r}. Arrow would cut it off there.")
    columns = {name: _without_nan([row.get(name) for row in rows]) for name in names}
    for name, values in columns.items():
        for row in _entities_without_label(values):
            refuse(row, f"Row {row + 1} of {path} has an entity without 'label' in {name!r}, where others have one.")
            for others in columns.values():
                others[row] = None
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


def _entities_without_label(values: list) -> list[int]:
    """Rows of a column of entities that have one without the key `label`, though others have it: Arrow adds a null."""
    entities = {
        row: [part for part in value if isinstance(part, dict) and {"start", "end"} <= set(part)]
        for row, value in enumerate(values)
        if isinstance(value, list)
    }
    if not any("label" in part for parts in entities.values() for part in parts):
        return []
    return [row for row, parts in entities.items() if not all("label" in part for part in parts)]


def _names_in(value: Any) -> Iterator[str]:
    """Yields the names of all columns, and of what is nested in them."""
    if isinstance(value, dict):
        yield from value
        value = value.values()
    elif not isinstance(value, list):
        return
    for part in value:
        if isinstance(part, (dict, list)):
            yield from _names_in(part)


def _without_nan(values: list) -> list:
    """Replaces NaN by None in a column of anything but numbers: pandas writes missing values so."""
    missing = [isinstance(value, float) and math.isnan(value) for value in values]
    if not any(missing) or all(value is None or type(value) in (int, float) for value in values):
        return values
    return [None if is_missing else value for value, is_missing in zip(values, missing, strict=True)]


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
