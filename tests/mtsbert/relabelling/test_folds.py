"""Tests that no model of a fold has learned what it is asked about."""

import random
import re
from itertools import pairwise

import pytest

from mtsbert.relabelling.folds import Folds, fold_of, key_of


NAMES = ["Oslo", "the Alps", "Nimbus Labs", "Ada Perez", "Lima's", "New York", "Bern"]


def span(text: str, name: str, label: str | None = "X") -> dict:
    start = text.index(name)
    return {"start": start, "end": start + len(name), "label": label}


@pytest.mark.parametrize(
    ("entity", "key"),
    [
        ("The  Alps's", "alps"),
        ("OSLO", "oslo"),
        ("New\nYork", "new york"),
        ("A", ""),
        ("É", "é"),
        ("U.S.", "u.s"),
        ("$5 %", "5"),
        ("Yahoo!", "yahoo"),
        ("Rock'n'Roll", "rock'n'roll"),
    ],
)
def test_what_makes_two_entities_the_same(entity, key):
    assert key_of(entity) == key


def texts_and_entities() -> tuple[list[str], list[list[dict]]]:
    generator = random.Random(0)
    texts, entities = [], []
    for number in range(300):
        names = generator.sample(NAMES, 3)
        texts.append(f"{number}: {names[0]} met {names[1]}, and {names[2]} came.")
        entities.append([span(texts[-1], name) for name in names[:2]])  # the third is never labelled
    return texts, entities


def test_a_model_is_shown_none_of_its_entities_and_none_of_its_texts():
    texts, entities = texts_and_entities()
    folds = Folds(texts, entities, 3)
    assert {key for keys in folds.keys for key in keys} == {key_of(name) for name in NAMES}
    for fold in range(3):
        shown = [(t, folds.opened(t, s, fold)) for t, s in zip(texts, entities, strict=True) if fold_of(t, 3) != fold]
        assert 150 < len(shown) < 250
        for text, spans in shown:
            learned = {key_of(text[s["start"] : s["end"]]) for s in spans if s["label"] is not None}
            assert not learned & folds.keys[fold]
            for name in NAMES:  # also where nobody labelled it
                for match in re.finditer(re.escape(name.removeprefix("the ").removesuffix("'s")), text):
                    if key_of(name) in folds.keys[fold]:
                        assert any(
                            s["label"] is None and s["start"] <= match.start() and match.end() <= s["end"]
                            for s in spans
                        )
            assert all(one["end"] <= other["start"] for one, other in pairwise(spans))


def test_entities_of_other_folds_stay_as_they_are():
    texts, entities = texts_and_entities()
    folds = Folds(texts, entities, 3)
    for text, spans in zip(texts, entities, strict=True):
        for fold in range(3):
            kept = [s for s in folds.opened(text, spans, fold) if s["label"] is not None]
            assert kept == [s for s in sorted(spans, key=lambda s: s["start"]) if folds.fold_of_span(text, s) != fold]


@pytest.mark.parametrize("name", ["U.S.", "$5", "5%", "Yahoo!", "Inc."])
def test_occurrences_of_names_with_marks_at_their_ends_are_left_open(name):
    text = f"In the {name} today"
    folds = Folds([text], [[span(text, name)]], 2)
    fold = folds.fold_of_span(text, span(text, name))
    (found,) = folds.opened(text, [], fold)
    assert found["label"] is None
    assert text[found["start"] : found["end"]].strip("$%!.") == name.strip("$%!.")


@pytest.mark.parametrize("name", ["İzmir", "İzmir Körfezi", "Yeni İzmir", "Καΐρης"])
def test_occurrences_of_names_whose_small_letters_are_several_characters_are_left_open(name):
    folds = Folds([name], [[span(name, name)]], 2)
    text = f"Yesterday {name} won"
    fold = folds.fold_of_span(name, span(name, name))
    assert folds.opened(text, [], fold) == [{"start": 10, "end": 10 + len(name), "label": None}]
    assert folds.opened(text, [], 1 - fold) == []


def test_an_entity_of_which_nothing_is_left_opens_no_articles():
    folds = Folds(["A wins the race"], [[span("A wins the race", "A")]], 2)
    assert folds.opened("the a an", [], 0) == folds.opened("the a an", [], 1) == []


@pytest.mark.parametrize("number", range(4))
def test_each_model_is_asked_only_about_what_it_has_not_learned(number):
    text = f"{number}: Oslo met Bern, and Lima came."
    given = [span(text, "Oslo"), span(text, "Bern")]
    folds = Folds([text], [given], 2)
    of_oslo, of_bern = (folds.fold_of_span(text, one) for one in given)
    of_text = fold_of(text, 2)
    nothing, oslo, bern = [[] for _ in range(2)], *([[], []] for _ in range(2))
    oslo[of_oslo] = [{**given[0], "score": 0.9}]
    bern[1 - of_bern] = [{**given[1], "score": 0.9}]  # by the model that has learned it
    other = [[], []]
    other[of_text] = [span(text, "Lima")]
    assert folds.found(text, given, nothing) == []
    assert folds.found(text, given, oslo) == [given[0]]
    assert folds.found(text, given, bern) == []  # whether or not that model has seen the text
    assert folds.found(text, given, other) == [span(text, "Lima")]
    other[of_text], other[1 - of_text] = [], [span(text, "Lima")]  # by the model that has seen the text
    assert folds.found(text, given, other) == []


def test_the_texts_above_are_in_both_folds():
    assert {fold_of(f"{number}: Oslo met Bern, and Lima came.", 2) for number in range(4)} == {0, 1}


def test_folds_are_the_same_in_every_process():
    assert [fold_of(name, 5) for name in ("oslo", "bern", "lima", "é", "\ud800")] == [
        fold_of(name, 5) for name in ("oslo", "bern", "lima", "é", "\ud800")
    ]
    assert fold_of("oslo", 5) == 4  # crc32, written down
