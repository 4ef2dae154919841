"""Tests that planted mistakes are what they are said to be, and that an audit finds them."""

from itertools import pairwise

import numpy as np
import pytest

from mtsbert.auditing.encoder import load_encoder, read_tokens
from mtsbert.auditing.entities import LabelledEntities, doubts_of, judge, rank, read_entities
from mtsbert.auditing.planting import plant_entities, plant_labels
from tests.conftest import ROWS


TEXTS = [text for text, _, _ in ROWS]
ENTITIES = [[{"start": a, "end": b, "label": label} for a, b, label in spans] for _, _, spans in ROWS]
TYPES = ["GPE", "ORG", "PERSON"]


@pytest.fixture
def given() -> LabelledEntities:
    return LabelledEntities(np.arange(len(TEXTS)), TEXTS, ENTITIES, TYPES)


@pytest.mark.parametrize(("share", "number"), [(0.05, 50), (0.0333, 33), (0.5, 500)])
def test_planted_labels_are_wrong_and_no_other_is_touched(share, number):
    labels = np.arange(1_000) % 4
    wrong, planted = plant_labels(labels, 4, share)
    assert planted.sum() == number
    assert (wrong[planted] != labels[planted]).all()
    assert (wrong[~planted] == labels[~planted]).all()
    assert set(wrong) == {0, 1, 2, 3}
    assert labels.tolist() == (np.arange(1_000) % 4).tolist()


def test_planting_follows_from_the_seed():
    labels = np.arange(100) % 2
    assert (plant_labels(labels, 2, 0.1, seed=1)[1] == plant_labels(labels, 2, 0.1, seed=1)[1]).all()
    assert (plant_labels(labels, 2, 0.1, seed=1)[1] != plant_labels(labels, 2, 0.1, seed=2)[1]).any()


def test_one_mistake_of_each_kind_is_planted_and_nothing_else_touched():
    text, spans = TEXTS[0], ENTITIES[0]
    given = LabelledEntities(np.arange(100), [text] * 100, [spans] * 100, TYPES)
    wrong, planted = plant_entities(given, 0.4)
    assert planted.sum() == 40
    assert [row for row in range(100) if wrong.entities[row] != spans] == np.flatnonzero(planted).tolist()
    kinds = {"without": 0, "type": 0, "border": 0, "another": 0}
    for row in np.flatnonzero(planted):
        changed = wrong.entities[row]
        assert changed == sorted(changed, key=lambda span: span["start"])
        assert all(a["end"] <= b["start"] for a, b in pairwise(changed))
        places = [(span["start"], span["end"]) for span in changed]
        if len(changed) != 3:
            kinds["without" if len(changed) == 2 else "another"] += 1
        else:
            kinds["type" if places == [(s["start"], s["end"]) for s in spans] else "border"] += 1
    assert kinds["type"] == kinds["another"] == 10
    assert 5 <= kinds["border"] <= 10  # the last word of the text cannot be widened
    assert kinds["without"] + kinds["border"] == 20
    assert given.entities[0] == spans


@pytest.mark.parametrize(("end", "changed"), [(9, 3), (3, 9)])
def test_an_entity_of_two_words_loses_one_and_another_wins_one(end, changed):
    spans = [{"start": 0, "end": end, "label": "PERSON"}]
    given = LabelledEntities(np.arange(4), ["Ada Perez rests"] * 4, [spans] * 4, TYPES)
    wrong, _ = plant_entities(given, 1.0)
    assert [{"start": 0, "end": changed, "label": "PERSON"}] in wrong.entities


def test_planting_follows_from_the_seed_and_needs_entities(given):
    assert plant_entities(given, 0.5, seed=1)[0].entities == plant_entities(given, 0.5, seed=1)[0].entities
    assert plant_entities(given, 0.5, seed=1)[0].entities != plant_entities(given, 0.5, seed=2)[0].entities
    with pytest.raises(ValueError, match=r"0\.05 of 8 rows is no row"):
        plant_entities(given, 0.05)
    with pytest.raises(ValueError, match="8 rows should get a wrong entity, and 7 have one"):
        plant_entities(given, 0.99)


@pytest.mark.weights
@pytest.mark.real_data
@pytest.mark.slow
def test_mistakes_planted_in_tweets_are_found(minilm, real_data):
    given = read_entities(real_data / "ner_gold" / "wnut17" / "dev.bio", "tokens", "tags", num_folds=5)
    given = LabelledEntities(given.rows[:200], given.texts[:200], given.entities[:200], given.types)
    tokens = read_tokens(load_encoder(minilm), given.texts, precision="fp32")
    wrong, planted = plant_entities(given, 0.05)
    tags = wrong.tags(tokens)
    doubts = doubts_of(judge(tokens, tags, given.texts, num_types=6), tags, tokens.of_texts(len(given.texts)))
    assert planted[rank(doubts)[: planted.sum()]].mean() > 0.25  # by chance 0.05
