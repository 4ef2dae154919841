"""Tests that each of 2,600 exports of annotation tools is read as it was meant, or rejected with a clear error."""

import pytest
from hypothesis import given

from tests.fuzz.annotations import EXPORTS
from tests.fuzz.checks import check_broken_export, check_export
from tests.fuzz.conftest import fuzz


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPORTS)
def test_an_export_is_read_as_it_was_meant(path_of, kind):
    @fuzz
    @given(EXPORTS[kind][0])
    def check(file):
        check_export(file, path_of(kind))

    check()


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPORTS)
def test_an_export_that_is_broken_is_read_or_refused_in_our_own_words(path_of, kind):
    @fuzz
    @given(EXPORTS[kind][1])
    def check(file):
        check_broken_export(file, path_of(kind))

    check()
