"""Reads an input of a format with our code and compares the result with the truth. Each check returns the outcome."""

from functools import partial
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from mtsbert.formats.files import read_file
from mtsbert.recipe import build_arguments, recipe_flags
from tests.fuzz.independent import bio_texts, csv_rows, json_rows, parquet_rows, same, tsv_rows
from tests.fuzz.inputs import Written
from tests.fuzz.outcome import Refused, outcome_of


READ, REFUSED = "read", "refused"


def read(path: Path) -> list[dict] | Refused:
    return outcome_of(lambda: read_file(path).to_list(), names=path.name)


def rows_of(path: Path) -> list[dict] | None:
    """What an independent reading finds."""
    data = path.read_bytes()
    readers = {
        ".csv": csv_rows,
        ".tsv": tsv_rows,
        ".json": partial(json_rows, is_list=True),
        ".jsonl": json_rows,
        ".bio": bio_texts,
        ".parquet": lambda _: parquet_rows(path),
    }
    return readers[path.suffix](data)


def check_written(file: Written, path: Path) -> str:
    """What the standard writer of a format wrote is read, and is the same."""
    path.write_bytes(file.data)
    found = read(path)
    assert not isinstance(found, Refused), found
    present = [row for row in file.rows if path.suffix not in (".json", ".jsonl") or any(file.rows)]
    assert same(found, present), (found, file.rows)
    return READ


def check_changed(data: bytes, path: Path) -> str:
    """What is read, an independent reader reads as well; what is refused may be right or wrong."""
    path.write_bytes(data)
    found = read(path)
    if isinstance(found, Refused):
        return REFUSED
    expected = rows_of(path)
    if not found and expected is None:  # a dataset without rows is refused when it is opened
        return REFUSED
    assert expected is not None, f"an independent reader refuses what ours reads as {found}"
    assert same(found, expected), (found, expected)
    return READ


def check_export(file: Written, path: Path) -> str:
    """What an annotation tool wrote is read as it was meant."""
    path.write_bytes(file.data)
    found = read(path)
    assert not isinstance(found, Refused), found
    columns = {column for row in file.rows for column in row}
    expected = [{column: row.get(column) for column in columns} for row in file.rows]
    assert same([{column: row.get(column) for column in columns} for row in found], expected), (found, expected)
    return READ


def check_broken_export(file: Written, path: Path) -> str:
    """What is broken is refused in our own words, or its whole rows are read."""
    path.write_bytes(file.data)
    found = read(path)
    assert isinstance(found, Refused) or len(found) <= len(file.rows)
    return REFUSED if isinstance(found, Refused) else READ


def arguments_of(path: Path, parser: HfArgumentParser):
    return outcome_of(lambda: build_arguments(parser, recipe_flags(path, parser)), names="")


def check_written_recipe(file: Written, path: Path, parser: HfArgumentParser) -> str:
    """Every value of a recipe arrives, of the right type."""
    path.write_bytes(file.data)
    found = arguments_of(path, parser)
    assert not isinstance(found, Refused), found
    (recipe,) = file.rows
    for key, value in recipe.items():
        (argument,) = (getattr(arguments, key) for arguments in found if hasattr(arguments, key))
        assert argument == value or (value == [] and argument is None), (key, argument, value)
    return READ


def check_changed_recipe(data: bytes, path: Path, parser: HfArgumentParser) -> str:
    """What is accepted is YAML, and its values say the same as text."""
    path.write_bytes(data)
    found = arguments_of(path, parser)
    if isinstance(found, Refused):
        return REFUSED
    for key, value in yaml.load(data.decode("utf-8-sig"), Loader=yaml.BaseLoader).items():
        (argument,) = (getattr(arguments, key) for arguments in found if hasattr(arguments, key))
        if isinstance(argument, str) and isinstance(value, str):
            assert argument == value or yaml.safe_load(value) != value, (key, argument, value)
        elif isinstance(argument, dict):
            assert set(argument) == set(value), (key, argument, value)
    return READ
