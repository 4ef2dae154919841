"""Whether a labeller agrees with itself: what it said of the same name in different places."""

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
    """An entity's text, with single blanks for whatever blanks it has."""
    return " ".join(row.text[span["start"] : span["end"]].split())


def words_of(text: str) -> list[str]:
    """Words and single marks; blanks are between them."""
    return _WORD.findall(text)


def is_name(text: str) -> bool:
    """
    Whether it is written like a name, with a capital letter or in a script that has none. What "50" or "the season" is
    depends on what stands around it, and comparing its labels tells nothing.
    """
    return any(letter.isalpha() and not letter.islower() for letter in text)


class Place(NamedTuple):
    row: int
    start: int
    end: int


@dataclass
class Verdicts:
    """What was said of a name: type, `NOT_LABELLED` or `LEFT_OPEN` → how often, and one of these places."""

    counts: Counter = field(default_factory=Counter)
    places: dict[str, Place] = field(default_factory=dict)

    def add(self, verdict: str, place: Place, random: Random) -> None:
        self.counts[verdict] += 1
        if random.random() * self.counts[verdict] < 1:  # each of the places with the same chance
            self.places[verdict] = place

    @property
    def types(self) -> list[tuple[str, int]]:
        """Types and how often, the commonest first."""
        return by_count({key: count for key, count in self.counts.items() if key not in (NOT_LABELLED, LEFT_OPEN)})

    @property
    def labelled(self) -> int:
        return sum(count for _, count in self.types)

    @property
    def against(self) -> int:
        """Labelled places that have another type than the commonest."""
        return self.labelled - self.types[0][1]

    @property
    def undecided(self) -> int:
        """The fewer of the places that are labelled and of those that are not."""
        return min(self.labelled, self.counts[NOT_LABELLED])


def by_count(counts: dict[str, int]) -> list[tuple[str, int]]:
    """The greatest first, and those of the same count by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def collect_verdicts(rows: Iterable[Row], names: Iterable[str], *, seed: int = 42) -> dict[str, Verdicts]:
    """
    Everything that was said of these names, wherever they stand as whole words in the same letters.

    A place inside another, longer entity says nothing of the name and is not counted ("York" in "New York").
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
    """Finds names outside of entities, the longest where several begin."""

    def __init__(self, names: Iterable[str]):
        self._names: dict[tuple[str, ...], str] = {}
        lengths: defaultdict[str, set[int]] = defaultdict(set)
        for name in names:
            words = tuple(words_of(name))
            self._names[words] = name
            lengths[words[0]].add(len(words))
        self._lengths = {word: sorted(known, reverse=True) for word, known in lengths.items()}

    def find(self, row: Row) -> Iterator[tuple[str, str, int, int]]:
        """Gives name, `NOT_LABELLED` or `LEFT_OPEN`, and the offsets."""
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
    """One type, over all names that were labelled often enough."""

    mentions: int
    usual: int
    """Mentions of names for which this is the commonest type."""
    instead: list[tuple[str, int]]
    """What the other mentions' names are mostly called, and how often."""
    not_labelled: int
    """Places without a label where a name stands for which this is the commonest type."""


def agreement_by_type(verdicts: dict[str, Verdicts]) -> dict[str, TypeAgreement]:
    """Type → how often it is what the name is mostly called; the least agreed first."""
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
    Names that differ in capitals alone ("TOKYO", "Tokyo") and are mostly given different types: the spellings of each,
    the commonest first, and first of all those with the most mentions unlike that one's type.
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
