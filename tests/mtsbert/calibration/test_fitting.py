"""Tests what turns scores into probabilities, on answers whose probabilities are known."""

import numpy as np
import pytest
import torch

from answers_mtsbert import calibrated, probabilities_of
from entities_mtsbert import IGNORE_INDEX, bio_labels
from mtsbert.calibration.fitting import expected_calibration_error, fit, fit_entities, scored_entities, scored_labels


TOPIC = {"type": "sequence_classification", "labels": ["a", "b", "c"]}
MANY = {"type": "sequence_classification", "labels": ["a", "b"], "multi_label": True}
NER = {"type": "token_classification", "labels": bio_labels(["GPE", "ORG"])}  # O, B-GPE, I-GPE, B-ORG, I-ORG


def drawn(num_rows: int, num_classes: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels that are drawn with exactly their probabilities."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2.0 * torch.randn(num_rows, num_classes, generator=generator)
    return logits, torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).squeeze(1)


def test_the_error_by_hand():
    scores = np.array([0.9, 0.9, 0.9, 0.9, 0.3, 0.3])  # 3 of 4 are right where 3.6 should be, and 1 of 2 for 0.6
    is_right = np.array([True, True, True, False, True, False])
    assert expected_calibration_error(scores, is_right) == pytest.approx((0.6 + 0.4) / 6)
    assert expected_calibration_error(np.array([1.0]), np.array([True])) == 0.0


def test_a_temperature_is_found_again():
    logits, labels = drawn(20_000, 3)
    found = fit(TOPIC, 3.0 * logits, labels)
    assert found.settings["temperature"] == pytest.approx(3.0, rel=0.05)
    assert found.num_items == 20_000
    assert found.error_before > 0.1
    assert found.error_after < 0.01


@pytest.mark.parametrize("factor", [20.0, 45.0, 60.0])
@pytest.mark.parametrize("settings", [TOPIC, {**MANY, "labels": ["a", "b", "c"]}], ids=["one", "many"])
def test_a_temperature_is_found_for_a_network_that_is_much_too_sure(settings, factor):
    """Where its wrong answers have scores that are rounded to 1, too."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (1_000,), generator=generator)
    answers = torch.where(torch.rand(1_000, generator=generator) < 0.95, labels, (labels + 1) % 3)
    logits = factor * (torch.nn.functional.one_hot(answers, 3) - 0.5)
    found = fit(settings, logits, torch.nn.functional.one_hot(labels, 3) if "multi_label" in settings else labels)
    scores = probabilities_of({**settings, **found.settings}, logits).max(dim=1).values
    right = (answers == labels).double().mean().item()
    if "multi_label" in settings:  # of three labels, one is given
        right = 1 - 2 * (1 - right) / 3
    assert scores.mean().item() == pytest.approx(right, abs=0.01)


@pytest.mark.parametrize("settings", [TOPIC, {**MANY, "labels": ["a", "b", "c"]}], ids=["one", "many"])
def test_where_all_are_right_some_doubt_is_left(settings):
    """As much as the rule of succession gives; of a network that has less, the scores stay as they are."""
    right = torch.nn.functional.one_hot(torch.arange(300) % 3, 3)
    labels = right if "multi_label" in settings else right.argmax(dim=1)
    found = fit(settings, 4.0 * (right - 0.5), labels)
    scores = probabilities_of({**settings, **found.settings}, 4.0 * (right - 0.5))
    number = 900 if "multi_label" in settings else 300
    doubt = (
        torch.where(right.bool(), 1.0 - scores, scores).mean() if number == 900 else 1.0 - scores[right.bool()].mean()
    )
    assert doubt.item() == pytest.approx(1 / (number + 2), rel=0.01)
    sure = fit(settings, 40.0 * (right - 0.5), labels)
    assert sure.settings["temperature"] == pytest.approx(1.0, abs=1e-4)
    assert found.helps
    assert sure.helps


def test_scores_that_tell_right_entities_from_wrong_without_a_mistake_are_fitted():
    """Where the slope is so steep that exponentials overflow."""
    scores = np.where(np.arange(400) < 200, 0.2, 0.21)
    scores[0] = 0.0  # far from the others
    found = fit_entities(NER, scores, np.arange(400) >= 200)
    assert found.settings["platt"][0] > 100
    assert found.error_after == pytest.approx(0.0, abs=1e-3)


def test_label_smoothing_is_undone_before_the_temperature():
    """What a network learns that is trained with smoothing, as its best: (1 - e) p + e / C."""
    logits, labels = drawn(20_000, 3)
    smooth = {**TOPIC, "label_smoothing": 0.2}
    learned = (0.8 * logits.softmax(dim=-1) + 0.2 / 3).log()
    found = fit(smooth, learned, labels)
    assert found.settings["temperature"] == pytest.approx(1.0, abs=0.05)
    assert found.error_after < 0.01
    assert fit(TOPIC, learned, labels).error_after > found.error_after  # a temperature alone does not do it
    assert found.settings["smoothing"] == 0.2
    again = probabilities_of({**TOPIC, "temperature": 1.0, "smoothing": 0.2}, learned)
    sure = learned.exp().amin(dim=-1) > 0.2 / 3 + 0.01
    assert torch.allclose(again[sure], logits.softmax(dim=-1)[sure], atol=0.01)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("settings", [TOPIC, MANY])
def test_calibration_keeps_the_order_of_the_classes(settings, smoothing):
    settings = {**settings, "smoothing": smoothing}
    logits, _ = drawn(500, len(settings["labels"]))
    after = calibrated({**settings, "temperature": 1.7}, 10.0 * logits)
    assert torch.equal(logits.argsort(dim=-1), after.argsort(dim=-1))
    assert after.isfinite().all()


def test_labels_of_a_multi_label_task_are_calibrated_one_by_one():
    generator = torch.Generator().manual_seed(0)
    logits = 2.0 * torch.randn(10_000, 2, generator=generator)
    labels = torch.bernoulli(logits.sigmoid(), generator=generator).long()
    learned = torch.logit(0.8 * (logits / 2.0).sigmoid() + 0.1)  # half as sure, and smoothed
    found = fit({**MANY, "label_smoothing": 0.2}, learned, labels)
    assert found.settings["temperature"] == pytest.approx(0.5, rel=0.05)
    assert found.num_items == 20_000
    assert found.error_after < 0.01


def test_entities_are_right_if_type_and_borders_are():
    tags = [  # predicted, and right
        ([1, 2, 0, 3], [1, 2, 0, 3]),  # both right
        ([1, 0, 0, 3], [1, 2, 0, 4]),  # too short; `I-ORG` where `B-ORG` was found
        ([1, 2, 0, 3], [1, 0, 0, 1]),  # too long; another type
        ([0, 1, 1, 0], [1, 2, 1, 0]),  # begins too late; right
    ]
    predicted, right = (torch.tensor(column) for column in zip(*tags, strict=True))
    logits = 3.0 * torch.nn.functional.one_hot(predicted, 5).float()
    scores, is_right = scored_entities(NER, logits, right)
    assert is_right.tolist() == [True, True, False, False, False, False, False, True]
    assert scores == pytest.approx(logits[0, 0].softmax(dim=-1).max().item())


def test_what_is_not_labelled_is_no_entity():
    right = torch.tensor([[IGNORE_INDEX, 1, IGNORE_INDEX]])
    logits = 3.0 * torch.nn.functional.one_hot(torch.tensor([[1, 1, 1]]), 5).float()
    assert [part.tolist() for part in scored_entities(NER, logits, right)][1] == [True]


def entities(num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One-token entities whose scores are too high: right with p where the score is sqrt(p)."""
    generator = torch.Generator().manual_seed(0)
    p = 0.3 + 0.69 * torch.rand(num_rows, generator=generator)
    score = p.sqrt()
    logits = torch.stack([score, *[(1 - score) / 4] * 4], dim=-1)[:, [1, 0, 2, 3, 4]].log().unsqueeze(1)
    is_right = torch.rand(num_rows, generator=generator) < p
    return logits, torch.where(is_right, 1, 3).unsqueeze(1)


def test_the_scores_of_entities_are_fitted_to_how_often_they_are_right():
    found = fit(NER, *entities(20_000))
    assert list(found.settings) == ["platt"]
    assert found.error_before > 0.1
    assert found.error_after < 0.02
    scores, is_right = scored_entities({**NER, **found.settings}, *entities(20_000))
    assert expected_calibration_error(scores, is_right) == pytest.approx(found.error_after, abs=1e-4)


def test_nothing_is_fitted_to_a_few_answers_to_cosines_or_to_numbers():
    logits, labels = drawn(300, 3)
    assert fit(TOPIC, logits[:199], labels[:199]) is None
    labels[150:] = IGNORE_INDEX
    assert fit(TOPIC, logits, labels) is None
    assert fit(NER, *(part[:150] for part in entities(300))) is None
    assert fit({"type": "pair_similarity", "score_range": [0, 5]}, logits[:, 0], logits[:, 0]) is None
    assert fit({"type": "sequence_regression"}, logits[:, :1], logits[:, 0]) is None
    right = torch.ones(300, 1, dtype=torch.long)
    assert fit(NER, entities(300)[0], right) is None  # all are right: any scale would do


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_text_whose_numbers_have_overflowed_is_left_out(wrong):
    logits, labels = drawn(400, 3)
    overflowed = logits.clone()
    overflowed[7], overflowed[9, 1] = wrong, wrong
    others = [row for row in range(400) if row not in (7, 9)]
    assert fit(TOPIC, overflowed, labels) == fit(TOPIC, logits[others], labels[others])
    many = {**MANY, "labels": TOPIC["labels"]}, torch.nn.functional.one_hot(labels, 3)
    assert fit(many[0], overflowed, many[1]) == fit(many[0], logits[others], many[1][others])
    scores, tags = entities(1_000)
    overflowed = scores.clone()
    overflowed[7], overflowed[9] = wrong, wrong
    others = [row for row in range(1_000) if row not in (7, 9)]
    assert fit(NER, overflowed, tags) == fit(NER, scores[others], tags[others])


def test_undoing_a_smoothing_that_was_not_learned_does_not_help():
    logits, labels = drawn(20_000, 3)
    found = fit({**TOPIC, "label_smoothing": 0.7}, logits, labels)
    assert found.loss_after > found.loss_before + 0.01
    assert not found.helps
    right = logits.log_softmax(dim=-1).gather(1, labels.unsqueeze(1))
    assert found.loss_before == pytest.approx(-right.mean().item(), abs=1e-6)
    assert fit(TOPIC, 3.0 * logits, labels).helps
    many = torch.nn.functional.one_hot(labels, 3)
    assert fit({**MANY, "labels": TOPIC["labels"]}, 3.0 * logits, many).helps


def test_scores_close_to_each_other_are_judged_by_their_log_loss():
    """In one bin before, in many after: their calibration error gets worse, and what they say better."""
    p = torch.tensor([0.15, 0.17, 0.174, 0.18]).repeat(75)  # right are those of 0.174, and of 0.18 every third
    is_right = torch.tensor([0, 0, 1, 0] * 2 + [0, 0, 1, 1]).repeat(25).bool()
    logits = torch.stack([(1 - p) / 4, p, *[(1 - p) / 4] * 3], dim=-1).log().unsqueeze(1)
    logits[..., [0, 2, 3, 4]] -= 1.0  # the entity is likelier than anything else
    found = fit(NER, logits, torch.where(is_right, 1, 3).unsqueeze(1))
    assert found.loss_after < found.loss_before - 0.01
    assert found.error_after > found.error_before + 0.1
    assert found.helps
    fitted, right = scored_entities({**NER, **found.settings}, logits, torch.where(is_right, 1, 3).unsqueeze(1))
    assert fitted.mean() == pytest.approx(right.mean(), abs=1e-3)  # which maximum likelihood makes alike


def test_a_calibration_that_is_there_is_replaced():
    logits, labels = drawn(2_000, 3)
    assert fit({**TOPIC, "temperature": 9.0}, logits, labels).settings == fit(TOPIC, logits, labels).settings
    assert len(scored_labels(TOPIC, logits, labels)[0]) == 2_000
