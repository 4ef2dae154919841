"""Detects losses and gradients that are not finite before they reach the weights, and finds their rows."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch.distributed.tensor import DTensor
from transformers import PreTrainedTokenizerBase

from losses_mtsbert import compares_pairs, item_losses
from mtsbert.data.collator import MultiTaskCollator
from mtsbert.data.features import DATASET, ROW
from mtsbert.network.feature_cache import PLACE
from mtsbert.training.resuming import ResumableTrainer


NUM_ROWS_NAMED, LETTERS_SHOWN = 5, 60
SKIPPED_STEPS = "nonfinite_steps_skipped"  # in the log and in the results
NUM_WARNINGS = 3  # further skipped steps are only counted

logger = logging.getLogger(__name__)


def numbered(features: Dataset) -> Dataset:
    """Adds a column with the index of each training row."""
    return features.add_column(PLACE, list(range(len(features))))


@dataclass
class NumberedCollator:
    """Adds the indices of its rows to each batch, under the key `PLACE`."""

    collator: MultiTaskCollator

    def __call__(self, features: list[dict]) -> dict:
        return self.collator(features) | {PLACE: [feature[PLACE] for feature in features]}


@dataclass
class _MicroBatch:
    rows: list[int]
    logits: dict[str, torch.Tensor]
    labels: dict[str, torch.Tensor]
    flags: torch.Tensor
    """`(num_tasks + 1,)`: whether the loss of each task, and the combined loss, is not finite."""


class FiniteCheck:
    """
    Checks the losses of each micro-batch and the gradient norm without synchronizing with the device. The result is a
    tensor that needs to be read only once per optimizer step.
    """

    def __init__(self, tasks: dict[str, dict]):
        self.tasks = tasks
        self.begin_step()

    def begin_step(self) -> None:
        self._batches: list[_MicroBatch] = []
        self._gradient_norm: torch.Tensor | None = None

    def add(
        self,
        rows: Sequence[int],
        logits: dict[str, torch.Tensor],
        labels: dict[str, torch.Tensor],
        losses: dict[str, torch.Tensor],
        loss: torch.Tensor,
    ) -> None:
        """
        Adds a micro-batch.

        Args:
            rows (`Sequence[int]`): Indices of the training rows.
            logits (`dict[str, torch.Tensor]`): Logits by task.
            labels (`dict[str, torch.Tensor]`): Labels by task.
            losses (`dict[str, torch.Tensor]`): The contribution of the micro-batch to the loss of each task.
            loss (`torch.Tensor`): The combined loss.
        """
        numbers = torch.stack([*(losses[task].detach().float() for task in self.tasks), loss.detach().float()])
        logits = {task: values.detach() for task, values in logits.items()}
        self._batches.append(_MicroBatch(list(rows), logits, labels, ~numbers.isfinite()))

    @property
    def num_batches(self) -> int:
        """Number of micro-batches of this step so far."""
        return len(self._batches)

    def add_gradient_norm(self, norm: torch.Tensor) -> None:
        self._gradient_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm  # a DTensor with FSDP

    def flags(self) -> torch.Tensor:
        """Returns `(2,)`: 1 if any loss of this step is not finite, and 1 if the gradient is not."""
        loss = torch.stack([batch.flags for batch in self._batches]).any()
        gradient = torch.zeros_like(loss) if self._gradient_norm is None else ~self._gradient_norm.isfinite()
        return torch.stack([loss, gradient]).float()

    def rows_of_losses(self) -> dict[str, list[int]]:
        """Maps a description of each loss of this rank that is not finite to the indices of the rows it comes from."""
        found: dict[str, list[int]] = {}
        for batch in self._batches:
            *of_tasks, of_sum = batch.flags.tolist()
            bad = [task for task, is_bad in zip(self.tasks, of_tasks, strict=True) if is_bad]
            for task in bad:
                guilty = self._guilty_rows(task, batch)
                if not compares_pairs(self.tasks[task]):  # if every row is finite, only their sum is not
                    guilty = guilty or batch.rows
                found.setdefault(f"the loss of task {task!r}", []).extend(guilty)
            if of_sum and not bad:
                found.setdefault("the weighted sum of the losses", []).extend(batch.rows)
        return {what: rows or self.all_rows() for what, rows in found.items()}

    def all_rows(self) -> list[int]:
        return [row for batch in self._batches for row in batch.rows]

    def _guilty_rows(self, task: str, batch: _MicroBatch) -> list[int]:
        losses = batch.logits[task]  # of a loss that is none of single rows, their cosines
        if not compares_pairs(self.tasks[task]):
            losses = item_losses(self.tasks[task], losses, batch.labels[task])
        finite = losses.isfinite().reshape(len(losses), -1).all(dim=1).tolist()
        return [row for row, is_finite in zip(batch.rows, finite, strict=True) if not is_finite]


def name_rows(rows: Sequence[int], features: Dataset, tokenizer: PreTrainedTokenizerBase) -> str:
    """Describes training rows by dataset, row number and the beginning of the text."""
    names = features.features[DATASET]
    named = []
    for row in map(features.__getitem__, rows[:NUM_ROWS_NAMED]):
        text = tokenizer.decode(row["input_ids"], skip_special_tokens=True)
        named.append(f"row {row[ROW]} of dataset {names.int2str(row[DATASET])!r} ({text[:LETTERS_SHOWN]!r})")
    more = f" and {len(rows) - NUM_ROWS_NAMED} more" if len(rows) > NUM_ROWS_NAMED else ""
    return ", ".join(named) + more


class SkippedSteps:
    """Counts optimizer steps and skipped ones, to compute means without the skipped steps."""

    def __init__(self):
        self.num_steps = self.num_skipped = 0

    def add(self, *, is_skipped: bool) -> None:
        self.num_steps += 1
        self.num_skipped += is_skipped

    def correct(self, logs: dict[str, float], key: str) -> None:
        """Corrects a mean in which skipped steps counted as 0. Removes it if no step was taken."""
        if self.num_skipped == self.num_steps:
            logs.pop(key)
        else:
            logs[key] *= self.num_steps / (self.num_steps - self.num_skipped)


class CheckedTrainer(ResumableTrainer):
    """
    A Trainer that raises `FloatingPointError` before an optimizer step whose loss or gradient is not finite. With
    `skip_nonfinite`, it skips the whole step instead, with all its micro-batches and on all ranks.

    Subclasses must call `begin_step` and `end_backward` in each optimizer step, and add each micro-batch to
    `finite_check`.
    """

    finite_check: FiniteCheck

    def begin_training(self) -> None:
        super().begin_training()
        self._steps_since_line, self._steps = SkippedSteps(), SkippedSteps()

    def begin_step(self) -> None:
        self.finite_check.begin_step()
        if self.args.skip_nonfinite:
            self._loss_before = self._tr_loss.clone()

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: torch.Tensor | float | None = None):
        norm = super()._get_grad_norm(model, grad_norm)
        if isinstance(norm, torch.Tensor) and self.accelerator.scaler is None:  # the scaler of fp16 checks by itself
            self.finite_check.add_gradient_norm(norm.detach())
        return norm

    def end_backward(self) -> bool:
        """Called before the optimizer changes the weights. Returns whether the step is skipped, on all ranks alike."""
        bad_losses, bad_gradients = self.agree(self.finite_check.flags())
        is_skipped = bool(bad_losses or bad_gradients)
        self._steps_since_line.add(is_skipped=is_skipped)
        self._steps.add(is_skipped=is_skipped)
        if is_skipped:
            message = f"Step {self.state.global_step + 1}: {self._name_nonfinite(of_losses=bad_losses > 0)}."
            if not self.args.skip_nonfinite:
                raise FloatingPointError(
                    f"{message} The weights are still those of the step before. Look at these rows, or lower "
                    "`learning_rate`. --skip_nonfinite leaves such steps out, and counts them."
                )
            self.leave_step_out()
            if self.num_skipped_steps <= NUM_WARNINGS:
                last = " More of them are only counted in the log." if self.num_skipped_steps == NUM_WARNINGS else ""
                logger.warning(f"{message} The step is left out.{last}")
        self.finite_check.begin_step()  # frees its tensors
        return is_skipped

    def _name_nonfinite(self, *, of_losses: bool) -> str:
        check = self.finite_check
        found = check.rows_of_losses() if of_losses else {"the gradient": check.all_rows()}
        named = [
            f"{what} is not a finite number, with " + name_rows(rows, self.train_dataset, self.processing_class)
            for what, rows in found.items()
        ]
        return "; ".join(gather_object(named) if self.args.world_size > 1 else named)

    def leave_step_out(self) -> None:
        """Undoes the effects of the current step, so that it is skipped."""
        self._tr_loss.copy_(self._loss_before)
        for parameter in self.model.parameters():
            parameter.grad = None  # optimizers ignore parameters without a gradient
        self.state.stateful_callbacks[SKIPPED_STEPS] = {"count": self.num_skipped_steps + 1}

    @property
    def num_skipped_steps(self) -> int:
        """Number of skipped steps in the whole run. It is saved in checkpoints."""
        return self.state.stateful_callbacks.get(SKIPPED_STEPS, {"count": 0})["count"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Like `Trainer.log`, but mean losses do not include skipped steps, which are counted instead."""
        if "loss" in logs:
            if self._steps_since_line.num_skipped:
                self._steps_since_line.correct(logs, "loss")
                logs[SKIPPED_STEPS] = self._steps_since_line.num_skipped
            self._steps_since_line = SkippedSteps()
        if {"train_loss", "train_runtime"} <= logs.keys():  # the loss is 0 where a resumed run had no step left
            self._steps.correct(logs, "train_loss")
            if self.args.skip_nonfinite:
                logs[SKIPPED_STEPS] = self.num_skipped_steps
        super().log(logs, start_time)
