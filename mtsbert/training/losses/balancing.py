"""Combines the losses of several tasks into one.

Notation: L_k is the loss of task k in one optimizer step, w_k its fixed weight (`task_weights`), K the number of
tasks. A task without labels in a step does not take part in it.
"""

import math

import torch

from configuration_mtsbert import MSE, NUMBER_TYPES
from mtsbert.arguments import DWA, FIRST_STEP, STATIC, UNCERTAINTY


DWA_TEMPERATURE = 2.0  # T of arXiv 1803.10704


class StaticBalancing:
    """Computes Σ w_k L_k. The other schemes multiply each w_k by a factor that changes during training.

    Args:
        tasks (`dict[str, dict]`): Task name → settings, as in the model's config.
        task_weights (`dict[str, float]`): Task name → w_k.
    """

    learns_from_losses = False  # whether `end_step` and `begin_epoch` must be called

    def __init__(self, tasks: dict[str, dict], task_weights: dict[str, float]):
        self.tasks = tasks
        self.task_weights = task_weights

    def factor(self, task: str) -> torch.Tensor | float:
        """Returns the current factor of w_k."""
        return 1.0

    def weighted(self, losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {task: self.task_weights[task] * self.factor(task) * loss for task, loss in losses.items()}

    def combine(self, losses: dict[str, torch.Tensor], shares: dict[str, torch.Tensor]) -> torch.Tensor:
        """
        Combines the task losses of a micro-batch.

        Args:
            losses (`dict[str, torch.Tensor]`): By task, the contribution of the micro-batch to L_k. The contributions
                of all micro-batches in an optimizer step add up to L_k.
            shares (`dict[str, torch.Tensor]`): By task, the micro-batch's share of the labelled items in the step,
                between 0 and 1.
        """
        return sum(self.weighted(losses).values())

    def weights(self) -> dict[str, float]:
        """Returns the current weight of each task, for the log."""
        with torch.no_grad():
            return {task: weight * float(self.factor(task)) for task, weight in self.task_weights.items()}

    def parameters(self) -> list[torch.nn.Parameter]:
        """Returns the parameters that the optimizer trains along with the model."""
        return []

    def begin_run(self) -> None:
        """Called before the first step of a run, also of one that is resumed: forgets what an earlier run has left."""

    def end_step(self, losses: dict[str, float]) -> None:
        """Called after an optimizer step with L_k for the tasks that took part in it."""

    def begin_epoch(self, epoch: int) -> None:
        """Called at the beginning of an epoch (counted from 0), or when a run is resumed within it."""

    def state(self) -> dict:
        """Returns the state that a checkpoint must keep, as JSON."""
        return {}

    def load_state(self, state: dict) -> None:
        """Restores the state that `state` returned."""


class UncertaintyBalancing(StaticBalancing):
    """
    Weights tasks by homoscedastic uncertainty (Kendall et al. 2018, arXiv 1705.07115), with a learned s_k = log σ_k²
    for each task.

    The loss is Σ w_k (exp(-s_k) L_k + s_k / 2), with exp(-s_k) / 2 for a squared error.
    """

    def __init__(self, tasks: dict[str, dict], task_weights: dict[str, float]):
        super().__init__(tasks, task_weights)
        self.log_variances = {task: torch.nn.Parameter(torch.zeros(())) for task in tasks}

    def factor(self, task: str) -> torch.Tensor:
        precision = torch.exp(-self.log_variances[task])
        settings = self.tasks[task]
        is_squared_error = settings["type"] in NUMBER_TYPES and settings.get("loss", MSE) == MSE
        return precision / 2 if is_squared_error else precision

    def combine(self, losses: dict[str, torch.Tensor], shares: dict[str, torch.Tensor]) -> torch.Tensor:
        penalties = [self.task_weights[task] * shares[task] * self.log_variances[task] / 2 for task in losses]
        return super().combine(losses, shares) + sum(penalties)

    def parameters(self) -> list[torch.nn.Parameter]:
        return list(self.log_variances.values())

    def begin_run(self) -> None:
        for parameter in self.parameters():  # which stay what they are, as the weights of the model do
            parameter.grad = None

    def state(self) -> dict:
        return {"log_variances": {task: value.item() for task, value in self.log_variances.items()}}

    def load_state(self, state: dict) -> None:
        with torch.no_grad():
            for task, value in state["log_variances"].items():
                self.log_variances[task].fill_(value)


class DynamicWeightAverage(StaticBalancing):
    """
    Dynamic weight average (Liu et al. 2019, arXiv 1803.10704): tasks whose loss falls slowly get more weight.

    In epoch t, the factor of task k is K exp(r_k / T) / Σ exp(r_i / T), where r_k is its mean loss in epoch t-1
    divided by that in epoch t-2, and T is 2. In the first two epochs, all factors are 1.
    """

    learns_from_losses = True

    def __init__(self, tasks: dict[str, dict], task_weights: dict[str, float]):
        super().__init__(tasks, task_weights)
        self.begin_run()

    def begin_run(self) -> None:
        self.factors = dict.fromkeys(self.tasks, 1.0)
        self.epochs: list[dict[str, float]] = []  # mean losses of the last two epochs
        self.sums = dict.fromkeys(self.tasks, 0.0)
        self.steps = dict.fromkeys(self.tasks, 0)
        self.epoch = 0  # the epoch of sums and steps

    def factor(self, task: str) -> float:
        return self.factors[task]

    def end_step(self, losses: dict[str, float]) -> None:
        for task, loss in losses.items():
            self.sums[task] += loss
            self.steps[task] += 1

    def begin_epoch(self, epoch: int) -> None:
        if epoch <= self.epoch:  # the first epoch, or resumed within an epoch
            return
        self.epoch = epoch
        means = {task: self.sums[task] / steps if steps else math.nan for task, steps in self.steps.items()}
        self.epochs = [*self.epochs, means][-2:]
        self.sums, self.steps = dict.fromkeys(self.tasks, 0.0), dict.fromkeys(self.tasks, 0)
        if len(self.epochs) < 2:
            return
        before, last = self.epochs
        ratios = {task: last[task] / before[task] if before[task] else 1.0 for task in self.tasks}
        # NaN: the task had no labels in an epoch.
        ratios = {task: 1.0 if math.isnan(ratio) else ratio for task, ratio in ratios.items()}
        largest = max(ratios.values())  # subtracting it changes nothing and keeps exp() from overflowing
        powers = {task: math.exp((ratio - largest) / DWA_TEMPERATURE) for task, ratio in ratios.items()}
        self.factors = {task: len(powers) * power / sum(powers.values()) for task, power in powers.items()}

    def state(self) -> dict:
        names = ("factors", "epochs", "sums", "steps", "epoch")
        return {name: getattr(self, name) for name in names}

    def load_state(self, state: dict) -> None:
        for name, value in state.items():
            setattr(self, name, value)


class FirstStepBalancing(StaticBalancing):
    """Divides the loss of each task by its loss in the first optimizer step with labels, so that all start at 1.

    That first step itself has a factor of 1.
    """

    learns_from_losses = True

    def __init__(self, tasks: dict[str, dict], task_weights: dict[str, float]):
        super().__init__(tasks, task_weights)
        self.begin_run()

    def begin_run(self) -> None:
        self.first_losses: dict[str, float] = {}

    def factor(self, task: str) -> float:
        first = self.first_losses.get(task)
        return 1.0 / first if first else 1.0

    def end_step(self, losses: dict[str, float]) -> None:
        for task, loss in losses.items():
            self.first_losses.setdefault(task, loss)

    def state(self) -> dict:
        return {"first_losses": self.first_losses}

    def load_state(self, state: dict) -> None:
        self.first_losses = state["first_losses"]


BALANCING: dict[str, type[StaticBalancing]] = {
    STATIC: StaticBalancing,
    UNCERTAINTY: UncertaintyBalancing,
    DWA: DynamicWeightAverage,
    FIRST_STEP: FirstStepBalancing,
}
