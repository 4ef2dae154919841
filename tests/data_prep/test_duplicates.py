"""Tests that copies and near copies are those that a comparison of all pairs of texts finds."""

from itertools import combinations
from random import Random

import numpy as np
import pytest

from data_prep.report import duplicates
from data_prep.report.duplicates import THRESHOLD, DuplicateFinder, word_sequences


def find(splits: list[list[str]]) -> duplicates.Duplicates:
    finder = DuplicateFinder(len(splits))
    for number, texts in enumerate(splits):
        for first in range(0, len(texts), 7):
            finder.add(texts[first : first + 7], number)
    return finder.find()


def similarity(one: str, other: str) -> float:
    one, other = set(word_sequences(one)), set(word_sequences(other))
    return len(one & other) / len(one | other)


@pytest.fixture
def splits() -> list[list[str]]:
    """Texts of few words, some with a word changed, some twice, some shorter than a word sequence."""
    random = Random(1)
    texts = [" ".join(random.choices("abcde", k=random.randint(1, 9))) for _ in range(150)]
    texts += [text.upper() + "!" for text in texts[:10]] + [f"x{text[1:]}" for text in texts[:40]] + texts[20:30]
    random.shuffle(texts)
    return [texts[:120], texts[120:160], texts[160:]]


def test_word_sequences_know_neither_case_nor_punctuation():
    assert word_sequences("Oil, at $49: a record!") == ["oil at 49", "at 49 a", "49 a record"]
    assert word_sequences("Oil up") == ["oil up"]
    assert word_sequences("!!") == ["!!"]


def test_the_pairs_are_those_that_comparing_every_two_texts_finds(splits, monkeypatch):
    monkeypatch.setattr(duplicates, "MOST_NEIGHBORS", 1_000)
    monkeypatch.setattr(duplicates, "PRODUCTS_PER_BLOCK", 100)
    found = find(splits)
    texts = [text for split in splits for text in split]
    distinct = [texts[row] for row in found.first_rows]
    assert [distinct[number] for number in found.distinct] == texts
    assert len(set(distinct)) == len(distinct)
    expected = {
        (one, other): similarity(distinct[one], distinct[other])
        for one, other in combinations(range(len(distinct)), 2)
        if similarity(distinct[one], distinct[other]) >= THRESHOLD
    }
    assert len(expected) > 20
    assert {tuple(pair) for pair in found.pairs.tolist()} == set(expected)
    assert [expected[tuple(pair)] for pair in found.pairs.tolist()] == pytest.approx(found.similarities.tolist())
    assert (np.diff(found.similarities) <= 0).all()
    assert all(found.groups[one] == found.groups[other] for one, other in expected)
    assert found.num_left_out == 0


def test_copies_are_counted_from_split_to_split(splits):
    found = find(splits)
    for one, texts in enumerate(splits):
        for other, others in enumerate(splits):
            same = near = 0
            for row, text in enumerate(texts):
                rest = others if one != other else others[:row] + others[row + 1 :]
                if text in rest:
                    same += 1
                elif any(similarity(text, candidate) >= THRESHOLD for candidate in rest):
                    near += 1
            assert (found.rows_with_copy[one, other], found.rows_with_near_copy[one, other]) == (same, near)
    assert found.rows_with_copy.all()
    assert found.rows_with_near_copy.all()


def test_only_the_nearest_texts_are_kept_but_all_are_counted(monkeypatch):
    texts = [f"one two three four five six seven {number}" for number in range(30)]
    monkeypatch.setattr(duplicates, "MOST_NEIGHBORS", 2)
    found = find([texts, texts[:1]])
    assert 30 <= len(found.pairs) <= 60
    assert found.rows_with_near_copy.tolist() == [[30, 29], [0, 0]]
    assert found.rows_with_copy.tolist() == [[0, 1], [1, 0]]


def test_texts_of_one_group_may_be_linked_by_others():
    words = [f"w{number}" for number in range(40)]
    chain = [" ".join(words[first : first + 20]) for first in (0, 4, 8, 12)]
    found = find([[*chain, "something else altogether"]])
    assert [0, 3] not in found.pairs.tolist()
    assert found.groups[:4].tolist() == [found.groups[0]] * 4
    assert found.groups[4] != found.groups[0]


def test_what_is_too_common_is_left_out_and_counted(monkeypatch):
    boilerplate = "Visit our site for details"
    texts = [f"{boilerplate} {number} a{number} b{number} c{number}" for number in range(50)]
    texts += ["Lima wins the final in Oslo", "Lima wins the final in Rome"]
    assert len(find([texts]).pairs) == 1
    monkeypatch.setattr(duplicates, "MOST_PRODUCTS", 1_000)
    found = find([texts])
    assert (found.most_texts, found.num_left_out) == (49, 3)
    assert found.pairs.tolist() == [[50, 51]]
    assert found.similarities.tolist() == pytest.approx([3 / 5])


def test_blocks_of_rows_are_of_about_the_same_work(monkeypatch):
    monkeypatch.setattr(duplicates, "PRODUCTS_PER_BLOCK", 5)
    assert duplicates.row_blocks(np.array([3, 3, 3, 9, 1])) == [(0, 1), (1, 3), (3, 5)]
    assert duplicates.row_blocks(np.zeros(4)) == [(0, 4)]


def test_without_any_pair_nothing_is_found():
    found = find([["Lima wins", "Oslo loses"]])
    assert found.pairs.shape == (0, 2)
    assert found.rows_with_near_copy.tolist() == [[0]]
    assert len(set(found.groups.tolist())) == 2
