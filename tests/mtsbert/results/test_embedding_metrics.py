"""Tests the metrics of how far embeddings have moved, by hand and by brute force."""

import numpy as np
import pytest

from mtsbert.results import metrics
from mtsbert.results.metrics import embedding_metrics


def test_the_cosine_is_a_mean_over_texts_whatever_their_length():
    moved = embedding_metrics(np.array([[2.0, 0.0], [3.0, 3.0]]), np.array([[5.0, 0.0], [0.0, 1.0]]))
    assert moved == {"embedding_cosine": pytest.approx((1.0 + np.sqrt(0.5)) / 2)}  # too few texts for neighbours


def test_the_overlap_is_that_of_a_search_by_hand(monkeypatch):
    monkeypatch.setattr(metrics, "ROWS_AT_ONCE", 7)
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
