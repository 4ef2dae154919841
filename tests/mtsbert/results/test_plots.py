"""Tests that the plots of a run exist, are not empty, and show the right numbers."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from data_prep.figures import MOST_SHOWN
from entities_mtsbert import bio_labels
from mtsbert.results.metrics import Evaluation, count_answers, f1_score_of, precision_of, recall_of
from mtsbert.results.plots import _losses, draw_plots, merge_rare


NASTY = ["<script>", "$x^{$", "a|b", "---", "two\nlines", "`", "日本語", "x" * 200]
LOG = [
    {"step": 4, "epoch": 1.0, "loss": 1.5, "topic_loss": 0.5, "ner_loss": 1.0},
    {"step": 4, "epoch": 1.0, "eval_loss": 1.2, "eval_topic_loss": 0.4, "eval_ner_loss": float("nan")},
]


def pixels(path) -> np.ndarray:
    from matplotlib.image import imread

    return imread(path)[..., :3]


def is_blank(path) -> bool:
    image = pixels(path)
    return bool((image == image[0, 0]).all())


def sequence(labels: list[str]) -> dict:
    return {"type": "sequence_classification", "labels": labels}


def entities(types: list[str]) -> dict:
    return {"type": "token_classification", "labels": bio_labels(types)}


def test_confusions_are_those_of_sklearn():
    tasks = {"topic": sequence(["a", "b", "c"])}
    labels, predictions = np.array([0, 1, 2, 2, -100, 1]), np.array([0, 2, 2, 2, 1, 1])
    counts = count_answers(tasks, {"topic": predictions}, {"topic": labels})["topic"]
    assert counts.tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 2]]
    known = labels != -100
    assert counts.tolist() == confusion_matrix(labels[known], predictions[known], labels=[0, 1, 2]).tolist()


def test_entities_are_counted_by_span_and_type():
    tasks = {"ner": entities(["GPE", "ORG"])}
    # O B-GPE I-GPE B-ORG I-ORG; the first position and the second row have no label
    labels = np.array([[-100, 1, 2, 0, 3], [-100] * 5, [-100, 1, 0, 3, 4]])
    predictions = np.array([[0, 1, 2, 0, 1], [1, 1, 1, 1, 1], [0, 1, 0, 3, 0]])
    counts = count_answers(tasks, {"ner": predictions}, {"ner": labels})["ner"]
    assert counts.tolist() == [[2, 3, 2], [0, 1, 2]]
    assert [precision_of(counts[0]), recall_of(counts[0])] == pytest.approx([2 / 3, 1.0])
    assert f1_score_of(counts[0]) == pytest.approx(0.8)
    assert [precision_of(np.zeros(3)), recall_of(np.zeros(3)), f1_score_of(np.zeros(3))] == [0.0] * 3


def test_scores_from_counts_are_those_of_sklearn():
    labels, predictions = np.array([0, 1, 1, 1, 0, 1]), np.array([1, 1, 0, 1, 0, 1])
    counts = np.array([((labels == 1) & (predictions == 1)).sum(), predictions.sum(), labels.sum()])
    expected = precision_recall_fscore_support(labels, predictions, average="binary")[:3]
    assert (precision_of(counts), recall_of(counts), f1_score_of(counts)) == pytest.approx(expected)


def test_tasks_without_labels_or_without_classes_are_not_counted():
    tasks = {
        "topic": sequence(["a", "b"]),
        "many": {**sequence(["a", "b"]), "multi_label": True},
        "sts": {"type": "pair_similarity", "score_range": [0, 5]},
    }
    labels = {"topic": np.array([-100]), "many": np.array([[1, 0]]), "sts": np.array([1.0], dtype=np.float32)}
    assert count_answers(tasks, labels, labels) == {}


def test_rare_labels_become_one_and_nothing_is_lost():
    counts = np.random.default_rng(0).integers(0, 9, (50, 50))
    counts[7] += 100
    names, merged, has_rest = merge_rare([str(index) for index in range(50)], counts)
    assert has_rest
    assert names[0] == "7"
    assert len(names) == MOST_SHOWN == len(merged)
    assert names[-1] == f"{50 - MOST_SHOWN + 1} others"
    assert merged.sum() == counts.sum()
    assert merged[0, 0] == counts[7, 7]
    assert merged[0].sum() == counts[7].sum()
    assert merge_rare(["a", "b"], counts[:2, :2])[2] is False


@pytest.mark.parametrize("size", [2, 50])
def test_every_plot_shows_something(tmp_path, size):
    labels = (NASTY + [f"label {index}" for index in range(50)])[:size]
    tasks = {"topic": sequence(labels), "ner": entities([f"T{index}" for index in range(size)])}
    counts = {"topic": np.eye(size, dtype=int) * 5 + 1, "ner": np.tile([3, 5, 4], (size, 1))}
    plots = draw_plots(tmp_path, tasks, log_history=LOG, evaluation=Evaluation({}, counts), split="test")
    assert plots == {
        "losses": "plots/losses.png",
        "topic": "plots/confusion_topic.png",
        "ner": "plots/entities_ner.png",
    }
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == sorted(
        path.removeprefix("plots/") for path in plots.values()
    )
    assert not any(is_blank(tmp_path / path) for path in plots.values())


def test_the_losses_show_training_and_validation(tmp_path):
    from matplotlib.colors import to_rgb

    from data_prep.figures import BLUE, ORANGE

    path = tmp_path / draw_plots(tmp_path, {"topic": sequence(["a", "b"])}, log_history=LOG)["losses"]
    # Panels begin below the legend, which shows both colours anyway.
    image = pixels(path)[pixels(path).shape[0] // 5 :]
    for colour in (BLUE, ORANGE):
        assert (abs(image - np.array(to_rgb(colour))) < 0.02).all(axis=-1).sum() > 20


@pytest.mark.parametrize("losses", [[1.0, 0.5], [1.0, -1.5], [-1.0, -2.0]])
def test_the_losses_are_seen_whole_below_zero_too(losses):
    log = [{"step": step, "epoch": step, "loss": loss, "a_loss": 1.0} for step, loss in enumerate(losses)]
    lowest, highest = _losses(["a", "b"], log).get_axes()[0].get_ylim()
    assert lowest <= min(losses) < max(losses) <= highest
    assert lowest == 0 or min(losses) < 0


def test_without_numbers_there_is_no_plot(tmp_path):
    tasks = {"topic": sequence(["a", "b"])}
    evaluated_only = [{"step": 0, "eval_loss": 1.0, "eval_topic_loss": 1.0}]
    assert draw_plots(tmp_path, tasks, log_history=evaluated_only, evaluation=Evaluation({}, {})) == {}
    assert not (tmp_path / "plots").exists()
