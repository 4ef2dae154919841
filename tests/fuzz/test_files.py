"""Tests that each of 1,400 valid and broken files is read correctly, or rejected with a clear error."""

import pytest
from hypothesis import given

from mtsbert.recipe import build_parser
from tests.fuzz.checks import check_changed, check_changed_recipe, check_written, check_written_recipe
from tests.fuzz.conftest import fuzz
from tests.fuzz.inputs import FILES, changed


SUFFIXES = [".csv", ".tsv", ".json", ".jsonl", ".bio", ".parquet"]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_written_file_is_read_as_it_was_written(path_of, suffix):
    @fuzz
    @given(FILES[suffix])
    def check(file):
        check_written(file, path_of(suffix))

    check()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_changed_file_is_read_as_another_reader_does_or_refused(path_of, suffix):
    @fuzz
    @given(changed(suffix))
    def check(data):
        check_changed(data, path_of(suffix))

    check()


@pytest.mark.slow
def test_the_values_of_a_recipe_arrive(folder):
    parser = build_parser()

    @fuzz
    @given(FILES[".yaml"])
    def check(file):
        check_written_recipe(file, folder / "recipe.yaml", parser)

    check()


@pytest.mark.slow
def test_a_changed_recipe_says_what_it_says_or_is_refused(folder):
    parser = build_parser()

    @fuzz
    @given(changed(".yaml"))
    def check(data):
        check_changed_recipe(data, folder / "recipe.yaml", parser)

    check()
