"""Tests metrics against scikit-learn and seqeval, and with missing labels."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from seqeval.metrics import f1_score as entity_f1
from sklearn.metrics import f1_score
from transformers import EvalPrediction

from mtsbert.data.labels import METRIC_NAMES
from mtsbert.results.metrics import (
    PRIMARY_METRIC,
    SimilarityMetric,
    compute_metrics,
    loss_key,
    metric_of,
    reduce_logits,
)


X = -100


def evaluated(tasks: dict, logits: dict, labels: dict) -> dict[str, float]:
    reduced = reduce_logits(tasks)(logits, labels)
    predictions = {name: value.numpy() for name, value in reduced.items()}
    return compute_metrics(tasks)(EvalPrediction(predictions, {name: value.numpy() for name, value in labels.items()}))


@pytest.fixture
def random_batch(tasks):
    generator = torch.Generator().manual_seed(1)
    num_tags = len(tasks["ner"]["labels"])
    logits = {
        "topic": torch.randn(50, 2, generator=generator),
        "ner": torch.randn(50, 12, num_tags, generator=generator) * 2,
    }
    labels = {
        "topic": torch.randint(0, 2, (50,), generator=generator),
        "ner": torch.randint(0, num_tags, (50, 12), generator=generator),
    }
    labels["topic"][::7] = X
    labels["ner"][:, 0] = labels["ner"][:, -1] = X
    labels["ner"][3] = X
    return logits, labels


def test_metrics_equal_scikit_learn_and_seqeval(tasks, random_batch):
    logits, labels = random_batch
    results = evaluated(tasks, logits, labels)
    kept = labels["topic"] != X
    predicted = logits["topic"].argmax(-1)
    assert results["topic_accuracy"] == pytest.approx((predicted == labels["topic"])[kept].float().mean().item())
    assert results["topic_macro_f1"] == pytest.approx(
        f1_score(labels["topic"][kept], predicted[kept], average="macro")
    )

    names = tasks["ner"]["labels"]
    decoded = reduce_logits(tasks)(logits, labels)["ner"]
    rows = [row for row in range(50) if row != 3]
    expected = entity_f1(
        [[names[tag] for tag in labels["ner"][row, 1:-1]] for row in rows],
        [[names[tag] for tag in decoded[row, 1:-1]] for row in rows],
    )
    assert 0 < expected < 1
    assert results["ner_f1"] == pytest.approx(expected)
    assert results["composite"] == pytest.approx((results["topic_accuracy"] + results["ner_f1"]) / 2)


def test_losses_are_exact_means_over_labelled_items(tasks, random_batch):
    logits, labels = random_batch
    results = evaluated(tasks, logits, labels)
    for task in ("topic", "ner"):
        expected = torch.nn.functional.cross_entropy(logits[task].flatten(0, -2), labels[task].flatten())
        assert results[f"{task}_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_a_task_without_labels_is_left_out_of_the_results_and_the_composite(tasks, random_batch):
    logits, labels = random_batch
    labels["topic"][:] = X
    results = evaluated(tasks, logits, labels)
    assert not [key for key in results if key.startswith("topic")]
    assert results["composite"] == results["ner_f1"]
    labels["ner"][:] = X
    assert evaluated(tasks, logits, labels) == {}


def test_rows_padded_to_different_lengths_are_fine(tasks):
    """The Trainer pads predictions and labels of several batches with -100."""
    names = tasks["ner"]["labels"]
    labels = np.array([[X, 1, 0, X, X], [X, 0, 3, 4, X]])
    predictions = {
        "ner": np.array([[0, 1, 0, X, X], [0, 0, 3, 4, 0]]),
        loss_key("ner"): np.array([1.0, 2.0]),
    }
    results = compute_metrics({"ner": tasks["ner"]})(EvalPrediction(predictions, {"ner": labels}))
    assert names[3] == "B-ORG"
    assert results["ner_f1"] == 1.0
    assert results["ner_loss"] == pytest.approx(3.0 / 5)


def test_predicted_tags_are_legal(tasks, random_batch):
    decoded = reduce_logits(tasks)(*random_batch)["ner"]
    names = tasks["ner"]["labels"]
    for row in decoded.tolist():
        tags = ["O", *(names[tag] for tag in row)]
        assert all(previous[1:] == tag[1:] for previous, tag in pairwise(tags) if tag[0] == "I")


def test_predicted_entities_are_those_that_the_task_lets_through(tasks, random_batch):
    logits, labels = random_batch
    outside = tasks["ner"]["labels"].index("O")
    found = {}
    for least in (0.0, 0.6, 1.0):
        of_tokens = {**tasks["ner"], "min_score": least}
        found[least] = (reduce_logits({**tasks, "ner": of_tokens})(logits, labels)["ner"] > outside).sum()
    assert found[0.0] > found[0.6] > found[1.0] == 0


def test_pair_and_multi_label_metrics():
    tasks = {
        "tags": {"type": "sequence_classification", "multi_label": True, "labels": ["x", "y"]},
        "nli": {"type": "pair_classification", "labels": ["no", "yes"]},
        "sts": {"type": "pair_similarity", "score_range": [0, 5]},
    }
    nan = float("nan")
    logits = {
        "tags": torch.tensor([[2.0, -1.0], [1.0, 1.0], [-1.0, -1.0], [5.0, 5.0]]),
        "nli": torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]),
        "sts": torch.tensor([0.9, 0.1, 0.4, 0.7]),
    }
    labels = {
        "tags": torch.tensor([[1, 0], [1, 0], [0, 0], [X, X]]),
        "nli": torch.tensor([1, 0, X, 0]),
        "sts": torch.tensor([5.0, 0.0, nan, 1.0]),
    }
    results = evaluated(tasks, logits, labels)
    assert results["tags_accuracy"] == pytest.approx(2 / 3)
    assert results["tags_macro_f1"] == pytest.approx((1.0 + 0.0) / 2)
    assert results["nli_accuracy"] == pytest.approx(2 / 3)
    assert results["sts_spearman"] == pytest.approx(spearmanr([0.9, 0.1, 0.7], [5.0, 0.0, 1.0]).statistic)
    assert results["sts_loss"] == pytest.approx(((0.9 - 1) ** 2 + 0.1**2 + (0.7 - 0.2) ** 2) / 3)
    assert results["composite"] == pytest.approx((2 / 3 + 2 / 3 + results["sts_spearman"]) / 3)


def test_similarity_metrics_equal_scipy_and_sentence_transformers_definition():
    generator = np.random.default_rng(0)
    cosines, scores = generator.random(200).astype("float32"), generator.integers(0, 6, 200).astype("float32")
    found = SimilarityMetric(keep_in_memory=True).compute(predictions=cosines, references=scores)
    assert found["spearman"] == pytest.approx(spearmanr(cosines, scores).statistic, abs=1e-6)
    assert found["pearson"] == pytest.approx(np.corrcoef(cosines, scores)[0, 1], abs=1e-6)
    same = SimilarityMetric(keep_in_memory=True).compute(predictions=[0.5] * 3, references=[1.0, 2.0, 3.0])
    assert same == {"spearman": 0.0, "pearson": 0.0}


INPUTS = {
    "sequence_classification": {"predictions": [0, 1], "references": [0, 1]},
    "pair_classification": {"predictions": [0, 1], "references": [0, 1]},
    "token_classification": {"predictions": [["O", "B-X"]], "references": [["O", "B-X"]]},
    "sequence_regression": {"predictions": [0.1, 0.2], "references": [0.0, 1.0]},
    "pair_similarity": {"predictions": [0.1, 0.2], "references": [0.0, 1.0]},
    "pair_ranking": {"predictions": [1.0, 2.0]},
}


@pytest.mark.parametrize("kind", METRIC_NAMES)
def test_the_names_that_may_not_clash_are_those_that_are_reported(kind):
    assert set(metric_of({"type": kind}).compute(**INPUTS[kind])) == set(METRIC_NAMES[kind])
    assert PRIMARY_METRIC[kind] in METRIC_NAMES[kind]


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_number_that_has_overflowed_ends_no_evaluation(wrong):
    tasks = {"year": {"type": "sequence_regression"}}
    logits, labels = torch.tensor([[1.0], [wrong], [3.0]]), torch.tensor([1.0, 2.0, 3.0])
    found = evaluated(tasks, {"year": logits}, {"year": labels})
    assert set(found) == {"year_spearman", "year_mae", "year_r2", "year_loss", "composite"}
    assert not np.isfinite(list(found.values())).any()
