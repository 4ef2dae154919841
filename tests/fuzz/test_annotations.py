"""Tests that each of 3,800 exports of annotation tools is read as it was meant, or rejected with a clear error."""

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtsbert.formats.files import read_file
from tests.fuzz.annotations import TOOLS, as_file, docbins, exchanged, exports
from tests.fuzz.independent import same
from tests.fuzz.outcome import Refused, outcome_of


NUM_INPUTS = 300  # of each kind below and each tool

numbers = itertools.count()  # datasets takes files of one name for one file
fuzz = settings(
    max_examples=NUM_INPUTS,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


def read(folder, data: bytes, suffix: str) -> list[dict] | Refused:
    path = folder / f"{next(numbers)}{suffix}"
    path.write_bytes(data)
    return outcome_of(lambda: read_file(path).to_list(), names=path.name)


@pytest.mark.slow
@pytest.mark.parametrize("tool", TOOLS)
def test_an_export_is_read_as_it_was_meant(folder, tool):
    @fuzz
    @given(exports(tool), st.sampled_from([".json", ".jsonl"]))
    def check(export, suffix):
        rows, expected = export
        found = read(folder, as_file(rows, suffix), suffix)
        assert not isinstance(found, Refused), found
        columns = {column for row in expected for column in row}
        complete = [{column: row.get(column) for column in columns} for row in expected]
        assert same([{c: row.get(c) for c in columns} for row in found], complete), (found, expected)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("tool", TOOLS)
def test_an_export_that_is_broken_is_read_or_refused_in_our_own_words(folder, tool):
    @fuzz
    @given(exchanged(tool), st.sampled_from([".json", ".jsonl"]))
    def check(rows, suffix):
        found = read(folder, as_file(rows, suffix), suffix)
        assert isinstance(found, Refused) or len(found) <= len(rows)

    check()


@pytest.mark.slow
def test_a_docbin_is_read_as_it_was_meant_and_refused_where_it_is_broken(folder):
    @settings(fuzz, max_examples=100)  # spaCy takes its time
    @given(docbins(), st.data())
    def check(written, data):
        content, expected = written
        found = read(folder, content, ".spacy")
        assert not isinstance(found, Refused), found
        assert same(found, expected), (found, expected)
        at = data.draw(st.integers(0, len(content) - 1))
        broken = content[:at] + data.draw(st.binary(max_size=2)) + content[at + data.draw(st.integers(1, 8)) :]
        found = read(folder, broken, ".spacy")
        assert isinstance(found, Refused) or found is not None

    check()
