"""Tests with fourteen thousand valid and broken files that each is read correctly, or rejected with a clear error."""

import itertools

import pytest
from hypothesis import HealthCheck, given, settings

from mtsbert.recipe import build_parser
from tests.fuzz.checks import check_changed, check_changed_recipe, check_written, check_written_recipe
from tests.fuzz.inputs import FILES, changed


SUFFIXES = [".csv", ".tsv", ".json", ".jsonl", ".bio", ".parquet"]
NUM_INPUTS = 400  # of each kind below and each format

numbers = itertools.count()  # datasets takes files of one name for one file
fuzz = settings(
    max_examples=NUM_INPUTS,
    deadline=None,  # the watchdog of `outcome_of` knows hangs
    derandomize=True,  # the same inputs each time; `benchmarks/faults/fuzz.py` tries others
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_written_file_is_read_as_it_was_written(folder, suffix):
    @fuzz
    @given(FILES[suffix])
    def check(file):
        check_written(file, folder / f"{next(numbers)}{suffix}")

    check()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_changed_file_is_read_as_another_reader_does_or_refused(folder, suffix):
    @fuzz
    @given(changed(suffix))
    def check(data):
        check_changed(data, folder / f"{next(numbers)}{suffix}")

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
