"""
Adaptive freezing: freezes layers from the bottom in the second half of a run, when their shares in the gradient of no
task change any more.
"""

import logging
import math
from collections.abc import Callable
from typing import Any

import torch

from modeling_mtsbert import MTSBertModel
from mtsbert.data.features import num_labelled_rows
from mtsbert.network.embedding_targets import EMBEDDING
from mtsbert.network.freezing import Freezing
from mtsbert.network.frozen_prefix import FrozenPrefix
from mtsbert.network.parts import EMBEDDINGS, copied_layers, encoder_layers, layer_name
from mtsbert.training.losses.joint import TEACHER, JointLossTrainer
from mtsbert.training.losses.task_statistics import TaskGradients


NUM_INTERVALS = 12  # of a run; after each of them in its second half, layers may begin to end
SHORTEST_INTERVAL = 4  # steps
NUM_MEASUREMENTS = 8  # of the gradients of every task in an interval

ADAPTIVE_STATE = "adaptive_freezing"  # key in the state of the Trainer, for checkpoints

logger = logging.getLogger(__name__)


class LayerGradients(TaskGradients):
    """
    Measures the gradients of single tasks on the layers of the encoder that are not frozen.

    It looks at their vectors alone (biases, and weights of norms), because the gradients of matrices are half of the
    work of a backward pass. A layer without any vector that is trained is measured on all its trained parameters.

    Args:
        freezing ([`Freezing`]): What is frozen at present.
    """

    def __init__(self, freezing: Freezing):
        super().__init__([])
        self.freezing = freezing
        num_layers = len(encoder_layers(freezing.model)) - len(copied_layers(freezing.model))
        # The embeddings are a part of the lowest layer. What flags freeze at the top is left out.
        self.layers = [[EMBEDDINGS, layer_name(0)], *([layer_name(index)] for index in range(1, num_layers))]
        while self.layers and set(self.layers[-1]) <= freezing.forever:
            self.layers.pop()

    @property
    def num_frozen(self) -> int:
        """Number of the lowest layers that are frozen to the end of the run."""
        return self.num_lowest(self.freezing.to_the_end)

    def num_lowest(self, names: set[str]) -> int:
        """Number of the lowest layers all of whose parts are among these."""
        return [*(set(parts) <= names for parts in self.layers), False].index(False)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for layer in self.layers[self.num_frozen :] for parameter in self._of_layer(layer)]

    def norms(self, task: str) -> list[float]:
        """Returns the norm of the latest gradient of a task on each layer that is not frozen, from the bottom."""
        sizes = [sum(weight.numel() for weight in self._of_layer(layer)) for layer in self.layers[self.num_frozen :]]
        return torch.stack([part.norm() for part in self.gradients[task].split(sizes)]).tolist()

    def _of_layer(self, parts: list[str]) -> list[torch.nn.Parameter]:
        weights = [weight for name in parts for weight in self.freezing.parts[name].parameters if weight.requires_grad]
        return [weight for weight in weights if weight.dim() == 1] or weights


def num_settled(before: dict[str, list[float]], now: dict[str, list[float]], largest: float) -> int:
    """
    Counts the lowest layers whose share in the gradient of no task changes much any more. How long a gradient is in
    all says more of the rows of a step than of the layers. The last layer never counts.

    Args:
        before, now (`dict[str, list[float]]`): Task → norm of its gradient on every layer, from the bottom.
        largest (`float`): The largest relative change of a share that is small.

    Example:

        >>> num_settled({"topic": [2.0, 1.0, 1.0]}, {"topic": [4.0, 2.0, 2.0]}, 0.1)
        2
        >>> num_settled({"topic": [2.0, 1.0, 1.0]}, {"topic": [2.0, 2.0, 1.0]}, 0.25)  # 0.5, 0.25, … → 0.4, 0.4, …
        1
    """
    changes = [_changes(_shares(before[task]), _shares(norms)) for task, norms in now.items()]
    for_all = [max(of_layer) <= largest for of_layer in zip(*changes, strict=True)]
    return [*for_all[:-1], False].index(False)


class AdaptiveFreezing:
    """
    Decides during training how many of the lowest layers are frozen. This follows AutoFreeze (arXiv 2102.01386), but
    judges every task by itself: the norm of its gradient on every layer is averaged over an interval of optimizer
    steps and compared with that of the interval before; see [`num_settled`].

    Layers end rather than stop: over the next interval they learn more and more slowly, and then they are frozen. A
    layer that stops at a high learning rate keeps the noise of its last steps (FreezeOut, arXiv 1706.04983). The first
    decision is in the middle of the run, because layers that end early cost more than they save. The embeddings end
    with the lowest layer; the last layer that all tasks share is always trained.

    Args:
        freezing ([`Freezing`]): What is frozen at present, and what is frozen in addition.
        largest_change (`float`): `adaptive_freezing_change`.

    Raises:
        `ValueError`: if only the last layer that all tasks share is trained anyway.
    """

    def __init__(self, freezing: Freezing, largest_change: float):
        self.freezing = freezing
        self.largest_change = largest_change
        self.gradients = LayerGradients(freezing)
        if self.gradients.num_frozen >= len(self.gradients.layers) - 1:
            raise ValueError(
                "`adaptive_freezing` has nothing to freeze: it always trains the last layer that all tasks share, and "
                "other flags (or `num_task_layers`) leave no other one. Drop it, or one of them."
            )
        self.load_state({})

    def begin(self, tasks: list[str], num_steps: int) -> None:
        """Must be called before training with the tasks that have labels and the number of optimizer steps."""
        self.gradients.tasks, self.num_steps = tasks, num_steps
        self.interval = max(SHORTEST_INTERVAL, math.ceil(num_steps / NUM_INTERVALS))
        self.first_decision = math.ceil(num_steps / 2 / self.interval) * self.interval

    @property
    def num_ended(self) -> int:
        """Number of the lowest layers that are frozen to the end of the run, or will be after this interval."""
        return self.gradients.num_lowest(self.freezing.to_the_end | set(self.ending))

    def begin_step(self, step: int) -> None:
        """Before an optimizer step, after `step` of them: says whether gradients are to be measured in it."""
        if self.ending:
            self._before = {weight: weight.detach().clone() for weight in self._ending_parameters()}
        if self.num_ended == len(self.gradients.layers) - 1 or step < self.first_decision - 2 * self.interval:
            return
        place = step % self.interval
        if place * NUM_MEASUREMENTS // self.interval != (place - 1) * NUM_MEASUREMENTS // self.interval:
            self.gradients.awaited = set(self.gradients.tasks)

    def end_step(self, step: int, reduce: Callable[[torch.Tensor], torch.Tensor], device: torch.device) -> bool:
        """
        Shortens the step of what is ending, freezes what is due and decides what ends next. Returns whether anything
        was frozen.

        Args:
            step (`int`): Number of finished optimizer steps.
            reduce (`Callable[[torch.Tensor], torch.Tensor]`): Sums a tensor over all ranks.
            device (`torch.device`): Where to sum.
        """
        self._shorten(step)
        awaited = set(self.gradients.awaited)
        self.gradients.end_step(reduce, device)
        for task in awaited - self.gradients.awaited:
            self._norms.setdefault(task, []).append(self.gradients.norms(task))
        if step % self.interval or step >= self.num_steps:
            return False
        has_ended = self._freeze(step)
        if set(self._norms) == set(self.gradients.tasks):
            self._decide(step)
        return has_ended

    def _shorten(self, step: int) -> None:
        """Takes back a part of the latest optimizer step, which grows linearly while layers end."""
        place = (step - 1) % self.interval  # of the step, in its interval
        with torch.no_grad():
            for weight, before in self._before.items():
                weight.lerp_(before, place / self.interval)
        self._before = {}

    def _freeze(self, step: int) -> bool:
        """Freezes what has ended."""
        num_frozen = self.gradients.num_frozen
        self.freezing.settle(self.freezing.settled | dict.fromkeys(self.ending, step))
        self.ending = []
        num_new = self.gradients.num_frozen - num_frozen  # may be more, because flags have frozen some layers above
        self._means = {task: norms[num_new:] for task, norms in self._means.items()}
        self._norms = {task: [row[num_new:] for row in rows] for task, rows in self._norms.items()}
        return num_new > 0

    def _decide(self, step: int) -> None:
        means = {task: _means(norms) for task, norms in self._norms.items()}
        if self._means and self.first_decision <= step < self.num_steps - self.interval:
            num_frozen = self.gradients.num_frozen
            number = num_settled(self._means, means, self.largest_change)
            names = {name for layer in self.gradients.layers[num_frozen : num_frozen + number] for name in layer}
            self.ending = sorted(names - self.freezing.forever)
        self._means, self._norms = means, {}

    def _ending_parameters(self) -> list[torch.nn.Parameter]:
        parts = [self.freezing.parts[name] for name in self.ending]
        return [weight for part in parts for weight in part.parameters if weight.requires_grad]

    def state(self) -> dict[str, Any]:
        """Returns what a resumed run needs to decide the same, as JSON."""
        decided = {"settled": self.freezing.settled, "ending": self.ending}
        awaited = sorted(self.gradients.awaited)
        return decided | {"means": self._means, "norms": self._norms, "awaited": awaited}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from a [`state`], or starts anew from an empty one."""
        self.freezing.settle(state.get("settled", {}))
        self.ending: list[str] = state.get("ending", [])  # parts that are frozen after the interval
        self._before: dict[torch.nn.Parameter, torch.Tensor] = {}  # their weights before the current step
        self._means: dict[str, list[float]] = state.get("means", {})  # task → mean norm on every layer, last interval
        self._norms: dict[str, list[list[float]]] = state.get("norms", {})  # task → norms on every layer, by step
        self.gradients.awaited = set(state.get("awaited", []))


class AdaptiveFreezingTrainer(JointLossTrainer):
    """A Trainer that freezes more and more of the lowest layers, with `adaptive_freezing`."""

    def attach_losses(self, model: MTSBertModel) -> None:
        super().attach_losses(model)
        self.adaptive_freezing = None
        if self.args.adaptive_freezing:
            self.adaptive_freezing = AdaptiveFreezing(self.freezing, self.args.adaptive_freezing_change)

    def begin_training(self) -> None:
        super().begin_training()
        if self.adaptive_freezing is None:
            return
        labelled = [task for task in self.tasks if num_labelled_rows(self.train_dataset, task)]
        tasks = [task for task in labelled if self.task_weights[task]]  # what has no weight decides nothing
        if self.args.embedding_distillation:
            tasks.append(EMBEDDING)
        if self.distillation is not None and any(self.distillation.weights.values()):
            tasks.append(TEACHER)
        self.adaptive_freezing.begin(tasks, self.state.max_steps)
        kept = self.state.stateful_callbacks.get(ADAPTIVE_STATE, {})
        self.adaptive_freezing.load_state(kept.get("decisions", {}))
        if not kept:
            self.cache_grown_prefix()  # of what other flags freeze
        elif kept["num_cached_layers"]:
            self.cache_prefix(FrozenPrefix(self.model, kept["num_cached_layers"]))

    def measured_gradients(self) -> list[TaskGradients]:
        measured = super().measured_gradients()
        return measured if self.adaptive_freezing is None else [*measured, self.adaptive_freezing.gradients]

    def begin_step(self) -> None:
        super().begin_step()
        if self.adaptive_freezing is not None:
            self.adaptive_freezing.begin_step(self.state.global_step)

    def leave_step_out(self) -> None:
        super().leave_step_out()
        if self.adaptive_freezing is not None:
            self.adaptive_freezing.gradients.leave_step_out()

    def end_step(self) -> None:
        super().end_step()
        if self.adaptive_freezing is None:
            return
        step, gradients = self.state.global_step, self.adaptive_freezing.gradients
        if self.adaptive_freezing.end_step(step, self._sum_over_processes, self.args.device):
            logger.info(
                f"Step {step}: the embeddings and the lowest {gradients.num_frozen} of {len(gradients.layers)} layers "
                "are frozen from here on: their shares in the gradient of every task changed little."
            )
            self.cache_grown_prefix()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to the training loss how many of the lowest layers are frozen."""
        if "loss" in logs and self.adaptive_freezing is not None:
            logs["num_frozen_layers"] = self.adaptive_freezing.gradients.num_frozen
        super().log(logs, start_time)

    def kept_state(self) -> dict[str, dict]:
        """What is frozen, and what the next decision needs, for a run that is resumed."""
        kept = super().kept_state()
        if self.adaptive_freezing is not None:
            state = {"decisions": self.adaptive_freezing.state(), "num_cached_layers": self.num_cached_layers}
            kept[ADAPTIVE_STATE] = state
        return kept

    def check_kept_state(self, kept: dict[str, dict], checkpoint: str) -> None:
        super().check_kept_state(kept, checkpoint)
        if (ADAPTIVE_STATE in kept) != self.args.adaptive_freezing:
            before, now = ("with", "without") if ADAPTIVE_STATE in kept else ("without", "with")
            raise ValueError(
                f"The checkpoint was trained {before} `adaptive_freezing`, and this run is {now} it; it cannot be "
                "resumed like that."
            )


def _means(rows: list[list[float]]) -> list[float]:
    return [sum(column) / len(column) for column in zip(*rows, strict=True)]


def _shares(norms: list[float]) -> list[float]:
    return [norm / sum(norms) if norm else 0.0 for norm in norms]


def _changes(before: list[float], now: list[float]) -> list[float]:
    """Returns the relative changes of shares. They are 0 where a layer has no trained weights, and so no gradient."""
    return [abs(new - old) / old if old else float(new > 0) for old, new in zip(before, now, strict=True)]
