"""Tests what helps labels that are rare: balanced weights, weights of what is there, and the focal loss."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from configuration_mtsbert import check_tasks
from losses_mtsbert import item_losses
from mtsbert.data.loading import load_data


TOPIC = {"type": "sequence_classification", "labels": ["a", "b", "c"]}
NER = {"type": "token_classification", "labels": ["O", "B-X", "I-X"]}
KINDS = TOPIC | {"multi_label": True}


def cross_entropies(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)


@pytest.mark.parametrize(("task", "shape"), [(TOPIC, (6,)), (NER, (2, 5))])
@pytest.mark.parametrize("gamma", [None, 0.0, 0.5])
def test_the_focal_loss_of_labels_and_of_tags(task, shape, gamma):
    logits, labels = torch.randn(*shape, 3), torch.randint(3, shape)
    settings = task | {"loss": "focal"} | ({} if gamma is None else {"focal_gamma": gamma})
    right = logits.softmax(dim=-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    expected = (1 - right) ** (2.0 if gamma is None else gamma) * cross_entropies(logits, labels)
    assert torch.allclose(item_losses(settings, logits, labels), expected, atol=1e-6)
    missing = labels.clone()
    missing.view(-1)[0] = -100
    found = item_losses(settings, logits, missing).view(-1)
    assert found[0] == 0.0
    assert torch.allclose(found[1:], expected.view(-1)[1:], atol=1e-6)


def test_the_focal_loss_of_several_labels():
    logits, labels = torch.randn(4, 3), torch.randint(2, (4, 3))
    p = torch.where(labels == 1, logits.sigmoid(), 1 - logits.sigmoid())
    found = item_losses(KINDS | {"loss": "focal", "focal_gamma": 1.5}, logits, labels)
    assert torch.allclose(found, -((1 - p) ** 1.5) * p.log(), atol=1e-6)


def test_labels_that_are_there_weigh_more():
    logits, labels, weights = torch.randn(4, 3), torch.randint(2, (4, 3)), [3.0, 1.0, 0.5]
    found = item_losses(KINDS | {"pos_weight": weights}, logits, labels)
    expected = F.binary_cross_entropy_with_logits(
        logits, labels.float(), pos_weight=torch.tensor(weights), reduction="none"
    )
    assert torch.allclose(found, expected)
    labels[1] = -100
    assert not item_losses(KINDS | {"pos_weight": weights}, logits, labels)[1].any()


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize(("task", "labels"), [(TOPIC, [0]), (KINDS, [[1, 0, 0]]), (KINDS, [[-100, -100, -100]])])
def test_what_is_surely_right_has_finite_gradients(task, labels, gamma):
    logits = torch.tensor([[30.0, -30.0, -30.0]], requires_grad=True)
    item_losses(task | {"loss": "focal", "focal_gamma": gamma}, logits, torch.tensor(labels)).sum().backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["sequence_classification", "pair_classification"])
def test_balanced_weights_are_those_of_scikit_learn(kind):
    labels = ["b"] * 7 + ["a"] * 2 + ["c"]
    rows = Dataset.from_list([{"text": "x", "text_pair": "y", "topic": label} for label in [*labels, None]])
    found = load_data(rows, {"topic": {"type": kind, "class_weights": "balanced"}}).tasks["topic"]
    assert found["labels"] == ["a", "b", "c"]
    expected = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=np.array(labels))
    assert found["class_weights"] == pytest.approx(expected.tolist())
    check_tasks({"topic": found})


def test_balanced_weights_of_several_labels():
    rows = Dataset.from_list([{"text": "x", "kind": kinds} for kinds in (["a"], ["a", "b"], ["a"], [], None)])
    task = {"type": "sequence_classification", "multi_label": True, "labels": ["a", "b"], "pos_weight": "balanced"}
    assert load_data(rows, {"kind": task}).tasks["kind"]["pos_weight"] == [1 / 3, 3.0]
    everywhere = Dataset.from_list([{"text": "x", "kind": ["a"]}, {"text": "y", "kind": ["a", "b"]}])
    assert load_data(everywhere, {"kind": task}).tasks["kind"]["pos_weight"] == [
        0.5,
        1.0,
    ]  # not 0: nothing would be learned
    by_label = task | {"pos_weight": {"b": 5}}
    assert load_data(rows, {"kind": by_label}).tasks["kind"]["pos_weight"] == [1.0, 5]


def test_weights_need_training_rows_and_are_not_needed_without():
    rows = Dataset.from_list([{"text": "x", "topic": label} for label in "aab"])
    balanced = TOPIC | {"class_weights": "balanced"}
    with pytest.raises(ValueError, match=r"Task 'topic': .* has no weight for \['c'\], which no training row has"):
        load_data(rows, {"topic": balanced})
    assert load_data({"test": rows}, {"topic": balanced}).tasks["topic"]["class_weights"] is None


def test_a_label_that_the_task_lacks_is_named_or_skipped_before_weights_are_counted():
    rows = Dataset.from_list([{"text": "x", "topic": label} for label in "aabbc"] + [{"text": "y", "topic": "odd"}])
    balanced = {"topic": TOPIC | {"class_weights": "balanced"}}
    with pytest.raises(ValueError, match=r"Row 5 .* label 'odd' is not one of task 'topic'"):
        load_data(rows, balanced)
    weights = load_data(rows, balanced, bad_rows="skip").tasks["topic"]["class_weights"]
    assert weights == pytest.approx([5 / 6, 5 / 6, 5 / 3])


def test_a_sample_without_a_rare_label_is_told_and_goes_on(caplog):
    rows = Dataset.from_list([{"text": "x", "topic": label} for label in "ab" * 20 + "c"])
    balanced = {"topic": TOPIC | {"class_weights": "balanced"}}
    weights = load_data(rows, balanced, max_samples={"train": 6}).tasks["topic"]["class_weights"]
    assert weights[2] == 1.0
    assert "['c'] are in none of the sampled training rows, and weigh 1" in caplog.text


@pytest.mark.parametrize(
    ("task", "value", "message"),
    [
        ({"type": "token_classification", "class_weights": "balanced"}, [{"start": 0, "end": 1, "label": "X"}],
         "'class_weights: balanced' counts texts of one label each; here, give a mapping"),
        (KINDS | {"class_weights": "balanced"}, ["a"], "'class_weights: balanced' counts texts of one label each"),
        (TOPIC | {"pos_weight": "balanced"}, "a", "'pos_weight' belongs to 'multi_label: true'"),
        (KINDS | {"pos_weight": {"d": 1}}, ["a"], r"'pos_weight' names \['d'\]"),
        (KINDS | {"pos_weight": [1.0]}, ["a"], "'pos_weight' needs a number of 0 or more for each of 3 labels"),
        (TOPIC | {"class_weights": [1.0, float("nan"), 1.0]}, "a", "'class_weights' needs a number of 0 or more"),
        (TOPIC | {"loss": "mse"}, "a", r"'loss' is 'mse'; allowed are \['cross_entropy', 'focal'\]"),
        (TOPIC | {"focal_gamma": 2.0}, "a", "'focal_gamma' belongs to 'loss: focal', and the loss is 'cross_entropy'"),
        (TOPIC | {"loss": "focal", "focal_gamma": -1}, "a", "'focal_gamma' is -1; it must be a number of 0 or more"),
    ],
)  # fmt: skip
def test_weights_and_losses_that_do_not_fit_are_refused(task, value, message):
    with pytest.raises(ValueError, match=message):
        load_data(
            Dataset.from_list([{"text": "x", "task": value}]), {"task": task}, columns={"text": "text", "task": "task"}
        )
