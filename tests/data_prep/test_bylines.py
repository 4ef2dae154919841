"""Senders of news: found where they stand, and nothing of the text lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.bylines import segments_of


@pytest.mark.parametrize(
    ("parts", "segments"),
    [
        (
            ["Oil Up (AP)", "AP - Oil rose."],
            [[(0, "Oil Up", None), (7, "(AP)", "AP")], [(0, "AP -", "AP"), (5, "Oil rose.", None)]],
        ),
        (["Oil Up", "AP - Oil rose."], [[(0, "Oil Up", None)], [(0, "AP - Oil rose.", None)]]),
        (["Oil Up (AP)", "Oil rose."], [[(0, "Oil Up (AP)", None)], [(0, "Oil rose.", None)]]),
        (["Oil Up (AP)"], [[(0, "Oil Up (AP)", None)]]),
        (
            ["Oil Up", "LONDON, Ont. (Reuters) - Oil rose."],
            [[(0, "Oil Up", None)], [(0, "LONDON, Ont. (Reuters) -", "Reuters"), (25, "Oil rose.", None)]],
        ),
        (["OSLO (CBS.MW)-- Oil rose."], [[(0, "OSLO (CBS.MW)--", "CBS.MW"), (16, "Oil rose.", None)]]),
        (["Sony Marketing (Japan) said so - twice."], [[(0, "Sony Marketing (Japan) said so - twice.", None)]]),
        (["OSLO (AP) - "], [[(0, "OSLO (AP) -", "AP")]]),
        ([], []),
    ],
)
def test_the_sender_is_a_segment_of_its_own(parts, segments):
    found = [
        [(segment.start, segment.text, segment.sender and segment.text[slice(*segment.sender)]) for segment in part]
        for part in segments_of(parts)
    ]
    assert found == segments


@given(st.lists(st.text(alphabet="Ab ()-.", min_size=1, max_size=40), max_size=3))
def test_segments_are_the_text_but_for_blanks(parts):
    for part, segments in zip(parts, segments_of(parts), strict=True):
        rest = list(part)
        for segment in segments:
            end = segment.start + len(segment.text)
            assert part[segment.start : end] == segment.text
            assert rest[segment.start : end] == list(segment.text)
            rest[segment.start : end] = " " * len(segment.text)
        assert not "".join(rest).strip()
        assert [segment.start for segment in segments] == sorted(segment.start for segment in segments)
