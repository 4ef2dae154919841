"""
The loss between a model's answers and its teacher's (Hinton 2015, arXiv 1503.02531).

Letters used below: `B` texts, `T` word pieces, `C` classes, `K` tags.
"""

import torch
from torch.nn import functional as F

from configuration_mtsbert import NUMBER_TYPES, SEQUENCE_CLASSIFICATION, SEQUENCE_REGRESSION, TOKEN_CLASSIFICATION
from modeling_mtsbert import MTSBertOutput
from mtsbert.arguments import DISTILLATION_TEMPERATURE, MTLTrainingArguments


TAUGHT_TYPES = (SEQUENCE_CLASSIFICATION, SEQUENCE_REGRESSION, TOKEN_CLASSIFICATION)


def answers_of(settings: dict, logits: torch.Tensor) -> torch.Tensor:
    """
    Returns what is kept of a teacher's logits, in their shape and in float32: logarithms of probabilities, the logits
    themselves of a multi-label task, and the number of a regression in units of its `score_range`.
    """
    logits = logits.float()
    if settings["type"] in NUMBER_TYPES:
        lowest, highest = settings.get("score_range", (0.0, 1.0))
        return (logits - lowest) / (highest - lowest)
    return logits if settings.get("multi_label") else logits.log_softmax(dim=-1)


def answered(settings: dict, answers: torch.Tensor) -> torch.Tensor:
    """
    A mask of the items that have an answer: `(B,)`, `(B, C)` for a multi-label task, `(B, T)` for a token task.
    Answers are NaN where there is none.
    """
    if settings.get("multi_label"):
        return ~answers.isnan()
    return ~answers[..., 0].isnan()


def distillation_losses(
    settings: dict, logits: torch.Tensor, answers: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """
    The loss of every item in float32, in the shape of [`answered`]; exactly 0 where there is no answer.

    It is the divergence KL(teacher || student) of the probabilities at a temperature, times its square, so that the
    size of gradients hardly depends on it; of each label of a multi-label task on its own. For a regression, it is the
    squared error in units of its `score_range`, and there is no temperature.

    Args:
        settings (`dict`): Settings of the task.
        logits (`torch.Tensor` of shape `(B, C)` or `(B, T, K)`): Those of the student.
        answers (`torch.Tensor`, in the shape of `logits`): From [`answers_of`], and NaN where there is none.
        temperature (`float`, *optional*, defaults to 1.0): What logits are divided by.
    """
    has_answer = answered(settings, answers)
    answers = answers.float().nan_to_num(0.0)
    if settings["type"] in NUMBER_TYPES:
        losses = (answers_of(settings, logits) - answers).square().squeeze(-1)
    elif settings.get("multi_label"):
        student, teacher = logits.float() / temperature, answers / temperature
        target = teacher.sigmoid()
        losses = F.binary_cross_entropy_with_logits(student, target, reduction="none")
        losses = losses - F.binary_cross_entropy_with_logits(teacher, target, reduction="none")
        losses = losses * temperature**2
    else:
        student = (logits.float() / temperature).log_softmax(dim=-1)
        teacher = (answers / temperature).log_softmax(dim=-1)
        losses = (teacher.exp() * (teacher - student)).sum(dim=-1) * temperature**2
    return losses * has_answer


def taught(task: str) -> str:
    """The key of what is learned from a teacher for a task, beside what is learned from labels, in counts and logs."""
    return f"{task}_distillation"


class DistillationLoss:
    """
    The weighted sum of the losses of all taught tasks, each of them a mean over the answers of an optimizer step.

    Args:
        tasks (`dict[str, dict]`): The tasks of the model, with their settings.
        answered_tasks (`list[str]`): Those that the teacher answers.
        args ([`MTLTrainingArguments`]): `distillation_weights` and `distillation_temperatures`.

    Raises:
        `ValueError`: If the arguments name other tasks, or a task has the name of what another one learns.
    """

    def __init__(self, tasks: dict[str, dict], answered_tasks: list[str], args: MTLTrainingArguments):
        if taken := [task for task in answered_tasks if taught(task) in tasks]:
            raise ValueError(
                f"What {taken} learns from the `teacher` is logged under {[taught(task) for task in taken]}, which is "
                "the name of another task; rename that task."
            )
        turned_off = {task for task in tasks if args.distillation_weights.get(task) == 0}
        for name in ("distillation_weights", "distillation_temperatures"):
            if unknown := sorted(set(getattr(args, name)) - {*answered_tasks, *turned_off}):
                raise ValueError(f"`{name}` names {unknown}; the tasks that the teacher answers are {answered_tasks}.")
        self.tasks = {task: tasks[task] for task in answered_tasks}
        self.weights = {task: float(args.distillation_weights.get(task, 1.0)) for task in answered_tasks}
        asked = args.distillation_temperatures
        self.temperatures = {task: asked.get(task, DISTILLATION_TEMPERATURE) for task in answered_tasks}

    def num_items(self, task: str, answers: dict[str, torch.Tensor]) -> torch.Tensor:
        """The number of answers of a batch for a task, as a tensor without dimensions."""
        return answered(self.tasks[task], answers[task]).sum()

    def losses(
        self,
        outputs: MTSBertOutput,
        answers: dict[str, torch.Tensor],
        num_items_in_batch: dict[str, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """By task, this micro-batch's part of the mean over the answers of the optimizer step, without its weight."""
        return {
            task: distillation_losses(settings, outputs.logits[task], answers[task], self.temperatures[task]).sum()
            / num_items_in_batch[taught(task)].clamp(min=1)
            for task, settings in self.tasks.items()
        }

    def combine(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        return sum(self.weights[task] * loss for task, loss in losses.items())
