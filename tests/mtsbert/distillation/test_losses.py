"""Tests the loss between the answers of a model and those of its teacher, against values by hand."""

import pytest
import torch

from mtsbert.arguments import MTLTrainingArguments
from mtsbert.distillation.losses import DistillationLoss, answered, answers_of, distillation_losses


TOPIC = {"type": "sequence_classification", "labels": ["a", "b", "c"]}
TAGS = TOPIC | {"multi_label": True}
NER = {"type": "token_classification", "labels": ["O", "B-X", "I-X"]}
GRADE = {"type": "sequence_regression", "score_range": [1, 5]}


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_single_labels_have_the_divergence_from_the_teachers_probabilities(temperature):
    student, teacher = torch.tensor([[1.0, 0.0, -2.0]]), torch.tensor([[3.0, 5.0, 1.0]])
    p, q = ((logits / temperature).softmax(dim=-1) for logits in (teacher, student))
    expected = (p * (p.log() - q.log())).sum() * temperature**2
    found = distillation_losses(TOPIC, student, answers_of(TOPIC, teacher), temperature)
    assert found.tolist() == [pytest.approx(expected.item(), abs=1e-6)]
    assert expected > 0.1


def test_a_student_that_answers_like_its_teacher_has_no_loss():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    for settings in (TOPIC, TAGS):
        found = distillation_losses(
            settings, logits + (2.0 if settings is TOPIC else 0.0), answers_of(settings, logits), 2.0
        )
        assert found.abs().max() < 1e-6


def test_every_label_of_several_has_a_divergence_of_its_own():
    student, teacher = torch.tensor([[1.0, 0.0, -2.0]]), torch.tensor([[3.0, 0.0, 1.0]])
    p, q = (logits.div(2.0).sigmoid() for logits in (teacher, student))
    expected = 4 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log())
    found = distillation_losses(TAGS, student, answers_of(TAGS, teacher), 2.0)
    assert torch.allclose(found, expected, atol=1e-6)


def test_numbers_have_the_squared_error_in_units_of_their_range():
    found = distillation_losses(
        GRADE, torch.tensor([[2.0], [5.0]]), answers_of(GRADE, torch.tensor([[4.0], [5.0]])), 7.0
    )
    assert found.tolist() == [0.25, 0.0]


def test_items_without_an_answer_have_a_loss_of_exactly_0_and_no_gradient():
    logits = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    answers = answers_of(NER, torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(1)))
    answers[0, 1] = torch.nan
    assert answered(NER, answers).tolist() == [[True, False], [True, True]]
    found = distillation_losses(NER, logits, answers, 2.0)
    assert found[0, 1] == 0.0
    found.sum().backward()
    assert not logits.grad[0, 1].any()
    assert logits.grad[0, 0].any()


def test_items_of_several_labels_are_the_labels():
    answers = torch.tensor([[1.0, 2.0, 3.0], [torch.nan] * 3])
    assert answered(TAGS, answers).sum() == 3
    assert answered(TOPIC, answers).sum() == 1


def test_a_task_with_the_name_of_what_another_one_learns_is_refused():
    tasks = {"topic": TOPIC, "topic_distillation": TOPIC}
    with pytest.raises(ValueError, match=r"What \['topic'\] learns .* logged under \['topic_distillation'\]"):
        DistillationLoss(tasks, ["topic"], MTLTrainingArguments("unused"))
    DistillationLoss(tasks, ["topic_distillation"], MTLTrainingArguments("unused"))  # the other one learns nothing
