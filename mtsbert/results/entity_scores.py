"""How well marked entities agree: exact matches, kinds of errors, and how far chance moves the figures.

Letters used below: `S` sentences, `K` types and their sum, `R` resamplings.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtsbert.data.gold import Mark


# What is counted. An entity is right where borders and type are exactly those of a true one. Of the others:
# - type only: the borders of a true one of another type;
# - boundary only: overlaps a true one of its type.
COUNTS = ("right", "found", "true", "type_only", "boundary_only")
RIGHT, FOUND, TRUE, TYPE_ONLY, BOUNDARY_ONLY = range(len(COUNTS))
RATES = ("precision", "recall", "f1")
PRECISION, RECALL, F1 = range(len(RATES))
ALL = "all"
CONFIDENCE = 0.95


def count_marks(found: set[Mark], true: set[Mark], types: Sequence[str]) -> np.ndarray:
    """Of one sentence: `(K, 5)`, `COUNTS` over all types, then for each. Errors count for the type that was found."""
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
    """`(…, 5)` counts → `(…, 3)` `RATES`; 0 where there is nothing to divide by."""
    right, found, true = (counts[..., column] for column in (RIGHT, FOUND, TRUE))
    pairs = ((right, found), (right, true), (2 * right, found + true))
    return np.stack([above / np.maximum(below, 1) for above, below in pairs], axis=-1)


def draw_sentences(num_sentences: int, *, num_resamples: int, seed: int) -> np.ndarray:
    """`(R, S)`: how often each sentence is in a sample, drawn with replacement, of as many sentences as there are."""
    share = np.full(num_sentences, 1.0 / num_sentences)
    return np.random.default_rng(seed).multinomial(num_sentences, share, size=num_resamples).astype(np.float64)


@dataclass(frozen=True)
class Scores:
    """How well the entities of all sentences agree with the true ones, and how that varies with the sentences."""

    types: tuple[str, ...]
    """`ALL`, then the `K - 1` types."""
    counts: np.ndarray
    """`(K, 5)`"""
    resampled: np.ndarray
    """`(R, K, 3)` rates of the samples."""

    @classmethod
    def of(
        cls, found: Sequence[set[Mark]], true: Sequence[set[Mark]], types: Sequence[str], draws: np.ndarray
    ) -> "Scores":
        """
        Args:
            found, true: By sentence.
            draws: Of `draw_sentences`. Scores with the same draws can be compared pairwise.
        """
        counts = np.stack([count_marks(*marks, types) for marks in zip(found, true, strict=True)])  # (S, K, 5)
        return cls((ALL, *types), counts.sum(axis=0), rates_of(np.tensordot(draws, counts, axes=1)))

    @property
    def rates(self) -> np.ndarray:
        """`(K, 3)`"""
        return rates_of(self.counts)

    @property
    def intervals(self) -> np.ndarray:
        """`(K, 3, 2)`: lower and upper end for every rate."""
        return interval(self.resampled)

    def to_dict(self) -> dict[str, dict]:
        """`{"all": …, "types": {type: …}}`, and in each all counts, all rates, and every rate's interval."""
        described = []
        for counts, rates, intervals in zip(self.counts, self.rates, self.intervals, strict=True):
            described.append(
                dict(zip(COUNTS, counts.tolist(), strict=True))
                | dict(zip(RATES, rates.tolist(), strict=True))
                | {f"{rate}_interval": ends.tolist() for rate, ends in zip(RATES, intervals, strict=True)}
            )
        return {ALL: described[0], "types": dict(zip(self.types[1:], described[1:], strict=True))}


def interval(resampled: np.ndarray) -> np.ndarray:
    """`(R, …)` → `(…, 2)`: the ends of the middle 95 % of the samples (percentile bootstrap, Efron 1979)."""
    outside = (1.0 - CONFIDENCE) / 2
    return np.moveaxis(np.quantile(resampled, [outside, 1.0 - outside], axis=0), 0, -1)


def f1_difference(one: Scores, other: Scores) -> tuple[np.ndarray, np.ndarray]:
    """`(K,)` how much higher the F1 of `one` is, and `(K, 2)` the paired intervals: same sentences on both sides."""
    return (one.rates - other.rates)[:, F1], interval(one.resampled[..., F1] - other.resampled[..., F1])
