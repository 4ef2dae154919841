"""Training statistics of each task (losses, examples, gradients), and aggregation of their gradients with torchjd."""

import logging
from collections.abc import Callable
from itertools import combinations

import torch

from modeling_mtsbert import MTSBertModel
from mtsbert.network.parts import encoder_layers
from mtsbert.settings import import_extra


logger = logging.getLogger(__name__)


class TaskLog:
    """Accumulates losses and numbers of examples by task on the device, without synchronizing with it."""

    def __init__(self, tasks: list[str]):
        self.tasks = tasks
        self.sums: torch.Tensor | None = None

    def add(
        self, losses: dict[str, torch.Tensor], shares: dict[str, torch.Tensor], examples: dict[str, torch.Tensor]
    ) -> None:
        """
        Adds a micro-batch. All arguments are scalar tensors by task.

        Args:
            losses (`dict[str, torch.Tensor]`): The contribution of the micro-batch to the loss of each task.
            shares (`dict[str, torch.Tensor]`): Its share of the labelled items in the optimizer step. Over a step, the
                shares add up to 1, or to 0 for a task without labels.
            examples (`dict[str, torch.Tensor]`): The number of its rows that have a label.
        """
        rows = [
            torch.stack([values[task].detach().float() for task in self.tasks])
            for values in (losses, shares, examples)
        ]
        added = torch.stack(rows)
        self.sums = added if self.sums is None else self.sums + added

    def take(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> tuple[dict[str, float], dict[str, int]]:
        """
        Returns the mean loss of each task over the steps with labels (only for tasks that had any) and its number of
        examples, and resets the log.

        Args:
            reduce (`Callable[[torch.Tensor], torch.Tensor]`): Sums a tensor over all ranks.
        """
        if self.sums is None:
            return {}, {}
        losses, steps, examples = reduce(self.sums).tolist()
        self.sums = None
        means = {
            task: loss / number for task, loss, number in zip(self.tasks, losses, steps, strict=True) if number > 0.5
        }
        return means, {task: round(number) for task, number in zip(self.tasks, examples, strict=True)}


class TaskGradients:
    """
    Measures the gradients of single tasks on some parameters, which subclasses choose.

    A gradient is that of a whole optimizer step: summed over its micro-batches and ranks, whose losses are shares of
    the mean. A step often has labels for a single task, so each task is measured in the next step that has its labels.

    Args:
        tasks (`list[str]`): The tasks to measure.
    """

    def __init__(self, tasks: list[str]):
        self.tasks = tasks
        self.awaited: set[str] = set()  # the tasks to measure in the next step that has labels of them
        self.gradients: dict[str, torch.Tensor] = {}  # task → its latest gradient, flattened
        self._of_step: dict[str, torch.Tensor] = {}

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters to measure on, all of them trained at present."""
        raise NotImplementedError

    def measure(self, losses: dict[str, torch.Tensor]) -> None:
        """Computes the gradients of awaited tasks in a micro-batch, before its backward pass. Keeps the graph."""
        parameters = self.parameters
        for task, loss in losses.items():
            if task not in self.awaited:
                continue
            # Some encoders have parameters that not every text uses, such as Longformer's global attention.
            parts = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            parts = [torch.zeros_like(p) if part is None else part for p, part in zip(parameters, parts, strict=True)]
            gradient = torch.cat([part.detach().float().flatten() for part in parts])
            self._of_step[task] = self._of_step[task] + gradient if task in self._of_step else gradient

    def end_step(self, reduce: Callable[[torch.Tensor], torch.Tensor], device: torch.device) -> None:
        """
        Keeps the gradients of the tasks that had labels in the step on any rank.

        Args:
            reduce (`Callable[[torch.Tensor], torch.Tensor]`): Sums a tensor over all ranks.
            device (`torch.device`): Where to sum.
        """
        if not self.awaited:
            return
        ranks = reduce(torch.tensor([float(task in self._of_step) for task in self.tasks], device=device)).tolist()
        none = torch.zeros(sum(weight.numel() for weight in self.parameters), device=device)
        for task, number in zip(self.tasks, ranks, strict=True):
            if number:
                self.gradients[task] = reduce(self._of_step.get(task, none))
                self.awaited.discard(task)
        self._of_step = {}

    def leave_step_out(self) -> None:
        """Forgets what was measured in the current step."""
        self._of_step = {}


class GradientStatistics(TaskGradients):
    """
    Measures norms and pairwise cosines of the tasks' gradients on the last layer of the encoder that all tasks share,
    as in GradNorm (arXiv 1711.02257). This only backpropagates through the heads and the layers from that one on. The
    cosine of two tasks is computed from their latest gradients.

    Args:
        model ([`MTSBertModel`]): The model.
        tasks (`list[str]`): Its tasks.
    """

    def __init__(self, model: MTSBertModel, tasks: list[str]):
        super().__init__(tasks)
        try:
            self.layer = encoder_layers(model)[-1 - model.config.num_task_layers]
        except ValueError as error:
            logger.info(f"No gradient statistics: {error}")
            self.layer = torch.nn.Identity()

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters of the layer that are currently trained."""
        return [weight for weight in self.layer.parameters() if weight.requires_grad]

    def report(self) -> dict[str, float]:
        """Returns `<task>_grad_norm`, and `grad_cosine_<task>_<task>` for each pair, from the latest gradients."""
        norms = {task: gradient.norm() for task, gradient in self.gradients.items()}
        report = {f"{task}_grad_norm": norm.item() for task, norm in norms.items()}
        measured = [task for task in self.tasks if task in self.gradients]  # whichever came first
        for one, other in combinations(measured, 2):
            product = (self.gradients[one] @ self.gradients[other]).item()
            size = (norms[one] * norms[other]).item()
            report[f"grad_cosine_{one}_{other}"] = product / size if size else 0.0
        return report


class GradientAggregation:
    """Aggregates the tasks' gradients on the encoder with torchjd (https://torchjd.org) instead of summing them.

    Args:
        name (`str`): A class of `torchjd.aggregation` without required arguments, such as `UPGrad` or `MGDA`.
        model ([`MTSBertModel`]): The model.

    Raises:
        `ValueError`: if torchjd is not installed, or has no such aggregator.
    """

    def __init__(self, name: str, model: MTSBertModel):
        aggregation = import_extra("torchjd.aggregation", extra="torchjd")
        aggregator_class = getattr(aggregation, name, None)
        known = sorted(
            name
            for name, value in vars(aggregation).items()
            if isinstance(value, type) and issubclass(value, aggregation.Aggregator)
        )
        if name not in known:
            raise ValueError(f"`gradient_aggregator` is {name!r}; torchjd has {known}.")
        try:
            self.aggregator = aggregator_class()
        except (TypeError, ImportError) as error:
            raise ValueError(f"`gradient_aggregator` {name!r} cannot be used: {error}") from None
        of_tasks = [] if model.task_layers is None else model.task_layers.parameters()
        self.shared = [weight for weight in (*model.encoder.parameters(), *of_tasks) if weight.requires_grad]
        self.of_heads = [weight for weight in model.heads.parameters() if weight.requires_grad]
        if not self.shared:
            raise ValueError("`gradient_aggregator` joins gradients on the encoder, and the encoder is frozen.")

    def backward(self, losses: list[torch.Tensor]) -> None:
        """Sets the gradients from the weighted losses of the tasks that have labels in this step."""
        from torchjd.autojac import backward, jac_to_grad

        if not losses:  # a batch without any label
            return
        if self.of_heads:
            gradients = torch.autograd.grad(sum(losses), self.of_heads, retain_graph=True, allow_unused=True)
            for weight, gradient in zip(self.of_heads, gradients, strict=True):
                weight.grad = gradient
        backward(losses, inputs=self.shared, parallel_chunk_size=1)
        jac_to_grad(self.shared, self.aggregator)
