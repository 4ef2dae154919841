"""Losses and gradients that are not finite numbers: seen before they reach the weights, and traced to their rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from datasets import Dataset
from torch.distributed.tensor import DTensor
from transformers import PreTrainedTokenizerBase

from heads_mtsbert import item_losses
from mtsbert.data.collator import MultiTaskCollator
from mtsbert.data.features import DATASET
from mtsbert.network.feature_cache import ROW


NUM_ROWS_NAMED, LETTERS_SHOWN = 5, 60


def numbered(features: Dataset) -> Dataset:
    """Training rows that know their number."""
    return features.add_column(ROW, list(range(len(features))))


@dataclass
class NumberedCollator:
    """Adds to every batch, as `row`, the numbers of its rows."""

    collator: MultiTaskCollator

    def __call__(self, features: list[dict]) -> dict:
        return self.collator(features) | {ROW: [feature[ROW] for feature in features]}


@dataclass
class _MicroBatch:
    rows: list[int]
    logits: dict[str, torch.Tensor]
    labels: dict[str, torch.Tensor]
    flags: torch.Tensor
    """`(tasks + 1,)`: whether the loss of a task, and that of all together, is not finite."""


class FiniteCheck:
    """
    Looks at the losses of every micro-batch, and at the norm of the gradients, without waiting for the device: what
    it finds is a tensor, to be looked at once in an optimizer step.
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
        Args:
            rows: Numbers of the training rows.
            losses, loss: This micro-batch's part of the tasks' losses, and what becomes of them together.
        """
        numbers = torch.stack([*(losses[task].detach().float() for task in self.tasks), loss.detach().float()])
        logits = {task: values.detach() for task, values in logits.items()}
        self._batches.append(_MicroBatch(list(rows), logits, labels, ~numbers.isfinite()))

    def add_gradient_norm(self, norm: torch.Tensor) -> None:
        self._gradient_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm  # of FSDP

    def flags(self) -> torch.Tensor:
        """`(2,)`: 1 where a loss, and where the gradient, of this step is not finite."""
        loss = torch.stack([batch.flags for batch in self._batches]).any()
        gradient = torch.zeros_like(loss) if self._gradient_norm is None else ~self._gradient_norm.isfinite()
        return torch.stack([loss, gradient]).float()

    def rows_of_losses(self) -> dict[str, list[int]]:
        """Which losses of this process are not finite → the numbers of the rows they come from."""
        found: dict[str, list[int]] = {}
        for batch in self._batches:
            *of_tasks, of_sum = batch.flags.tolist()
            bad = [task for task, is_bad in zip(self.tasks, of_tasks, strict=True) if is_bad]
            for task in bad:
                found.setdefault(f"the loss of task {task!r}", []).extend(self._guilty_rows(task, batch))
            if of_sum and not bad:
                found.setdefault("the weighted sum of the losses", []).extend(batch.rows)
        return found

    def all_rows(self) -> list[int]:
        return [row for batch in self._batches for row in batch.rows]

    def _guilty_rows(self, task: str, batch: _MicroBatch) -> list[int]:
        losses = item_losses(self.tasks[task], batch.logits[task], batch.labels[task])
        finite = losses.isfinite().reshape(len(losses), -1).all(dim=1).tolist()
        guilty = [row for row, is_finite in zip(batch.rows, finite, strict=True) if not is_finite]
        return guilty or batch.rows  # each is finite, and they are too large together


def name_rows(
    rows: Sequence[int],
    features: Dataset,
    dataset_names: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    row_numbers: Sequence[int] | None = None,
) -> str:
    """
    Training rows in words: their datasets, their numbers there, and how their texts begin.

    Args:
        row_numbers (*optional*): What to call the rows, by their place in the features, where not all rows of a
            dataset are trained on. By default they are counted from 0 in their dataset.
    """
    datasets = features[DATASET][:]
    named = []
    for row in rows[:NUM_ROWS_NAMED]:
        number = datasets[:row].count(datasets[row]) if row_numbers is None else row_numbers[row]
        text = tokenizer.decode(features[row]["input_ids"], skip_special_tokens=True)
        named.append(f"row {number} of dataset {dataset_names[datasets[row]]!r} ({text[:LETTERS_SHOWN]!r})")
    more = f" and {len(rows) - NUM_ROWS_NAMED} more" if len(rows) > NUM_ROWS_NAMED else ""
    return ", ".join(named) + more


class SkippedSteps:
    """Counts optimizer steps and those that were left out, for means over steps that are to do without them."""

    def __init__(self):
        self.num_steps = self.num_skipped = 0

    def add(self, *, is_skipped: bool) -> None:
        self.num_steps += 1
        self.num_skipped += is_skipped

    def correct(self, logs: dict[str, float], key: str) -> None:
        """Turns a mean in which steps that were left out counted as 0 into that of the others; there may be none."""
        if self.num_skipped == self.num_steps:
            logs.pop(key)
        else:
            logs[key] *= self.num_steps / (self.num_steps - self.num_skipped)
