"""Per-task sums over training steps, kept on the device until somebody asks: no synchronisation in a step."""

from collections.abc import Callable

import torch


class TaskLog:
    """Losses and examples of every task since the last report."""

    def __init__(self, tasks: list[str]):
        self.tasks = tasks
        self.sums: torch.Tensor | None = None

    def add(
        self, losses: dict[str, torch.Tensor], shares: dict[str, torch.Tensor], examples: dict[str, torch.Tensor]
    ) -> None:
        """
        Args:
            losses: This micro-batch's parts of the tasks' losses.
            shares: Its parts of the optimizer step's labelled items; over a step they add up to 1, or to 0 for a task
                without labels.
            examples: Its rows that have a label.
        """
        rows = [
            torch.stack([values[task].detach().float() for task in self.tasks])
            for values in (losses, shares, examples)
        ]
        added = torch.stack(rows)
        self.sums = added if self.sums is None else self.sums + added

    def take(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> tuple[dict[str, float], dict[str, int]]:
        """Mean loss over the steps that a task took part in, for tasks that did, and examples; then begins again.

        Args:
            reduce: Sums a tensor over all processes.
        """
        if self.sums is None:
            return {}, {}
        losses, steps, examples = reduce(self.sums).tolist()
        self.sums = None
        means = {
            task: loss / number for task, loss, number in zip(self.tasks, losses, steps, strict=True) if number > 0.5
        }
        return means, {task: round(number) for task, number in zip(self.tasks, examples, strict=True)}
