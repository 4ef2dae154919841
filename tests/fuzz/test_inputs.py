"""Tests that a derandomized test gets the same inputs in every process."""

import importlib.util
import sys

from hypothesis import given, settings
from hypothesis import strategies as st


def drawn() -> list[str]:
    found = []

    @settings(max_examples=200, derandomize=True, database=None)
    @given(st.text())
    def collect(text):
        found.append(text)

    collect()
    return found


def test_they_do_not_depend_on_what_is_imported(tmp_path, monkeypatch):
    before = drawn()
    (tmp_path / "strings_of_others.py").write_text("ALL = ['Lima hosts', 'Oslo beats', 'Ada wins', 'Geneva meets']\n")
    spec = importlib.util.spec_from_file_location("strings_of_others", tmp_path / "strings_of_others.py")
    monkeypatch.setitem(sys.modules, "strings_of_others", importlib.util.module_from_spec(spec))
    assert drawn() == before
