"""Tests rewriting headlines in sentence case."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.headlines import Truecaser, is_headline


@pytest.fixture(scope="module")
def truecaser() -> Truecaser:
    return Truecaser(
        [
            "The price of oil climbs, and it was to gain more; us all hit by that.",
            "In Oslo the bank of Nimbus said that Apple had no apple to gain. Gain was the word.",
            "Prices Climb As Nimbus Hits Apple With Oslo Bank",
        ]
    )


@pytest.mark.parametrize(
    ("headline", "sentence"),
    [
        ("Nimbus Climbs To Gain More", "Nimbus climbs to gain more"),
        ("Gain Climbs In Oslo", "Gain climbs In Oslo"),  # 'in' was only seen where a sentence begins
        ("Bank Climbs: US Hit By NIMBUS", "Bank climbs: US hit by NIMBUS"),
        ("Nimbus climbs to gain more", "Nimbus climbs to gain more"),
        ("Nimbus Climbs in Oslo", "Nimbus climbs in Oslo"),
        ("Oslo Climbs", "Oslo Climbs"),  # too short to tell
        ("", ""),
    ],
)
def test_words_that_are_small_within_sentences_become_small(truecaser, headline, sentence):
    assert truecaser(headline) == sentence


def test_what_sentences_write_both_ways_stays(truecaser):
    assert truecaser("Prices Climb With Apple Gain") == "Prices Climb With Apple gain"


def test_headlines_teach_nothing():
    assert Truecaser(["Nimbus Hits Oslo Bank With Apple"])("Bank Hits Apple With Nimbus") == (
        "Bank Hits Apple With Nimbus"
    )


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Nimbus Hits Oslo Bank With Apple", True),
        ("Nimbus Hits Oslo", True),
        ("Nimbus hits Oslo Bank With Apple", False),
        ("Nimbus hits the bank of Oslo", False),
        ("Oslo Bank", False),
        ("", False),
    ],
)
def test_a_headline_is_known_by_its_capitals(text, answer):
    assert is_headline(text) is answer


@given(st.text(max_size=80), st.text(max_size=80))
def test_a_text_keeps_its_length_and_its_letters(learned, text):
    written = Truecaser([learned])(text)
    assert len(written) == len(text)
    assert written.lower() == text.lower()
