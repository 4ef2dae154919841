"""Tests that the embedded news sample is as its own README says."""

import json
import re
from collections import Counter

import pytest

from data_prep.sources import SAMPLE_FILE, SENTIMENTS, SPLITS, TOPICS


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    with SAMPLE_FILE.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def shingles(row: dict) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", f"{row['title']} {row['description']}".lower())
    return {tuple(words[start : start + 4]) for start in range(len(words) - 3)}


def test_there_are_800_items_with_all_fields(rows):
    assert len(rows) == 800
    assert all(list(row) == ["title", "description", "topic", "sentiment", "split"] for row in rows)
    assert all(3 <= len(row["title"].split()) <= 13 for row in rows)
    assert all(15 <= len(row["description"].split()) <= 50 for row in rows)


def test_topics_and_sentiments_are_even_in_every_split(rows):
    assert Counter(row["topic"] for row in rows) == dict.fromkeys(TOPICS, 200)
    for split in SPLITS:
        of_split = [row for row in rows if row["split"] == split]
        for key, labels in (("topic", TOPICS), ("sentiment", SENTIMENTS)):
            counts = Counter(row[key] for row in of_split)
            assert set(counts) == set(labels)
            assert max(counts.values()) - min(counts.values()) <= 0.1 * len(of_split)


def test_no_two_items_are_alike(rows):
    """Two items share at most two runs of four words: no copies, no filled-in templates."""
    seen: dict[tuple[str, ...], list[int]] = {}
    shared: Counter = Counter()
    for index, row in enumerate(rows):
        for shingle in shingles(row):
            for other in seen.setdefault(shingle, []):
                shared[other, index] += 1
            seen[shingle].append(index)
    assert max(shared.values()) <= 3
    assert sum(count == 3 for count in shared.values()) <= 1
    assert len({row["title"] for row in rows}) == 800


@pytest.mark.spacy_model
def test_items_are_rich_in_entities(rows):
    from data_prep.labelling import EntityLabeller

    labeller = EntityLabeller("en_core_web_sm")
    labelled = labeller.label([row["description"] for row in rows])
    counts = Counter(span["label"] for text in labelled for span in text.entities)
    assert sum(counts.values()) / len(rows) > 4
    assert all(counts[name] > 200 for name in ("PERSON", "ORG", "GPE", "DATE", "CARDINAL"))
    assert all(counts[name] > 50 for name in ("MONEY", "PERCENT", "NORP"))
