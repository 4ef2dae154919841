"""Scores sentence embeddings: similarity of pairs, retrieval, and agreement with those of a reference model.

Shapes: `N` texts, pairs or queries; `D` documents; `H` width of the embedding; `R` bootstrap samples.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np


NUM_NEIGHBORS = 10
CONFIDENCE = 0.95
ROWS_AT_ONCE = 1_000  # rows of a matrix of cosines in memory


@dataclass(frozen=True)
class Estimate:
    """A figure with the bounds of its bootstrap interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, samples: np.ndarray) -> "Estimate":
        tail = (1.0 - CONFIDENCE) / 2
        return cls(float(value), *(float(bound) for bound in np.quantile(samples, [tail, 1.0 - tail])))


def normalized(vectors: np.ndarray) -> np.ndarray:
    """Scales vectors `(N, H)` to Euclidean length 1; zero vectors stay zero."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)


# Agreement with a reference model


def embedding_metrics(embeddings: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """
    Measures how far sentence embeddings have moved from those of a reference model.

    Args:
        embeddings, references (`np.ndarray` of shape `(N, H)`): The embeddings of the same texts in the same order.

    Returns:
        `embedding_cosine`, the mean cosine of each embedding with its reference; and `embedding_overlap_at_10`, the
        mean share of a text's ten nearest neighbours that are also among its ten nearest neighbours by the references.
    """
    ours, theirs = normalized(embeddings), normalized(references)
    metrics = {"embedding_cosine": float((ours * theirs).sum(axis=1).mean())}
    if len(ours) > NUM_NEIGHBORS + 1:
        metrics[f"embedding_overlap_at_{NUM_NEIGHBORS}"] = neighbor_overlap(ours, theirs)
    return metrics


def neighbor_overlap(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Returns the mean share of ten nearest neighbours that two normalized embeddings `(N, H)` have in common."""
    overlap = np.mean([len(a & b) for a, b in zip(_neighbors(ours), _neighbors(theirs), strict=True)])
    return float(overlap / NUM_NEIGHBORS)


def _neighbors(vectors: np.ndarray) -> Iterator[set[int]]:
    """Yields the indices of the nearest neighbours of each vector, given normalized vectors `(N, H)`."""
    for first in range(0, len(vectors), ROWS_AT_ONCE):
        cosines = vectors[first : first + ROWS_AT_ONCE] @ vectors.T
        cosines[np.arange(len(cosines)), np.arange(first, first + len(cosines))] = -np.inf  # not itself
        for nearest in np.argpartition(-cosines, NUM_NEIGHBORS, axis=1)[:, :NUM_NEIGHBORS]:
            yield set(nearest.tolist())


# Similarity of pairs


def pair_correlations(cosines: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Returns the `spearman` and `pearson` correlation of cosines and scores, both `(N,)`; 0 if one is constant."""
    from scipy.stats import rankdata

    return {
        "spearman": _pearson(rankdata(cosines), rankdata(scores)),
        "pearson": _pearson(cosines, scores),
    }


def _pearson(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(), other - other.mean()
    size = np.sqrt((one @ one) * (other @ other))
    return float(one @ other / size) if size else 0.0


def score_pairs(
    cosines: dict[str, np.ndarray], scores: np.ndarray, *, num_resamples: int, seed: int
) -> dict[str, dict[str, Estimate]]:
    """
    Correlates the cosines of one or two models with the scores of the pairs.

    Args:
        cosines (`dict[str, np.ndarray]`): By model: the cosines `(N,)` of the pairs.
        scores (`np.ndarray` of shape `(N,)`): How similar the texts of each pair are.
        num_resamples, seed (`int`): Bootstrap samples of pairs, which are the same for all models, and their seed.

    Returns:
        By model, and with two models also for their `difference`: `spearman` and `pearson`.
    """
    whole = {name: pair_correlations(of_model, scores) for name, of_model in cosines.items()}
    random = np.random.default_rng(seed)
    samples = [random.integers(len(scores), size=len(scores)) for _ in range(num_resamples)]
    resampled = {
        name: [pair_correlations(of_model[rows], scores[rows]) for rows in samples]
        for name, of_model in cosines.items()
    }
    return _estimates(
        {name: np.array(list(figures.values())) for name, figures in whole.items()},
        {name: np.array([list(one.values()) for one in figures]) for name, figures in resampled.items()},
        ["spearman", "pearson"],
    )


# Retrieval


def ranks_of_relevant(queries: np.ndarray, documents: np.ndarray, relevant: Sequence[set[int]]) -> list[np.ndarray]:
    """
    Returns the ranks of each query's relevant documents, from 1, best first. Irrelevant documents of the same cosine
    count as if they came before.

    Args:
        queries, documents (`np.ndarray` of shape `(N, H)` and `(D, H)`): Normalized embeddings.
        relevant (`Sequence[set[int]]`): For each query the indices of its relevant documents.
    """
    ranks = []
    for first in range(0, len(queries), ROWS_AT_ONCE):
        cosines = queries[first : first + ROWS_AT_ONCE] @ documents.T
        for row, places in zip(cosines, relevant[first : first + ROWS_AT_ONCE], strict=True):
            own = list(places)
            best_first = np.sort(row[own])[::-1]
            row[own] = -np.inf
            before = (row[None] >= best_first[:, None]).sum(axis=1)
            ranks.append(before + np.arange(1, len(own) + 1))
    return ranks


def retrieval_figures(ranks: Sequence[np.ndarray], at: Sequence[int]) -> dict[str, np.ndarray]:
    """
    Computes the figures of each query from the ranks of its relevant documents.

    Returns:
        Arrays of shape `(N,)`: for every k of `at` `recall_at_k`, the share of the relevant documents among the first
        k; `mrr_at_10`, 1 / rank of the first relevant document, or 0 beyond rank 10; and `ndcg_at_10` with a gain of
        1 for a relevant document (Järvelin and Kekäläinen, 2002).
    """
    figures = {f"recall_at_{k}": np.array([np.mean(one <= k) for one in ranks]) for k in at}
    first = np.array([one[0] for one in ranks])
    figures["mrr_at_10"] = np.where(first <= 10, 1.0 / first, 0.0)
    gains = 1.0 / np.log2(np.arange(2, 12))
    found = [gains[one[one <= 10] - 1].sum() for one in ranks]
    ideal = [gains[: len(one)].sum() for one in ranks]
    figures["ndcg_at_10"] = np.array(found) / np.array(ideal)
    return figures


def score_retrieval(
    ranks: dict[str, Sequence[np.ndarray]], *, at: Sequence[int], num_resamples: int, seed: int
) -> dict[str, dict[str, Estimate]]:
    """
    Averages retrieval figures over the queries.

    Args:
        ranks (`dict[str, Sequence[np.ndarray]]`): By model: what [`ranks_of_relevant`] returns.
        at (`Sequence[int]`): The k of `recall_at_k`.
        num_resamples, seed (`int`): Bootstrap samples of queries, which are the same for all models, and their seed.

    Returns:
        By model, and for the difference of each further model from the first: the figures of [`retrieval_figures`].
    """
    figures = {name: retrieval_figures(of_model, at) for name, of_model in ranks.items()}
    names = list(next(iter(figures.values())))
    tables = {name: np.stack(list(of_model.values()), axis=1) for name, of_model in figures.items()}  # (N, figures)
    num_queries = len(next(iter(tables.values())))
    random = np.random.default_rng(seed)
    samples = [random.integers(num_queries, size=num_queries) for _ in range(num_resamples)]
    resampled = {name: np.array([table[rows].mean(axis=0) for rows in samples]) for name, table in tables.items()}
    return _estimates({name: table.mean(axis=0) for name, table in tables.items()}, resampled, names)


def _estimates(
    whole: dict[str, np.ndarray], resampled: dict[str, np.ndarray], names: Sequence[str]
) -> dict[str, dict[str, Estimate]]:
    """Pairs values `(figures,)` with their samples `(R, figures)`, and adds the differences from the first model."""
    first, *others = whole
    for name in others:
        difference = f"difference from {name}"
        whole, resampled = {**whole, difference: whole[first] - whole[name]}, dict(resampled)
        resampled[difference] = resampled[first] - resampled[name]
    return {
        side: {name: Estimate.of(values[place], resampled[side][:, place]) for place, name in enumerate(names)}
        for side, values in whole.items()
    }


def distinct(texts: Sequence[str]) -> tuple[list[str], Callable[[str], int]]:
    """Returns the different texts in the order of their first occurrence, and a function from a text to its index."""
    index = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    return list(index), index.__getitem__
