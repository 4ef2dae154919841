"""Collects everything for the report of a prepared dataset, in a few passes over its files."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from random import Random

from .agreement import (
    LEFT_OPEN,
    Place,
    TypeAgreement,
    Verdicts,
    agreement_by_type,
    by_count,
    collect_verdicts,
    is_name,
    name_of,
    spelling_conflicts,
)
from .copies import Group, LabelConflicts, Pair, label_conflicts, largest_groups, pairs_between_splits, separate_pairs
from .duplicates import DuplicateFinder, Duplicates
from .prepared import ROWS_PER_BATCH, PreparedDataset, Row
from .stability import Stability, compare_copies


MIN_MENTIONS = 5
"""Minimum number of labelled mentions of a name for its labels to be compared."""
MENTIONS_SHOWN = 5  # per type
NAMES_SHOWN = 20  # per kind of disagreement
CONTRADICTIONS_SHOWN = 6  # per kind
TEXTS_SHOWN = 10


@dataclass
class Counts:
    """Counts from one pass over the rows."""

    types: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    """Split → type, or `LEFT_OPEN` → number of entities."""
    labels: dict[str, dict[str, Counter]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(Counter)))
    """Label column → split → label, or None → number of rows."""
    without_entities: Counter = field(default_factory=Counter)
    """Split → number of rows without entities."""
    characters: list[int] = field(default_factory=list)
    """Number of characters of each row's text."""
    names: Counter = field(default_factory=Counter)
    """(name, type) → number of mentions."""
    names_left_open: Counter = field(default_factory=Counter)
    """Text of an entity without a label → how often."""
    examples: dict[str, list[Place]] = field(default_factory=dict)
    """Type → random mentions."""
    labels_of_rows: list[tuple[str | None, ...]] = field(default_factory=list)

    @property
    def all_types(self) -> Counter:
        """Type → number of entities, without those that were left open."""
        total = sum(self.types.values(), Counter())
        del total[LEFT_OPEN]
        return total

    @property
    def left_open(self) -> int:
        return sum(counts[LEFT_OPEN] for counts in self.types.values())


@dataclass(frozen=True)
class Survey:
    dataset: PreparedDataset
    counts: Counts
    duplicates: Duplicates
    verdicts: dict[str, Verdicts]
    """Verdicts of the names (see `is_name`) that are labelled at least `MIN_MENTIONS` times."""
    several_types: list[str]
    """Names with the most mentions that do not have their most common type."""
    sometimes_labelled: list[str]
    """Other names that are labelled in many places and not labelled in many others."""
    spellings: list[list[str]]
    """See `spelling_conflicts`."""
    type_agreement: dict[str, TypeAgreement]
    conflicts: dict[str, LabelConflicts]
    """Conflicts in each label column."""
    stability: Stability
    """Over pairs of nearly identical texts, with each text in at most one pair, and random contradictions."""
    pairs_between_splits: list[Pair]
    """Examples of nearly identical texts in different splits, from most to least similar."""
    groups: list[Group]
    """The largest groups of duplicates."""
    texts_shown: list[int]
    """Random rows."""
    rows: dict[int, Row]
    """All rows that are referred to above."""


def survey(folder: Path, *, seed: int = 42) -> Survey:
    """Surveys a folder that `data_prep` has written. Raises `ValueError` if it cannot be read, or has no rows."""
    dataset = PreparedDataset(folder)
    counts, duplicates = _count(dataset, Random(seed))
    labelled: Counter = Counter()
    for (name, _), count in counts.names.items():
        labelled[name] += count
    verdicts = collect_verdicts(
        dataset.rows(),
        (name for name, count in labelled.items() if count >= MIN_MENTIONS and is_name(name)),
        seed=seed,
    )
    several_types = _most(verdicts, lambda of_name: of_name.against)
    others = {name: of_name for name, of_name in verdicts.items() if name not in several_types}
    sometimes_labelled = _most(others, lambda of_name: of_name.undecided)
    conflicts = {
        column: label_conflicts([labels[place] for labels in counts.labels_of_rows], duplicates)
        for place, column in enumerate(dataset.label_names)
    }
    stability = compare_copies(separate_pairs(dataset, duplicates))
    for contradictions in stability.contradictions.values():
        contradictions[:] = Random(seed).sample(contradictions, min(CONTRADICTIONS_SHOWN, len(contradictions)))
    between = pairs_between_splits(dataset, duplicates)
    groups = largest_groups(duplicates)
    num_rows = len(counts.characters)
    texts_shown = sorted(Random(seed).sample(range(num_rows), min(TEXTS_SHOWN, num_rows)))
    places = [
        *(place for name in (*several_types, *sometimes_labelled) for place in verdicts[name].places.values()),
        *(place for drawn in counts.examples.values() for place in drawn),
        *(
            mention.place
            for contradictions in stability.contradictions.values()
            for contradiction in contradictions
            for mention in contradiction.mentions
        ),
    ]
    pairs = [*between, *(pair for of_column in conflicts.values() for pair in of_column.pairs)]
    rows = {
        *texts_shown,
        *(place.row for place in places),
        *(row for pair in pairs for row in (pair.one, pair.other)),
        *(row for group in groups for row in group.rows),
    }
    return Survey(
        dataset=dataset,
        counts=counts,
        duplicates=duplicates,
        verdicts=verdicts,
        several_types=several_types,
        sometimes_labelled=sometimes_labelled,
        spellings=spelling_conflicts(verdicts)[:NAMES_SHOWN],
        type_agreement=agreement_by_type(verdicts),
        conflicts=conflicts,
        stability=stability,
        pairs_between_splits=between,
        groups=groups,
        texts_shown=texts_shown,
        rows=dataset.select(rows),
    )


def _most(verdicts: dict[str, Verdicts], score: Callable[[Verdicts], float]) -> list[str]:
    scores = {name: number for name, of_name in verdicts.items() if (number := score(of_name))}
    return [name for name, _ in by_count(scores)[:NAMES_SHOWN]]


def _count(dataset: PreparedDataset, random: Random) -> tuple[Counts, Duplicates]:
    counts = Counts()
    finder = DuplicateFinder(len(dataset.paths))
    seen: Counter = Counter()
    known: dict[tuple, tuple] = {}  # rows with the same labels share one tuple
    for number, (split, rows) in enumerate(groupby(dataset.rows(), key=lambda row: row.split)):
        for batch in _batches(rows):
            finder.add([row.text for row in batch], number)
            for row in batch:
                counts.characters.append(len(row.text))
                counts.without_entities[split] += not row.entities
                labels = tuple(row.labels.values())
                counts.labels_of_rows.append(known.setdefault(labels, labels))
                for column, label in row.labels.items():
                    counts.labels[column][split][label] += 1
                for span in row.entities:
                    name, label = name_of(row, span), span["label"]
                    if label is None:
                        counts.types[split][LEFT_OPEN] += 1
                        counts.names_left_open[name] += 1
                        continue
                    counts.types[split][label] += 1
                    counts.names[name, label] += 1
                    seen[label] += 1
                    _draw(
                        counts.examples.setdefault(label, []),
                        Place(row.number, span["start"], span["end"]),
                        seen[label],
                        random,
                    )
    return counts, finder.find()


def _draw(drawn: list[Place], place: Place, num_seen: int, random: Random) -> None:
    """Reservoir sampling: after `num_seen` places, each has the same probability to be among the drawn ones."""
    if len(drawn) < MENTIONS_SHOWN:
        drawn.append(place)
    elif (chosen := random.randrange(num_seen)) < MENTIONS_SHOWN:
        drawn[chosen] = place


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == ROWS_PER_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
