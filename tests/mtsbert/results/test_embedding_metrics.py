"""Tests the scores of embeddings by hand, by brute force, and against sentence-transformers' evaluators."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sentence_transformers import util
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from mtsbert.results import embedding_scores
from mtsbert.results.embedding_scores import (
    embedding_metrics,
    pair_correlations,
    ranks_of_relevant,
    retrieval_figures,
    score_pairs,
    score_retrieval,
)


def test_the_cosine_is_a_mean_over_texts_whatever_their_length():
    moved = embedding_metrics(np.array([[2.0, 0.0], [3.0, 3.0]]), np.array([[5.0, 0.0], [0.0, 1.0]]))
    assert moved == {"embedding_cosine": pytest.approx((1.0 + np.sqrt(0.5)) / 2)}  # too few texts for neighbours


def test_the_overlap_is_that_of_a_search_by_hand(monkeypatch):
    monkeypatch.setattr(embedding_scores, "ROWS_AT_ONCE", 7)
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


def test_correlations_are_scipys():
    random = np.random.default_rng(1)
    cosines, scores = random.normal(size=50), random.integers(6, size=50).astype(float)  # with ties
    found = pair_correlations(cosines, scores)
    assert found["spearman"] == pytest.approx(spearmanr(cosines, scores).statistic, abs=1e-12)
    assert found["pearson"] == pytest.approx(pearsonr(cosines, scores).statistic, abs=1e-12)
    assert pair_correlations(np.ones(3), np.arange(3.0)) == {"spearman": 0.0, "pearson": 0.0}


def test_intervals_come_from_resampled_pairs_that_both_models_share():
    random = np.random.default_rng(2)
    scores = random.normal(size=200)
    cosines = {name: scores + noise * random.normal(size=200) for name, noise in (("model", 0.5), ("reference", 1.0))}
    found = score_pairs(cosines, scores, num_resamples=300, seed=1)
    again = np.random.default_rng(1)
    samples = [again.integers(200, size=200) for _ in range(300)]
    by_hand = [spearmanr(cosines["model"][rows], scores[rows]).statistic for rows in samples]
    assert found["model"]["spearman"].low == pytest.approx(np.quantile(by_hand, 0.025))
    assert found["model"]["spearman"].high == pytest.approx(np.quantile(by_hand, 0.975))
    difference = found["difference from reference"]["spearman"]
    assert difference.value == pytest.approx(found["model"]["spearman"].value - found["reference"]["spearman"].value)
    assert 0 < difference.low < difference.value < difference.high
    same = score_pairs({"model": scores, "reference": scores}, scores, num_resamples=5, seed=1)
    assert same["difference from reference"]["pearson"].high == 0.0


def test_ranks_and_figures_by_hand():
    documents = np.eye(4)
    queries = np.array([[0.5, 0.4, 0.3, 0.2], [0.1, 0.2, 0.2, 0.9]])
    ranks = ranks_of_relevant(queries, documents, [{1, 3}, {2}])
    assert [list(one) for one in ranks] == [[2, 4], [3]]  # a tie counts against the relevant document
    figures = retrieval_figures(ranks, [1, 2, 3])
    assert figures["recall_at_1"].tolist() == [0.0, 0.0]
    assert figures["recall_at_2"].tolist() == [0.5, 0.0]
    assert figures["recall_at_3"].tolist() == [0.5, 1.0]
    assert figures["mrr_at_10"].tolist() == pytest.approx([1 / 2, 1 / 3])
    gain = 1 / np.log2([3, 5, 4])
    ideal = 1 + 1 / np.log2(3)
    assert figures["ndcg_at_10"].tolist() == pytest.approx([(gain[0] + gain[1]) / ideal, gain[2]])
    beyond = retrieval_figures([np.array([11])], [10])
    assert [values[0] for values in beyond.values()] == [0.0, 0.0, 0.0]
    averaged = score_retrieval({"model": ranks}, at=[3], num_resamples=50, seed=0)
    assert averaged["model"]["recall_at_3"].value == 0.75
    assert (averaged["model"]["recall_at_3"].low, averaged["model"]["recall_at_3"].high) == (0.5, 1.0)


def test_retrieval_is_that_of_sentence_transformers(monkeypatch):
    monkeypatch.setattr(embedding_scores, "ROWS_AT_ONCE", 7)
    random = np.random.default_rng(3)
    documents, queries = (embedding_scores.normalized(random.normal(size=(rows, 16))) for rows in (60, 20))
    relevant = [set(random.choice(60, size=random.integers(1, 13), replace=False).tolist()) for _ in range(20)]
    theirs = InformationRetrievalEvaluator(
        {f"q{row}": "q" for row in range(20)},
        {f"d{row}": "d" for row in range(60)},
        {f"q{row}": {f"d{place}" for place in places} for row, places in enumerate(relevant)},
        mrr_at_k=[10], ndcg_at_k=[10], accuracy_at_k=[1], precision_recall_at_k=[1, 10], map_at_k=[10],
        score_functions={"cosine": util.cos_sim}, write_csv=False,
    )  # fmt: skip
    scores = queries @ documents.T
    found = [[{"corpus_id": f"d{place}", "score": row[place]} for place in np.argsort(-row)] for row in scores]
    expected = theirs.compute_metrics(found)
    ours = score_retrieval(
        {"model": ranks_of_relevant(queries, documents, relevant)}, at=[1, 10], num_resamples=1, seed=0
    )["model"]
    assert ours["ndcg_at_10"].value == pytest.approx(expected["ndcg@k"][10], abs=1e-6)
    assert ours["mrr_at_10"].value == pytest.approx(expected["mrr@k"][10], abs=1e-6)
    assert ours["recall_at_1"].value == pytest.approx(expected["recall@k"][1], abs=1e-6)
    assert ours["recall_at_10"].value == pytest.approx(expected["recall@k"][10], abs=1e-6)
