"""Scores entities against gold entities: exact matches, types of errors, and bootstrap intervals.

Shapes: `S` sentences; `K` rows, one for all types together and one per type; `R` bootstrap samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtsbert.data.gold import Mark


# The columns of counts. An entity is right if its boundaries and its type are exactly those of a true entity.
# Types of errors:
# - type only: same boundaries as a true entity, but another type;
# - boundary only: overlaps a true entity of the same type.
COUNTS = ("right", "found", "true", "type_only", "boundary_only")
RIGHT, FOUND, TRUE, TYPE_ONLY, BOUNDARY_ONLY = range(len(COUNTS))
RATES = ("precision", "recall", "f1")
PRECISION, RECALL, F1 = range(len(RATES))
ALL = "all"
CONFIDENCE = 0.95


def count_marks(found: set[Mark], true: set[Mark], types: Sequence[str]) -> np.ndarray:
    """
    Counts the entities of one sentence. Returns `(K, 5)`: the `COUNTS` over all types, then for each type. An error is
    counted for the predicted type.
    """
    counts = np.zeros((1 + len(types), len(COUNTS)), dtype=np.int64)
    row = {name: number for number, name in enumerate(types, start=1)}
    for _, _, name in true:
        counts[row[name], TRUE] += 1
    borders = {(start, end) for start, end, _ in true}
    for start, end, name in found:
        counts[row[name], FOUND] += 1
        if (start, end, name) in true:
            counts[row[name], RIGHT] += 1
        elif (start, end) in borders:
            counts[row[name], TYPE_ONLY] += 1
        elif any(name == other and start < last and first < end for first, last, other in true):
            counts[row[name], BOUNDARY_ONLY] += 1
    counts[0] = counts.sum(axis=0)
    return counts


def rates_of(counts: np.ndarray) -> np.ndarray:
    """Computes the `RATES` `(…, 3)` from counts `(…, 5)`. A division by zero gives 0."""
    right, found, true = (counts[..., column] for column in (RIGHT, FOUND, TRUE))
    pairs = ((right, found), (right, true), (2 * right, found + true))
    return np.stack([above / np.maximum(below, 1) for above, below in pairs], axis=-1)


def draw_sentences(num_sentences: int, *, num_resamples: int, seed: int) -> np.ndarray:
    """Draws bootstrap samples of sentences. Returns `(R, S)`: how often each sentence is in each sample."""
    share = np.full(num_sentences, 1.0 / num_sentences)
    return np.random.default_rng(seed).multinomial(num_sentences, share, size=num_resamples).astype(np.float64)


@dataclass(frozen=True)
class Scores:
    """The scores of the entities in all sentences, with bootstrap intervals."""

    types: tuple[str, ...]
    """`ALL`, then the `K - 1` types."""
    counts: np.ndarray
    """`(K, 5)`"""
    resampled: np.ndarray
    """`(R, K, 3)`: rates of the bootstrap samples."""

    @classmethod
    def of(
        cls, found: Sequence[set[Mark]], true: Sequence[set[Mark]], types: Sequence[str], draws: np.ndarray
    ) -> "Scores":
        """
        Computes the scores of entities.

        Args:
            found (`Sequence[set[Mark]]`): The predicted entities of each sentence.
            true (`Sequence[set[Mark]]`): The true entities of each sentence.
            types (`Sequence[str]`): The entity types.
            draws (`np.ndarray`): Bootstrap samples from `draw_sentences`. The difference of two scores needs the same
                samples in both.
        """
        counts = np.stack([count_marks(*marks, types) for marks in zip(found, true, strict=True)])  # (S, K, 5)
        return cls((ALL, *types), counts.sum(axis=0), rates_of(np.tensordot(draws, counts, axes=1)))

    @property
    def rates(self) -> np.ndarray:
        """`(K, 3)`"""
        return rates_of(self.counts)

    @property
    def intervals(self) -> np.ndarray:
        """`(K, 3, 2)`: lower and upper bound of each rate."""
        return interval(self.resampled)

    def to_dict(self) -> dict[str, dict]:
        """Returns `{"all": …, "types": {type: …}}`, each with all counts, all rates, and the interval of each rate."""
        described = []
        for counts, rates, intervals in zip(self.counts, self.rates, self.intervals, strict=True):
            described.append(
                dict(zip(COUNTS, counts.tolist(), strict=True))
                | dict(zip(RATES, rates.tolist(), strict=True))
                | {f"{rate}_interval": ends.tolist() for rate, ends in zip(RATES, intervals, strict=True)}
            )
        return {ALL: described[0], "types": dict(zip(self.types[1:], described[1:], strict=True))}


def interval(resampled: np.ndarray) -> np.ndarray:
    """Returns the bounds `(…, 2)` of the middle 95 % of samples `(R, …)` (percentile bootstrap, Efron 1979)."""
    outside = (1.0 - CONFIDENCE) / 2
    return np.moveaxis(np.quantile(resampled, [outside, 1.0 - outside], axis=0), 0, -1)


def f1_difference(one: Scores, other: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Returns how much higher the F1 of `one` is `(K,)`, and the intervals of the paired differences `(K, 2)`."""
    return (one.rates - other.rates)[:, F1], interval(one.resampled[..., F1] - other.resampled[..., F1])
