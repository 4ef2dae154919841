"""A Trainer whose weights are never changed by a loss or a gradient that is not a finite number."""

import logging
from collections.abc import Sequence

import torch
from accelerate.utils import gather_object

from mtsbert.training.nonfinite import FiniteCheck, SkippedSteps, name_rows
from mtsbert.training.resuming import ResumableTrainer


SKIPPED_STEPS = "nonfinite_steps_skipped"  # in the log and in the results
NUM_WARNINGS = 3  # after which steps that are left out are only counted

logger = logging.getLogger(__name__)


class CheckedTrainer(ResumableTrainer):
    """
    A Trainer that stops with a `FloatingPointError` before such a step, or with `skip_nonfinite` leaves it out: the
    whole optimizer step, with all its micro-batches, in all processes.

    A subclass calls `begin_step` and `end_backward` in every optimizer step, and shows every micro-batch to
    `finite_check`. It may have `row_numbers`, see `name_rows`.
    """

    finite_check: FiniteCheck
    dataset_names: list[str]
    row_numbers: Sequence[int] | None = None

    def begin_training(self) -> None:
        super().begin_training()
        self._steps_since_line, self._steps = SkippedSteps(), SkippedSteps()

    def begin_step(self) -> None:
        self.finite_check.begin_step()
        if self.args.skip_nonfinite:
            self._loss_before = self._tr_loss.clone()

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: torch.Tensor | float | None = None):
        norm = super()._get_grad_norm(model, grad_norm)
        if isinstance(norm, torch.Tensor) and self.accelerator.scaler is None:  # which looks for itself
            self.finite_check.add_gradient_norm(norm.detach())
        return norm

    def end_backward(self) -> bool:
        """Before the optimizer changes the weights: whether the step is left out, the same in all processes."""
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
        self.finite_check.begin_step()  # lets go of what it holds
        return is_skipped

    def _name_nonfinite(self, *, of_losses: bool) -> str:
        check = self.finite_check
        found = check.rows_of_losses() if of_losses else {"the gradient": check.all_rows()}
        named = [
            f"{what} is not a finite number, with "
            + name_rows(rows, self.train_dataset, self.dataset_names, self.processing_class, self.row_numbers)
            for what, rows in found.items()
        ]
        return "; ".join(gather_object(named) if self.args.world_size > 1 else named)

    def leave_step_out(self) -> None:
        """Undoes what the step has left behind."""
        self._tr_loss.copy_(self._loss_before)
        for parameter in self.model.parameters():
            parameter.grad = None  # no optimizer touches what has no gradient
        self.state.stateful_callbacks[SKIPPED_STEPS] = {"count": self.num_skipped_steps + 1}

    @property
    def num_skipped_steps(self) -> int:
        """Over the whole run; a checkpoint keeps it."""
        return self.state.stateful_callbacks.get(SKIPPED_STEPS, {"count": 0})["count"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Mean losses are those of the steps that were taken; the others are counted."""
        if "loss" in logs:
            if self._steps_since_line.num_skipped:
                self._steps_since_line.correct(logs, "loss")
                logs[SKIPPED_STEPS] = self._steps_since_line.num_skipped
            self._steps_since_line = SkippedSteps()
        if "train_loss" in logs and self.args.skip_nonfinite:
            self._steps.correct(logs, "train_loss")
            logs[SKIPPED_STEPS] = self.num_skipped_steps
        super().log(logs, start_time)
