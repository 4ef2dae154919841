"""Measures whether a labeller is consistent: how it labelled the same name in different places."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from .prepared import Row


NOT_LABELLED = "(not labelled)"
LEFT_OPEN = "(left open)"
_WORD = re.compile(r"\w+|[^\w\s]")


def name_of(row: Row, span: dict) -> str:
    """Returns the text of an entity, with whitespace collapsed to single spaces."""
    return " ".join(row.text[span["start"] : span["end"]].split())


def words_of(text: str) -> list[str]:
    """Splits a text into words and punctuation marks, without whitespace."""
    return _WORD.findall(text)


def is_name(text: str) -> bool:
    """
    Whether a text looks like a name: it has an uppercase letter, or a letter of a script without case. The labels of
    "50" or "the season" depend on their context and cannot be compared.
    """
    return any(letter.isalpha() and not letter.islower() for letter in text)


class Place(NamedTuple):
    row: int
    start: int
    end: int


@dataclass
class Verdicts:
    """How a name was labelled: type, `NOT_LABELLED` or `LEFT_OPEN` → how often, and a random place."""

    counts: Counter = field(default_factory=Counter)
    places: dict[str, Place] = field(default_factory=dict)

    def add(self, verdict: str, place: Place, random: Random) -> None:
        self.counts[verdict] += 1
        if random.random() * self.counts[verdict] < 1:  # reservoir sampling: each place has the same probability
            self.places[verdict] = place

    @property
    def types(self) -> list[tuple[str, int]]:
        """Types with their counts, most common first."""
        return by_count({key: count for key, count in self.counts.items() if key not in (NOT_LABELLED, LEFT_OPEN)})

    @property
    def labelled(self) -> int:
        return sum(count for _, count in self.types)

    @property
    def against(self) -> int:
        """Number of labelled places with another type than the most common one."""
        return self.labelled - self.types[0][1]

    @property
    def undecided(self) -> int:
        """Number of labelled places, or of places without a label, whichever is smaller."""
        return min(self.labelled, self.counts[NOT_LABELLED])


def by_count(counts: dict[str, int]) -> list[tuple[str, int]]:
    """Sorts counts in descending order, and by name if they are equal."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def collect_verdicts(rows: Iterable[Row], names: Iterable[str], *, seed: int = 42) -> dict[str, Verdicts]:
    """
    Collects how these names are labelled wherever they occur as whole words with the same spelling.

    A place inside a longer entity is not counted ("York" in "New York").
    """
    verdicts = {name: Verdicts() for name in names}
    finder = NameFinder(verdicts)
    random = Random(seed)
    for row in rows:
        for span in row.entities:
            if span["label"] is not None and (name := name_of(row, span)) in verdicts:
                verdicts[name].add(span["label"], Place(row.number, span["start"], span["end"]), random)
        for name, verdict, start, end in finder.find(row):
            verdicts[name].add(verdict, Place(row.number, start, end), random)
    return verdicts


class NameFinder:
    """Finds names outside of entities. If several begin at the same word, the longest is found."""

    def __init__(self, names: Iterable[str]):
        self._names: dict[tuple[str, ...], str] = {}
        lengths: defaultdict[str, set[int]] = defaultdict(set)
        for name in names:
            words = tuple(words_of(name))
            self._names[words] = name
            lengths[words[0]].add(len(words))
        self._lengths = {word: sorted(known, reverse=True) for word, known in lengths.items()}

    def find(self, row: Row) -> Iterator[tuple[str, str, int, int]]:
        """Yields each name, `NOT_LABELLED` or `LEFT_OPEN`, and its start and end offset."""
        words = [(match[0], match.start(), match.end()) for match in _WORD.finditer(row.text)]
        spans = iter(row.entities)
        span = next(spans, None)
        position = 0
        while position < len(words):
            word, start, end = words[position]
            while span and span["end"] <= start:
                span = next(spans, None)
            inside = span is not None and span["start"] < end
            if inside and span["label"] is not None:
                position += 1
                continue
            border = len(row.text) if span is None else span["end"] if inside else span["start"]
            for length in self._lengths.get(word, ()):
                there = words[position : position + length]
                name = self._names.get(tuple(word for word, _, _ in there))
                if name is not None and there[-1][2] <= border:
                    yield name, LEFT_OPEN if inside else NOT_LABELLED, start, there[-1][2]
                    position += length
                    break
            else:
                position += 1


@dataclass(frozen=True)
class TypeAgreement:
    """The consistency of one entity type, over all names that were labelled often enough."""

    mentions: int
    usual: int
    """Mentions of names for which this is the most common type."""
    instead: list[tuple[str, int]]
    """The most common types of the other mentions' names, with counts."""
    not_labelled: int
    """Places without a label of names for which this is the most common type."""


def agreement_by_type(verdicts: dict[str, Verdicts]) -> dict[str, TypeAgreement]:
    """Maps each type to how often it is the most common type of the name, least consistent types first."""
    usual: dict[str, Counter] = defaultdict(Counter)
    not_labelled: Counter = Counter()
    for of_name in verdicts.values():
        not_labelled[of_name.types[0][0]] += of_name.counts[NOT_LABELLED]
        for label, count in of_name.types:
            usual[label][of_name.types[0][0]] += count
    found = {
        label: TypeAgreement(
            counts.total(),
            counts[label],
            by_count({other: count for other, count in counts.items() if other != label}),
            not_labelled[label],
        )
        for label, counts in usual.items()
    }
    return dict(sorted(found.items(), key=lambda item: (item[1].usual / item[1].mentions, item[0])))


def spelling_conflicts(verdicts: dict[str, Verdicts]) -> list[list[str]]:
    """
    Finds names that differ only in case ("TOKYO", "Tokyo") and mostly have different types. Returns the spellings of
    each name, most common first. Names come first if many of their mentions do not have the type of the most common
    spelling.
    """
    spellings: defaultdict[str, list[str]] = defaultdict(list)
    for name in verdicts:
        spellings[name.casefold()].append(name)
    unlike: dict[str, int] = {}
    for key, names in spellings.items():
        names.sort(key=lambda name: (-verdicts[name].labelled, name))
        usual = verdicts[names[0]].types[0][0]
        if count := sum(verdicts[name].labelled for name in names if verdicts[name].types[0][0] != usual):
            unlike[key] = count
    return [spellings[key] for key, _ in by_count(unlike)]
