"""Tests the scores of embeddings by hand, by brute force and against SciPy."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from mtsbert.results import embedding_scores
from mtsbert.results.embedding_scores import (
    Measures,
    draw_counts,
    embedding_metrics,
    pair_cosines,
    rank_relevant,
    retrieval_metrics,
    retrieval_names,
)


def test_the_cosine_is_a_mean_over_texts_whatever_their_length():
    moved = embedding_metrics(np.array([[2.0, 0.0], [3.0, 3.0]]), np.array([[5.0, 0.0], [0.0, 1.0]]))
    assert moved == {"embedding_cosine": pytest.approx((1.0 + np.sqrt(0.5)) / 2)}  # too few texts for neighbours


def test_the_overlap_is_that_of_a_search_by_hand(monkeypatch):
    monkeypatch.setattr(embedding_scores, "COSINES_AT_ONCE", 7 * 40)
    random = np.random.default_rng(0)
    references = random.normal(size=(40, 8))
    embeddings = references + 0.5 * random.normal(size=(40, 8))

    def neighbours(vectors, row):
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        nearest = np.argsort(-(vectors @ vectors[row]))
        return set(nearest[nearest != row][:10].tolist())

    expected = np.mean([len(neighbours(embeddings, row) & neighbours(references, row)) / 10 for row in range(40)])
    assert embedding_metrics(embeddings, references)["embedding_overlap_at_10"] == pytest.approx(expected)
    assert embedding_metrics(references, references) == {
        "embedding_cosine": pytest.approx(1.0),
        "embedding_overlap_at_10": 1.0,
    }


def test_embeddings_of_different_width_have_neighbours_in_common_and_no_cosine():
    references = np.random.default_rng(0).normal(size=(40, 8))
    wider = np.concatenate([references, np.zeros((40, 3))], axis=1)
    assert embedding_metrics(wider, references) == {"embedding_overlap_at_10": 1.0}


def test_cosines_of_pairs_by_hand():
    cosines = pair_cosines(
        np.array([[3.0, 0.0], [1.0, 1.0], [0.0, 0.0]]), np.array([[0.0, 2.0], [4.0, 0.0], [1.0, 0.0]])
    )
    assert cosines.tolist() == pytest.approx([0.0, np.sqrt(0.5), 0.0])


def test_correlations_by_hand():
    measures = Measures.of_correlations(
        np.array([0.1, 0.2, 0.3, 0.4]), np.array([1.0, 2.0, 4.0, 3.0]), num_resamples=1, seed=0
    )
    assert measures.names == ("spearman", "pearson")
    assert measures.values.tolist() == pytest.approx([1 - 6 * 2 / (4 * 15), 4 / 5])


def test_correlations_of_samples_are_those_that_scipy_finds_in_the_rows_drawn():
    random = np.random.default_rng(1)
    scores = random.integers(0, 6, size=30) / 2  # with ties
    cosines = np.round(0.2 * scores + 0.5 * random.normal(size=30), 1)
    measures = Measures.of_correlations(cosines, scores, num_resamples=20, seed=5)
    for counts, found in zip(draw_counts(30, 20, 5), measures.resampled, strict=True):
        drawn = [np.repeat(values, counts.astype(int)) for values in (cosines, scores)]
        assert found.tolist() == pytest.approx([spearmanr(*drawn).statistic, pearsonr(*drawn).statistic])
    assert measures.values.tolist() == pytest.approx(
        [spearmanr(cosines, scores).statistic, pearsonr(cosines, scores).statistic]
    )


def test_nothing_that_differs_correlates_with_nothing():
    measures = Measures.of_correlations(np.full(3, 0.3), np.array([1.0, 2.0, 3.0]), num_resamples=5, seed=0)
    assert measures.values.tolist() == [0.0, 0.0]
    assert measures.intervals.tolist() == [[0.0, 0.0]] * 2


def test_samples_follow_the_seed_and_are_as_many_as_the_rows():
    draws = [np.stack(list(draw_counts(30, 20, seed))) for seed in (1, 1, 2)]
    assert draws[0].sum(axis=1).tolist() == [30.0] * 20
    assert (draws[0] == draws[1]).all()
    assert (draws[0] != draws[2]).any()


def test_means_of_samples_are_those_of_the_rows_drawn():
    rows = np.array([[1.0, 0.0], [0.0, 0.5], [0.0, 1.0]])
    measures = Measures.of_means(("a", "b"), rows, num_resamples=4, seed=3)
    assert measures.values.tolist() == pytest.approx([1 / 3, 0.5])
    for counts, found in zip(draw_counts(3, 4, 3), measures.resampled, strict=True):
        assert found.tolist() == pytest.approx(np.repeat(rows, counts.astype(int), axis=0).mean(axis=0).tolist())


def test_a_difference_is_paired():
    """The second is better by 0.25 on every row: no sample says otherwise."""
    rows = np.random.default_rng(0).random(size=(40, 1))
    one, other = (Measures.of_means(("a",), of, num_resamples=100, seed=0) for of in (rows, rows + 0.25))
    assert np.ptp(one.intervals) > 0.05
    difference = (other - one).to_dict()
    assert difference == {"a": pytest.approx(0.25), "a_interval": [pytest.approx(0.25)] * 2}


@pytest.mark.parametrize("cosines_at_once", [1, 2**24])
def test_ranks_by_hand(monkeypatch, cosines_at_once):
    monkeypatch.setattr(embedding_scores, "COSINES_AT_ONCE", cosines_at_once)
    documents = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [-1.0, 0.0]])
    queries = np.array([[5.0, 0.1], [-1.0, 0.5]])  # first: 0, 2, 1, 3; second: 3, 1, 2, 0
    ranks = rank_relevant(queries, documents, [np.array([1, 2]), np.array([0])])
    assert [of.tolist() for of in ranks] == [[2, 3], [4]]


def test_documents_with_the_same_cosine_keep_their_order():
    same = np.ones((5, 2))
    ranks = rank_relevant(same[:2], same, [np.array([0]), np.array([2, 4])])
    assert [of.tolist() for of in ranks] == [[1], [3, 5]]


def test_retrieval_metrics_by_hand():
    assert retrieval_names([1, 5]) == ("recall_at_1", "recall_at_5", "mrr", "ndcg_at_10")
    found = retrieval_metrics([np.array([1, 3]), np.array([11]), np.array([4])], at=[1, 5])
    assert found.tolist() == [
        pytest.approx([0.5, 1.0, 1.0, (1 + 1 / 2) / (1 + 1 / np.log2(3))]),
        pytest.approx([0.0, 0.0, 1 / 11, 0.0]),
        pytest.approx([0.0, 1.0, 1 / 4, 1 / np.log2(5)]),
    ]


def test_a_query_with_more_relevant_documents_than_places_can_have_all_of_the_gain():
    (found,) = retrieval_metrics([np.arange(1, 13)], at=[10])
    assert found.tolist() == pytest.approx([10 / 12, 1.0, 1.0])
