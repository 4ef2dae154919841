"""Texts that stand in a dataset twice, letter by letter or nearly.

Letters used below: `D` distinct texts, `G` word sequences.
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
"""Jaccard similarity of two texts' sets of word sequences from which on they count as nearly the same."""
MOST_NEIGHBORS = 10  # kept of each text, the most similar ones
MOST_PRODUCTS = 2_000_000_000
"""Multiplications at most, about half a minute; if it were more, the commonest word sequences are left out."""
PRODUCTS_PER_BLOCK = 1_000_000  # and so many numbers at most in memory at once
_WORD = re.compile(r"\w+")


def word_sequences(text: str) -> list[str]:
    """Three words at a time, without case and punctuation; of a shorter text, the whole."""
    words = _WORD.findall(text.lower()) or [text]
    return [
        " ".join(words[first : first + WORDS_PER_SEQUENCE])
        for first in range(max(1, len(words) - WORDS_PER_SEQUENCE + 1))
    ]


@dataclass(frozen=True)
class Duplicates:
    """What was found. Rows are numbered in the order in which they were added."""

    distinct: np.ndarray
    """`(rows,)`: number of the row's text among the distinct ones."""
    first_rows: np.ndarray
    """`(D,)`: the first row that has the text."""
    pairs: np.ndarray
    """`(P, 2)`: distinct texts that are nearly the same, each pair once, the most similar first."""
    similarities: np.ndarray
    """`(P,)`"""
    groups: np.ndarray
    """`(D,)`: texts of the same number are nearly the same, or are linked by texts that are."""
    rows_with_copy: np.ndarray
    """`(splits, splits)`: rows of the one split whose very text stands (again) in the other."""
    rows_with_near_copy: np.ndarray
    """`(splits, splits)`: rows whose text does not, but one that is nearly the same."""
    most_texts: int
    """Word sequences that stand in more texts were left out, or there would have been too much to compare."""
    num_left_out: int
    """How many they were."""


class DuplicateFinder:
    """Takes texts and finds those that are the same or nearly.

    Two texts are nearly the same if of the word sequences (three words) that stand in either, at least half stand in
    both: a Jaccard similarity of `THRESHOLD`. All pairs are compared, by products of sparse matrices. The words are
    hashed to 31 bits, so that among a million sequences some 230 pairs are taken for one.

    Args:
        num_splits (`int`): Copies are counted from split to split.
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
        """The next rows; `split` counts from 0."""
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
        """Pairs, their similarities, `(D, splits)` whether a text has a near copy there, and see `Duplicates`."""
        num_distinct = len(in_split)
        rows = np.repeat(np.arange(num_distinct), np.concatenate(self._sizes))
        _, columns, num_texts = np.unique(np.concatenate(self._sequences), return_inverse=True, return_counts=True)
        most_texts = _most_texts(num_texts)
        affordable = num_texts <= most_texts
        sizes = np.bincount(rows[affordable[columns]], minlength=num_distinct)
        kept = affordable & (num_texts > 1)  # what one text alone has is not shared
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
    """The most texts that a word sequence may stand in, if all that may are to be compared in `MOST_PRODUCTS`."""
    ascending = np.sort(num_texts)
    affordable = np.searchsorted(np.cumsum(ascending.astype(np.float64) ** 2), MOST_PRODUCTS, side="right")
    return int(ascending[-1] if affordable == len(ascending) else ascending[affordable] - 1)


def row_blocks(num_products: np.ndarray) -> list[tuple[int, int]]:
    """From which row to which, so that a block has not much more than `PRODUCTS_PER_BLOCK` of the rows' products."""
    borders = np.flatnonzero(np.diff(np.cumsum(num_products) // PRODUCTS_PER_BLOCK)) + 1
    edges = [0, *borders.tolist(), len(num_products)]
    return list(itertools.pairwise(edges))
