"""Scores sentence embeddings: against the scores of pairs, in retrieval, and against those of another model.

Letters: `N` texts or pairs, `Q` queries, `D` documents, `H` width of the embedding, `M` metrics, `R` bootstrap
samples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mtsbert.results.entity_scores import interval


NUM_NEIGHBORS = 10
NUM_GAINS = 10  # documents that nDCG looks at
COSINES_AT_ONCE = 2**24  # 64 MB
CORRELATIONS = ("spearman", "pearson")


def embedding_metrics(embeddings: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """
    Measures how far sentence embeddings have moved from those of a reference model.

    Args:
        embeddings, references (`np.ndarray` of shape `(N, H)`): The embeddings of the same texts in the same order.
            The two may differ in width.

    Returns:
        `embedding_cosine`, the mean cosine of each embedding with its reference, unless they differ in width; and
        `embedding_overlap_at_10`, the mean share of a text's ten nearest neighbours that are also among its ten
        nearest neighbours by the references, unless there are too few texts.
    """
    ours, theirs = _normalized(embeddings), _normalized(references)
    metrics = {}
    if ours.shape == theirs.shape:
        metrics["embedding_cosine"] = float((ours * theirs).sum(axis=1).mean())
    if len(ours) > NUM_NEIGHBORS + 1:
        overlap = np.mean([len(a & b) for a, b in zip(_neighbors(ours), _neighbors(theirs), strict=True)])
        metrics[f"embedding_overlap_at_{NUM_NEIGHBORS}"] = float(overlap / NUM_NEIGHBORS)
    return metrics


def embedding_metric_names(num_texts: int) -> list[str]:
    """Returns the names of the metrics of [`embedding_metrics`] for so many texts and embeddings of the same width."""
    overlap = [f"embedding_overlap_at_{NUM_NEIGHBORS}"] if num_texts > NUM_NEIGHBORS + 1 else []
    return ["embedding_cosine", *overlap]


def _normalized(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)


def _neighbors(vectors: np.ndarray) -> Iterator[set[int]]:
    """Yields the indices of the nearest neighbours of each vector, given normalized vectors `(N, H)`."""
    for first, cosines in _cosines(vectors, vectors):
        cosines[np.arange(len(cosines)), np.arange(first, first + len(cosines))] = -np.inf  # not itself
        nearest = torch.from_numpy(cosines).topk(NUM_NEIGHBORS, dim=1, sorted=False).indices  # faster than NumPy's
        yield from map(set, nearest.tolist())


def _cosines(rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields blocks of the matrix of cosines of normalized vectors, each with the number of its first row."""
    size = max(1, COSINES_AT_ONCE // len(columns))
    for first in range(0, len(rows), size):
        yield first, rows[first : first + size] @ columns.T


@dataclass(frozen=True)
class Measures:
    """
    Metrics over a set of rows, with bootstrap samples of these rows. Measures of the same rows from the same seed have
    the same samples, so that their difference is a paired one.
    """

    names: tuple[str, ...]
    values: np.ndarray
    """`(M,)`"""
    resampled: np.ndarray
    """`(R, M)`: the metrics of the bootstrap samples."""

    @classmethod
    def of_means(cls, names: Sequence[str], rows: np.ndarray, *, num_resamples: int, seed: int) -> "Measures":
        """
        Measures that are means over rows.

        Args:
            names (`Sequence[str]`): The names of the metrics.
            rows (`np.ndarray` of shape `(N, M)`): The metrics of each row.
            num_resamples (`int`): The number of bootstrap samples.
            seed (`int`): The seed of the bootstrap samples.
        """
        resampled = [counts @ rows / len(rows) for counts in draw_counts(len(rows), num_resamples, seed)]
        return cls(tuple(names), rows.mean(axis=0), np.stack(resampled))

    @classmethod
    def of_correlations(cls, cosines: np.ndarray, scores: np.ndarray, *, num_resamples: int, seed: int) -> "Measures":
        """
        The `CORRELATIONS` of cosines and scores. A correlation is 0 where all cosines, or all scores, are the same.

        Args:
            cosines (`np.ndarray` of shape `(N,)`): The cosine of each pair.
            scores (`np.ndarray` of shape `(N,)`): The score of each pair.
            num_resamples (`int`): The number of bootstrap samples.
            seed (`int`): The seed of the bootstrap samples.
        """
        cosines, scores = (np.asarray(values, dtype=np.float64) for values in (cosines, scores))
        groups = [np.unique(values, return_inverse=True)[1] for values in (cosines, scores)]

        def correlate(counts: np.ndarray) -> list[float]:
            spearman = _pearson(*(_ranks(group, counts) for group in groups), counts)
            return [spearman, _pearson(cosines, scores, counts)]

        resampled = [correlate(counts) for counts in draw_counts(len(scores), num_resamples, seed)]
        return cls(CORRELATIONS, np.array(correlate(np.ones(len(scores)))), np.array(resampled))

    def __sub__(self, other: "Measures") -> "Measures":
        return Measures(self.names, self.values - other.values, self.resampled - other.resampled)

    @property
    def intervals(self) -> np.ndarray:
        """`(M, 2)`: lower and upper bound of each metric."""
        return interval(self.resampled)

    def to_dict(self) -> dict[str, float | list[float]]:
        """Returns each metric, and its interval under `<metric>_interval`."""
        intervals = {f"{name}_interval": ends.tolist() for name, ends in zip(self.names, self.intervals, strict=True)}
        return dict(zip(self.names, self.values.tolist(), strict=True)) | intervals


def draw_counts(num_rows: int, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yields for each bootstrap sample how often each row is in it, `(N,)`."""
    random = np.random.default_rng(seed)
    for _ in range(num_resamples):
        yield np.bincount(random.integers(num_rows, size=num_rows), minlength=num_rows).astype(np.float64)


def _ranks(group: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """
    Ranks of values of which row `i` occurs `counts[i]` times. Equal values share the mean of their ranks.

    Args:
        group (`np.ndarray` of shape `(N,)`): The place of each value among the distinct values in ascending order.
        counts (`np.ndarray` of shape `(N,)`): How often each value occurs.
    """
    sizes = np.bincount(group, weights=counts)
    return (np.cumsum(sizes) - (sizes - 1) / 2)[group]


def _pearson(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> float:
    there = counts > 0
    if np.ptp(x[there]) == 0 or np.ptp(y[there]) == 0:
        return 0.0
    x, y = (values - np.average(values, weights=counts) for values in (x, y))
    return float((counts * x * y).sum() / np.sqrt((counts * x * x).sum() * (counts * y * y).sum()))


def pair_cosines(embeddings: np.ndarray, pair_embeddings: np.ndarray) -> np.ndarray:
    """Returns the cosine `(N,)` of each embedding with that of the second text of its pair, both `(N, H)`."""
    return (_normalized(embeddings) * _normalized(pair_embeddings)).sum(axis=1)


def rank_relevant(queries: np.ndarray, documents: np.ndarray, relevant: Sequence[np.ndarray]) -> list[np.ndarray]:
    """
    Ranks all documents by their cosine with each query. Documents with the same cosine keep their order.

    Args:
        queries (`np.ndarray` of shape `(Q, H)`): The embeddings of the queries.
        documents (`np.ndarray` of shape `(D, H)`): The embeddings of the documents.
        relevant (`Sequence[np.ndarray]`): For each query, the indices of its relevant documents.

    Returns:
        For each query, the ranks of its relevant documents in ascending order, where 1 is the best.
    """
    ranks = []
    for first, cosines in _cosines(_normalized(queries), _normalized(documents)):
        for of_query, wanted in zip(cosines, relevant[first : first + len(cosines)], strict=True):
            better = [(of_query > of_query[i]).sum() + (of_query[:i] == of_query[i]).sum() for i in wanted]
            ranks.append(1 + np.sort(better))
    return ranks


def retrieval_names(at: Sequence[int]) -> tuple[str, ...]:
    """Returns the names of the metrics of [`retrieval_metrics`]."""
    return (*(f"recall_at_{k}" for k in at), "mrr", f"ndcg_at_{NUM_GAINS}")


def retrieval_metrics(ranks: Sequence[np.ndarray], at: Sequence[int]) -> np.ndarray:
    """
    Computes the metrics of each query from the ranks of its relevant documents.

    Args:
        ranks (`Sequence[np.ndarray]`): The result of [`rank_relevant`].
        at (`Sequence[int]`): The values of k of recall at k.

    Returns:
        `(Q, M)`: for each k, the share of the relevant documents that are among the first k; the reciprocal rank of
        the first relevant document in the whole ranking; and the nDCG of the first ten, where a document has a gain of
        1 or 0 (Järvelin and Kekäläinen 2002).
    """
    gains = 1 / np.log2(np.arange(2, NUM_GAINS + 2))
    rows = []
    for of_query in ranks:
        ideal = gains[: len(of_query)].sum()
        ndcg = gains[of_query[of_query <= NUM_GAINS] - 1].sum() / ideal
        rows.append([*((of_query <= k).mean() for k in at), 1 / of_query[0], ndcg])
    return np.array(rows, dtype=np.float64)
