"""Tests how the program that tries releases of transformers reports its findings."""

import math
import sys
from pathlib import Path

import pytest

from tests.releases.run import MARKS, Failed, Release, largest_difference, run, table, write_table


VERSIONS = {"transformers": "5.0.0", "huggingface_hub": "1.33.0", "tokenizers": "0.22.2"}


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        ({"a": [1.0, 2.0]}, {"a": [1.0, 2.5]}, 0.5),
        ({"a": "x"}, {"a": "x"}, 0.0),
        ({"a": "x"}, {"a": "y"}, math.inf),
        ({"a": 1.0}, {"b": 1.0}, math.inf),
        ([1.0], [1.0, 2.0], math.inf),
        ([1], [1.0], 0.0),
        ([None], [1.0], math.inf),
        ([math.nan], [1.0], math.inf),
        ([], [], 0.0),
    ],
)
def test_the_largest_difference_of_two_answers(one, other, difference):
    assert largest_difference(one, other) == difference


@pytest.mark.parametrize(
    ("changes", "works"),
    [
        ({}, True),
        ({"trains": "yes"}, True),
        ({"opens": "ImportError: no"}, False),
        ({"saves": "not tried"}, False),
        ({"trains": "its loss is nan"}, False),
    ],
)
def test_a_release_works_when_nothing_failed(changes, works):
    found = {"opens": "yes", "saves": "yes", "difference": 0.0, **changes}
    assert Release("5.0", Path("python"), VERSIONS, **found).works is works


def test_the_table_is_written_between_the_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS[0]}old\n{MARKS[1]}after\n")
    release = Release("5.0", Path("python"), VERSIONS, opens="yes", difference=2e-7, saves="yes")
    write_table(page, table([release]))
    written = page.read_text()
    assert written.startswith(f"before\n{MARKS[0]}| transformers |")
    assert "| 5.0.0 | 1.33.0 | 0.22.2 | yes | 2e-07 | yes | not supported |\n" in written
    assert written.endswith(f"{MARKS[1]}after\n")
    assert "old" not in written


def test_a_page_without_marks_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n")
    with pytest.raises(SystemExit, match=r"needs the lines .*each once"):
        write_table(page, "table")
    assert page.read_text() == "before\n"


def test_a_program_that_fails_is_quoted_by_its_last_line(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("raise ValueError('no such thing')\n")
    with pytest.raises(Failed, match=r"^ValueError: no such thing$"):
        run(Path(sys.executable), program, cwd=tmp_path)
