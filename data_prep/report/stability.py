"""Measures whether a labeller labels names in two nearly identical texts in the same way."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from .agreement import LEFT_OPEN, NOT_LABELLED, NameFinder, Place, name_of, words_of
from .prepared import Row


SAME, OTHER_TYPE, ONE_NOT_LABELLED, OTHER_BORDERS = "same", "other type", "not labelled", "other borders"


class Mention(NamedTuple):
    verdict: str
    """Type, or `NOT_LABELLED`."""
    place: Place


class Contradiction(NamedTuple):
    """A name that is labelled differently in two nearly identical texts."""

    name: str
    mentions: tuple[Mention, Mention]


@dataclass
class Stability:
    counts: Counter = field(default_factory=Counter)
    """
    Number of names that occur in both texts of a pair, by kind: the `SAME` type in both, an `OTHER_TYPE`, labelled
    only in one (`ONE_NOT_LABELLED`), or labelled in one and part of a longer entity in the other (`OTHER_BORDERS`).
    """
    contradictions: dict[str, list[Contradiction]] = field(default_factory=lambda: defaultdict(list))
    """Contradictions of the kinds `OTHER_TYPE` and `ONE_NOT_LABELLED`."""


def compare_copies(pairs: Iterable[tuple[Row, Row]]) -> Stability:
    """
    Compares the labels of names in pairs of nearly identical texts. A name counts once per pair, and not if it was
    left open.
    """
    found = Stability()
    for pair in pairs:
        labelled = [_labelled(row) for row in pair]
        names = sorted(set().union(*labelled))
        finder = NameFinder(names)
        texts = [f" {' '.join(words_of(row.text))} " for row in pair]
        # A place without a label counts only if the name has no label anywhere in the text.
        mentions = [
            {
                **{name: Mention(verdict, Place(row.number, *place)) for name, verdict, *place in finder.find(row)},
                **of_row,
            }
            for row, of_row in zip(pair, labelled, strict=True)
        ]
        padded = {name: f" {' '.join(words_of(name))} " for name in names}
        shared = {name: words for name, words in padded.items() if all(words in of_row for of_row in texts)}
        for name, words in shared.items():
            of_pair = tuple(of_row.get(name) for of_row in mentions)
            kind = _compare(*of_pair)
            if kind == OTHER_BORDERS and any(words in longer for longer in shared.values() if longer != words):
                continue  # counted with the longer name, whose boundaries differ for the same reason
            if kind is not None:
                found.counts[kind] += 1
            if kind in (OTHER_TYPE, ONE_NOT_LABELLED):
                found.contradictions[kind].append(Contradiction(name, of_pair))
    return found


def _labelled(row: Row) -> dict[str, Mention]:
    """Maps each name to its first entity in a text."""
    mentions: dict[str, Mention] = {}
    for span in row.entities:
        if span["label"] is not None:
            mention = Mention(span["label"], Place(row.number, span["start"], span["end"]))
            mentions.setdefault(name_of(row, span), mention)
    return mentions


def _compare(one: Mention | None, other: Mention | None) -> str | None:
    if one is None or other is None:
        return OTHER_BORDERS
    verdicts = {one.verdict, other.verdict}
    if len(verdicts) == 1:
        return SAME
    if LEFT_OPEN in verdicts:
        return None
    return ONE_NOT_LABELLED if NOT_LABELLED in verdicts else OTHER_TYPE
