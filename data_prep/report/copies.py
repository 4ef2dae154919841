"""Compares the labels of rows whose texts are the same or nearly the same, and selects examples."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np

from .duplicates import Duplicates
from .prepared import PreparedDataset, Row


PAIRS_SHOWN = 6
GROUPS_SHOWN = 5
MOST_COPIES_COMPARED = 5_000  # pairs; all their rows are in memory


class Pair(NamedTuple):
    one: int
    other: int
    similarity: float


@dataclass(frozen=True)
class LabelConflicts:
    """Copies with different labels, for one label column."""

    copied: int
    """Number of distinct texts that occur in several rows."""
    copied_differently: int
    """Number of these texts whose rows do not all have the same label."""
    near: int
    """Number of pairs of distinct texts that are nearly the same."""
    near_differently: int
    """Number of these pairs whose labels differ."""
    mixed: dict[tuple[str, str], int]
    """Two labels, sorted → number of near-identical pairs with these labels."""
    pairs: list[Pair]
    """Examples of pairs with different labels, most similar first."""


@dataclass(frozen=True)
class Group:
    """A group of texts that are nearly the same, directly or through other texts."""

    num_rows: int
    num_distinct: int
    rows: tuple[int, ...]
    """Up to two of the rows, with different texts."""


def label_conflicts(labels: list[str | None], duplicates: Duplicates) -> LabelConflicts:
    """Compares the labels of copies. `labels` contains the label of every row, or None."""
    pairs: list[Pair] = []
    mixed: Counter = Counter()
    copied = near = differently = near_differently = 0
    by_text = np.argsort(duplicates.distinct, kind="stable").tolist()
    for _, rows in groupby(by_text, key=lambda row: duplicates.distinct[row]):
        one, *others = [row for row in rows if labels[row] is not None] or [None]
        if others:
            copied += 1
            if (other := next((row for row in others if labels[row] != labels[one]), None)) is not None:
                differently += 1
                pairs.append(Pair(one, other, 1.0))
    for pair in _pairs_of_rows(duplicates):
        if labels[pair.one] is not None and labels[pair.other] is not None:
            near += 1
            if labels[pair.one] != labels[pair.other]:
                near_differently += 1
                mixed[tuple(sorted((labels[pair.one], labels[pair.other])))] += 1
                pairs.append(pair)
    return LabelConflicts(copied, differently, near, near_differently, mixed, pairs[:PAIRS_SHOWN])


def _pairs_of_rows(duplicates: Duplicates) -> Iterator[Pair]:
    """Yields the pairs of nearly identical texts, each represented by its first row, most similar first."""
    rows = duplicates.first_rows[duplicates.pairs].tolist()
    return (Pair(*pair, similarity) for pair, similarity in zip(rows, duplicates.similarities.tolist(), strict=True))


def pairs_between_splits(dataset: PreparedDataset, duplicates: Duplicates) -> list[Pair]:
    """Selects examples of nearly identical texts in different splits, spread from most to least similar."""
    splits = dataset.splits_of_rows()
    pairs = [pair for pair in _pairs_of_rows(duplicates) if splits[pair.one] != splits[pair.other]]
    shown = np.linspace(0, len(pairs) - 1, min(PAIRS_SHOWN, len(pairs))).round().astype(int)
    return [pairs[place] for place in shown]


def largest_groups(duplicates: Duplicates) -> list[Group]:
    """Returns the largest groups with at least three rows."""
    groups = duplicates.groups[duplicates.distinct]  # the group of each row
    num_rows = np.bincount(groups)
    found = []
    for group in np.argsort(-num_rows, kind="stable")[:GROUPS_SHOWN]:
        texts = np.flatnonzero(duplicates.groups == group)
        if num_rows[group] > 2:
            rows = tuple(duplicates.first_rows[texts[:2]].tolist())
            found.append(Group(int(num_rows[group]), len(texts), rows))
    return found


def separate_pairs(dataset: PreparedDataset, duplicates: Duplicates) -> Iterator[tuple[Row, Row]]:
    """Yields pairs of nearly identical texts, most similar first, with each text in at most one pair."""
    used: set[int] = set()
    chosen: list[tuple[int, int]] = []
    for one, other, _ in _pairs_of_rows(duplicates):
        if used.isdisjoint((one, other)):
            used.update((one, other))
            chosen.append((one, other))
        if len(chosen) == MOST_COPIES_COMPARED:
            break
    rows = dataset.select(used)
    return ((rows[one], rows[other]) for one, other in chosen)
