"""What stays as it is during training, or until its turn comes. Decided once, before the optimizer exists."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from modeling_mtsbert import MTSBertModel
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.network.parts import (
    EMBEDDINGS,
    OTHER,
    Part,
    encoder_layers,
    head_name,
    is_of_encoder,
    layer_name,
    model_parts,
)


logger = logging.getLogger(__name__)


class Freezing:
    """
    Which parts of a model (see `network/parts.py`) are frozen, and until which optimizer step.

    A frozen part has no gradients and is in evaluation mode (no dropout). Autograd records nothing below the lowest
    trained parameter, so a frozen lower end of the network costs its forward pass and no more.

    Args:
        args: `freeze_encoder`, `freeze_embeddings`, `num_frozen_layers` and `freeze_heads` freeze for good.
            `gradual_unfreezing` (arXiv 1801.06146) starts with the heads alone and thaws the encoder from the top:
            the last layer after the first period, one more part after each, the embeddings at the end. A period is
            an epoch, or `unfreeze_every` optimizer steps; a value below 1 is that share of all steps.

    Raises:
        `ValueError`: for a flag that fits nothing in the model.
    """

    def __init__(self, model: MTSBertModel, args: MTLTrainingArguments):
        self.model = model
        self.parts = model_parts(model)
        self.fixed = _fixed_parameters(model)
        self.forever = _frozen_forever(model, self.parts, args)
        self.periods = _thawing_periods(model, self.forever) if args.gradual_unfreezing else {}
        if self.periods and not self._trained_parameters(self.forever | set(self.periods)):
            raise ValueError("`gradual_unfreezing` begins with the heads alone, and there is none that is trained.")
        self._unfreeze_every = args.unfreeze_every  # steps, a share of all steps, or None for an epoch
        self.steps_per_period: int | None = None
        # What thaws is frozen by the first `move_to` only: DDP must have seen it as trainable when it wraps the model.
        self.frozen = self.forever
        self._apply()

    def begin(self, num_steps: int) -> None:
        """Learns how many optimizer steps the run has."""
        if (every := self._unfreeze_every) is not None:
            self.steps_per_period = math.ceil(round(every * num_steps, 6)) if every < 1 else int(every)
            if self.periods and (end := max(self.periods.values()) * self.steps_per_period) >= num_steps:
                logger.warning(
                    f"`unfreeze_every`: the last part would thaw at step {end}, and the run has {num_steps} steps."
                )

    @property
    def num_trained_parameters(self) -> int:
        """Of all parts that are trained at some time."""
        return sum(parameter.numel() for parameter in self._trained_parameters(self.forever))

    @property
    def is_total(self) -> bool:
        """Whether nothing is ever trained."""
        return not self._trained_parameters(self.forever)

    def move_to(self, *, step: int, epoch: float) -> None:
        """Thaws what is due at the beginning of an optimizer step; `step` and `epoch` count what is done."""
        period = int(epoch) if self.steps_per_period is None else step // self.steps_per_period
        frozen = self.forever | {name for name, thaws in self.periods.items() if period < thaws}
        if frozen != self.frozen:
            self.frozen = frozen
            self._apply()

    def set_modes(self) -> None:
        """Puts the frozen parts in evaluation mode; to be called after `model.train()`."""
        for name in self.frozen:
            for module in self.parts[name].modules:
                if module.training:  # setting it costs more than looking
                    module.training = False

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Everything may be trained inside: for what has to know all parameters from the start."""
        frozen, self.frozen = self.frozen, set()
        self._apply()
        try:
            yield
        finally:
            self.frozen = frozen
            self._apply()

    def state_of(self, name: str) -> str:
        """What a reader wants to know of a part: trained, frozen, or frozen until when."""
        if name in self.forever:
            return "frozen"
        if name in self.periods and self.steps_per_period is None:
            return f"frozen until epoch {self.periods[name]}"
        if name in self.periods:
            return f"frozen until step {self.periods[name] * self.steps_per_period}"
        return "trained"

    def _apply(self) -> None:
        for name, part in self.parts.items():
            for parameter in part.parameters:
                parameter.requires_grad_(name not in self.frozen and id(parameter) not in self.fixed)

    def _trained_parameters(self, frozen: set[str]) -> list[nn.Parameter]:
        parts = [part for name, part in self.parts.items() if name not in frozen]
        return [parameter for part in parts for parameter in part.parameters if id(parameter) not in self.fixed]


def _fixed_parameters(model: MTSBertModel) -> set[int]:
    """
    The ids of what came without gradients: sinusoidal positions, say, or what a user froze by hand. It stays as it is.
    The model remembers the names, because later Trainers find it as an earlier one has left it.
    """
    if not hasattr(model, "_fixed_names"):
        model._fixed_names = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {id(parameter) for name, parameter in model.named_parameters() if name in model._fixed_names}


def _frozen_forever(model: MTSBertModel, parts: dict[str, Part], args: MTLTrainingArguments) -> set[str]:
    names = set(filter(is_of_encoder, parts)) if args.freeze_encoder else set()
    if args.freeze_embeddings:
        names.add(EMBEDDINGS)
    if args.num_frozen_layers:
        num_layers = len(encoder_layers(model))
        if args.num_frozen_layers > num_layers:
            raise ValueError(f"`num_frozen_layers` is {args.num_frozen_layers}; the encoder has {num_layers} layers.")
        names |= {layer_name(index) for index in range(args.num_frozen_layers)}
    for task in args.freeze_heads or []:
        if task not in model.heads:
            raise ValueError(f"`freeze_heads` names {task!r}; the heads are {list(model.heads)}.")
        names.add(head_name(task))
    return names


def _thawing_periods(model: MTSBertModel, forever: set[str]) -> dict[str, int]:
    """Part → for how many periods it is frozen. What is neither embeddings nor layer thaws with the last layer."""
    layers = [layer_name(index) for index in range(len(encoder_layers(model)))]
    order = [name for name in [*reversed(layers), EMBEDDINGS] if name not in forever]
    if not order:
        raise ValueError("`gradual_unfreezing` has nothing to thaw: other flags freeze all layers and the embeddings.")
    return {OTHER: 1} | {name: period for period, name in enumerate(order, start=1)}
