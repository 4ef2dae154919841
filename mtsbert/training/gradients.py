"""The tasks' gradients on the shared encoder: how large they are, whether they agree, and how torchjd joins them."""

import logging
from itertools import combinations

import torch

from modeling_mtsbert import MTSBertModel
from mtsbert.network.parts import encoder_layers


logger = logging.getLogger(__name__)


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
        try:
            from torchjd import aggregation
        except ImportError:
            raise ValueError(
                "`gradient_aggregator` needs torchjd: `pip install 'torchjd[quadprog_projector]>=0.18,<0.19'`."
            ) from None
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
