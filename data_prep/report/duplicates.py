"""Finds texts that occur several times in a dataset, exactly or nearly the same.

Shapes: `D` distinct texts, `G` word sequences.
"""

import itertools
import re
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from sklearn.feature_extraction.text import HashingVectorizer


WORDS_PER_SEQUENCE = 3
THRESHOLD = 0.5
"""Minimum Jaccard similarity of the word sequences of two texts that count as nearly the same."""
MOST_NEIGHBORS = 10  # similar texts to keep for each text
MOST_PRODUCTS = 2_000_000_000
"""Maximum number of multiplications (about half a minute). Beyond it, the most common word sequences are left out."""
PRODUCTS_PER_BLOCK = 1_000_000  # this also limits how many numbers are in memory
_WORD = re.compile(r"\w+")


def word_sequences(text: str) -> list[str]:
    """Returns all sequences of three words, ignoring case and punctuation; for a shorter text, the whole text."""
    words = _WORD.findall(text.lower()) or [text]
    return [
        " ".join(words[first : first + WORDS_PER_SEQUENCE])
        for first in range(max(1, len(words) - WORDS_PER_SEQUENCE + 1))
    ]


@dataclass(frozen=True)
class Duplicates:
    """The duplicates in a dataset. Rows are numbered in the order in which they were added."""

    distinct: np.ndarray
    """`(num_rows,)`: index of each row's text among the distinct texts."""
    first_rows: np.ndarray
    """`(D,)`: the first row with each text."""
    pairs: np.ndarray
    """`(P, 2)`: pairs of distinct texts that are nearly the same, most similar first."""
    similarities: np.ndarray
    """`(P,)`: Jaccard similarity of each pair."""
    groups: np.ndarray
    """`(D,)`: texts with the same number are nearly the same, directly or through other texts."""
    rows_with_copy: np.ndarray
    """`(num_splits, num_splits)`: number of rows in one split whose exact text occurs (again) in the other."""
    rows_with_near_copy: np.ndarray
    """`(num_splits, num_splits)`: number of further rows for which the other split has a nearly identical text."""
    most_texts: int
    """Word sequences that occur in more texts than this were left out to limit the computation."""
    num_left_out: int
    """Number of word sequences that were left out."""


class DuplicateFinder:
    """Finds texts that are the same or nearly the same.

    Two texts are nearly the same if at least half of the three-word sequences that occur in either occur in both (a
    Jaccard similarity of `THRESHOLD`). All pairs are compared, with products of sparse matrices. Sequences are hashed
    to 31 bits, so that among a million sequences about 230 pairs collide.

    Args:
        num_splits (`int`): The number of splits, between which copies are counted.
    """

    def __init__(self, num_splits: int):
        self._num_splits = num_splits
        self._known: dict[bytes, int] = {}
        self._distinct: list[int] = []
        self._splits: list[int] = []
        self._first_rows: list[int] = []
        self._sequences: list[np.ndarray] = []
        self._sizes: list[np.ndarray] = []
        self._vectorizer = HashingVectorizer(
            analyzer=word_sequences,
            n_features=2**31 - 1,
            binary=True,
            norm=None,
            alternate_sign=False,
            dtype=np.float32,
        )

    def add(self, texts: list[str], split: int) -> None:
        """Adds the next rows of a split, counted from 0."""
        new = []
        for text in texts:
            digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            if digest not in self._known:
                self._known[digest] = len(self._known)
                self._first_rows.append(len(self._distinct))
                new.append(text)
            self._distinct.append(self._known[digest])
            self._splits.append(split)
        if new:
            vectors = self._vectorizer.transform(new)
            self._sequences.append(vectors.indices)
            self._sizes.append(np.diff(vectors.indptr))

    def find(self) -> Duplicates:
        distinct = np.array(self._distinct, dtype=np.int64)
        num_distinct = len(self._first_rows)
        copies = np.zeros((num_distinct, self._num_splits), dtype=np.int64)
        np.add.at(copies, (distinct, np.array(self._splits, dtype=np.int64)), 1)
        selves = np.eye(self._num_splits, dtype=np.int64)
        has_copy = np.stack([copies - own > 0 for own in selves])  # (splits, D, splits)
        pairs, similarities, has_near_copy, most_texts, num_left_out = self._near(copies > 0)
        graph = csr_array((np.ones(len(pairs), dtype=bool), tuple(pairs.T)), shape=(num_distinct, num_distinct))
        return Duplicates(
            distinct=distinct,
            first_rows=np.array(self._first_rows, dtype=np.int64),
            pairs=pairs,
            similarities=similarities,
            groups=connected_components(graph, directed=False)[1],
            rows_with_copy=np.einsum("ds,sdt->st", copies, has_copy),
            rows_with_near_copy=np.einsum("ds,sdt->st", copies, has_near_copy & ~has_copy),
            most_texts=most_texts,
            num_left_out=num_left_out,
        )

    def _near(self, in_split: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
        """
        Returns `pairs` and `similarities`, whether each text has a near copy in each split `(D, num_splits)`, and
        `most_texts` and `num_left_out`, see [`Duplicates`].
        """
        num_distinct = len(in_split)
        rows = np.repeat(np.arange(num_distinct), np.concatenate(self._sizes))
        _, columns, num_texts = np.unique(np.concatenate(self._sequences), return_inverse=True, return_counts=True)
        most_texts = _most_texts(num_texts)
        affordable = num_texts <= most_texts
        sizes = np.bincount(rows[affordable[columns]], minlength=num_distinct)
        kept = affordable & (num_texts > 1)  # sequences of a single text are not shared
        rows, places = rows[kept[columns]], (np.cumsum(kept) - 1)[columns[kept[columns]]]
        vectors = csr_array(
            (np.ones(len(rows), dtype=np.int32), (rows, places)), shape=(num_distinct, int(kept.sum()))
        )  # (D, G)
        transposed = vectors.T.tocsr()
        has_near = np.zeros_like(in_split)
        found = []
        for start, end in row_blocks(vectors @ num_texts[kept]):
            shared = (vectors[start:end] @ transposed).tocoo()
            one, other = shared.row + start, shared.col
            similarity = shared.data / (sizes[one] + sizes[other] - shared.data)
            near = (similarity >= THRESHOLD) & (one != other)
            one, other, similarity = one[near], other[near], similarity[near].astype(np.float32)
            np.logical_or.at(has_near, one, in_split[other])
            order = np.lexsort((other, -similarity, one))
            one, other, similarity = one[order], other[order], similarity[order]
            best = np.arange(len(one)) - np.searchsorted(one, one) < MOST_NEIGHBORS
            found.append((one[best], other[best], similarity[best]))
        one, other, similarity = map(np.concatenate, zip(*found, strict=True))
        pairs, first = np.unique(np.sort(np.stack([one, other], axis=1), axis=1), axis=0, return_index=True)
        order = np.argsort(-similarity[first], kind="stable")
        return pairs[order], similarity[first][order], has_near, most_texts, int((~affordable).sum())


def _most_texts(num_texts: np.ndarray) -> int:
    """Returns the maximum number of texts per word sequence for which all comparisons stay within `MOST_PRODUCTS`."""
    ascending = np.sort(num_texts)
    affordable = np.searchsorted(np.cumsum(ascending.astype(np.float64) ** 2), MOST_PRODUCTS, side="right")
    return int(ascending[-1] if affordable == len(ascending) else ascending[affordable] - 1)


def row_blocks(num_products: np.ndarray) -> list[tuple[int, int]]:
    """Splits rows into blocks (start, end) with not much more than `PRODUCTS_PER_BLOCK` products each."""
    borders = np.flatnonzero(np.diff(np.cumsum(num_products) // PRODUCTS_PER_BLOCK)) + 1
    edges = [0, *borders.tolist(), len(num_products)]
    return list(itertools.pairwise(edges))
