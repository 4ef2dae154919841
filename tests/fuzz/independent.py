"""Independent, simple readers for the same files. They return None if they cannot tell what is right."""

import json
import math
import re
from pathlib import Path

import pyarrow.parquet as pq


START, PLAIN, QUOTED, CLOSED = "start", "plain", "quoted", "closed"


def tsv_rows(data: bytes) -> list[dict] | None:
    """Lines that end with a line feed, and cells between tabs."""
    try:
        lines = data.decode("utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        return None
    header, *rows = [line.removesuffix("\r").split("\t") if line.removesuffix("\r") else [] for line in lines]
    rows = without_last_empty(rows)
    if len(set(header)) != len(header) or any(len(row) != len(header) for row in rows):
        return None
    return [{column: cell or None for column, cell in zip(header, row, strict=True)} for row in rows] if header else []


def without_last_empty(rows: list[list[str]]) -> list[list[str]]:
    while rows and not rows[-1]:
        rows = rows[:-1]
    return rows


def csv_rows(data: bytes) -> list[dict] | None:
    """RFC 4180 as a machine of states, with any line end. None where a quotation mark stands wrongly."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    if not text.endswith(("\n", "\r")) and text:
        text += "\n"
    lines: list[list[str]] = []
    cells: list[str] = []
    cell, state = "", START
    for before, char in zip(" " + text, text, strict=False):
        if state == QUOTED:
            cell, state = (cell, CLOSED) if char == '"' else (cell + char, QUOTED)
        elif state == CLOSED and char == '"':
            cell, state = cell + char, QUOTED
        elif char == ",":
            cells, cell, state = [*cells, cell], "", START
        elif char in "\r\n":
            if not (before == "\r" and char == "\n"):
                lines.append([*cells, cell] if cells or state != START else [])
            cells, cell, state = [], "", START
        elif state == CLOSED:
            return None
        elif state == START and char == '"':
            state = QUOTED
        else:
            cell, state = cell + char, PLAIN
    if state == QUOTED:
        return None
    header, *rows = lines or [[]]
    rows = without_last_empty(rows)
    if len(set(header)) != len(header) or any(len(row) != len(header) for row in rows):
        return None
    if not header:
        return []  # blank lines
    return [{column: cell or None for column, cell in zip(header, row, strict=True)} for row in rows]


def json_rows(data: bytes, *, is_list: bool = False) -> list[dict] | None:
    def each_key_once(pairs: list[tuple]) -> dict:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError(pairs)
        return dict(pairs)

    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        if is_list:
            rows = json.loads(text, object_pairs_hook=each_key_once)
        else:
            rows = [json.loads(line, object_pairs_hook=each_key_once) for line in text.split("\n") if line.strip()]
    except (ValueError, RecursionError):
        return None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return None
    return rows if any(rows) else []  # rows without a column are none


def bio_texts(data: bytes) -> list[dict] | None:
    """Blocks between blank lines; the first and the last of the columns."""
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        return None
    texts: list[list[list[str]]] = [[]]
    for line in text.split("\n"):
        columns = line.split("\t") if "\t" in line else re.findall("[^ ]+", line)
        if not line.strip() or columns[0] == "-DOCSTART-":
            texts.append([])
        elif len(columns) < 2 or columns[0] == "":
            return None
        else:
            texts[-1].append(columns)
    return [
        {"tokens": [word for word, *_ in block], "tags": [rest[-1].strip() for _, *rest in block]}
        for block in texts
        if block
    ]


def parquet_rows(path: Path) -> list[dict] | None:
    try:
        return pq.ParquetFile(path).read().to_pylist()
    except Exception:
        return None


def spans_of(words: list[str], tags: list[str]) -> list[tuple[str, str]] | None:
    """The entities of BIO tags as their words and their type."""
    if not all(re.fullmatch("O|[BI]-.+", tag, re.DOTALL) for tag in tags):
        return None
    found: list[tuple[str, str]] = []
    previous = "O"
    for word, tag in zip(words, tags, strict=True):
        if tag[0] == "B":
            found.append((word, tag[2:]))
        elif tag[0] == "I":
            if previous[2:] != tag[2:] or previous == "O":
                return None
            found[-1] = (f"{found[-1][0]} {word}", tag[2:])
        previous = tag
    return found


def same(found, expected) -> bool:
    """
    Whether a value went through Arrow unchanged: there a missing key is a missing value, and 1 may become 1.0. NaN in
    a column of anything but numbers is a missing value as well.
    """
    if isinstance(found, dict) and isinstance(expected, dict):
        return set(expected) <= set(found) and all(same(found[key], expected.get(key)) for key in found)
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(found, bool) or isinstance(expected, bool):
        return found is expected
    if isinstance(expected, float) and math.isnan(expected):
        return found is None or (isinstance(found, float) and math.isnan(found))
    return found == expected
