"""What each task does in training: losses, examples, gradients on the shared encoder, and how these are joined."""

import logging
from collections.abc import Callable
from itertools import combinations

import torch

from modeling_mtsbert import MTSBertModel
from mtsbert.network.parts import encoder_layers
from mtsbert.settings import import_extra


logger = logging.getLogger(__name__)


class TaskLog:
    """Losses and examples of every task since the last report, kept on the device, so that no step waits for it."""

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


class GradientStatistics:
    """
    Norms and pairwise cosines of the tasks' gradients on the encoder's last layer, the last one they share (where
    GradNorm, arXiv 1711.02257, looks as well). Only the heads and that layer are gone through, which costs little.

    Often a batch has the labels of one task alone: the cosine of two tasks is that of their latest gradients.
    """

    def __init__(self, model: MTSBertModel):
        try:
            self.layer = encoder_layers(model)[-1]
        except ValueError as error:
            logger.info(f"No gradient statistics: {error}")
            self.layer = torch.nn.Identity()
        self.gradients: dict[str, torch.Tensor] = {}

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """Those that are trained at present."""
        return [weight for weight in self.layer.parameters() if weight.requires_grad]

    def measure(self, losses: dict[str, torch.Tensor]) -> None:
        """Looks at the losses of one batch, before its backward pass; keeps the graph."""
        parameters = self.parameters
        for task, loss in losses.items():
            # Some encoders have parameters in a layer that not every text needs (Longformer's global attention).
            parts = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            parts = [torch.zeros_like(p) if part is None else part for p, part in zip(parameters, parts, strict=True)]
            self.gradients[task] = torch.cat([part.detach().float().flatten() for part in parts])

    def report(self) -> dict[str, float]:
        """`<task>_grad_norm`, and `grad_cosine_<task>_<task>` for each pair, of the latest gradients."""
        norms = {task: gradient.norm() for task, gradient in self.gradients.items()}
        report = {f"{task}_grad_norm": norm.item() for task, norm in norms.items()}
        for one, other in combinations(self.gradients, 2):
            product = (self.gradients[one] @ self.gradients[other]).item()
            size = (norms[one] * norms[other]).item()
            report[f"grad_cosine_{one}_{other}"] = product / size if size else 0.0
        return report


class GradientAggregation:
    """Joins the tasks' gradients on the encoder by an aggregator of torchjd (https://torchjd.org), not by their sum.

    Args:
        name (`str`): A class of `torchjd.aggregation` that can be made without arguments, such as `UPGrad` or `MGDA`.

    Raises:
        `ValueError`: where torchjd is not installed, or has no such aggregator.
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
        self.shared = [weight for weight in model.encoder.parameters() if weight.requires_grad]
        self.of_heads = [weight for weight in model.heads.parameters() if weight.requires_grad]
        if not self.shared:
            raise ValueError("`gradient_aggregator` joins gradients on the encoder, and the encoder is frozen.")

    def backward(self, losses: list[torch.Tensor]) -> None:
        """Writes the gradients of the weighted losses of the tasks that have labels in this step."""
        from torchjd.autojac import backward, jac_to_grad

        if not losses:  # a batch without any label
            return
        if self.of_heads:
            gradients = torch.autograd.grad(sum(losses), self.of_heads, retain_graph=True, allow_unused=True)
            for weight, gradient in zip(self.of_heads, gradients, strict=True):
                weight.grad = gradient
        backward(losses, inputs=self.shared, parallel_chunk_size=1)
        jac_to_grad(self.shared, self.aggregator)
