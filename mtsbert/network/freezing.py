"""Freezes parts of the model, for the whole training or until a given step. Set up before the optimizer is created."""

import logging
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

from torch import nn

from configuration_mtsbert import PAIR_TYPES
from modeling_mtsbert import MTSBertModel
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.letter_case.embedding import case_vectors
from mtsbert.network.parts import (
    EMBEDDINGS,
    OTHER,
    Part,
    copied_layers,
    encoder_layers,
    head_name,
    is_of_encoder,
    layer_name,
    model_parts,
    task_layer_name,
)


logger = logging.getLogger(__name__)


class Freezing:
    """
    Controls which parts of a model (see `network/parts.py`) are frozen, and until which optimizer step.

    A frozen part has no gradients and is in evaluation mode (no dropout). Autograd records nothing below the lowest
    trained parameter, so frozen layers at the bottom of the network only cost their forward pass.

    Args:
        model ([`MTSBertModel`]): The model.
        args ([`MTLTrainingArguments`]): `freeze_encoder`, `freeze_embeddings`, `num_frozen_layers`, `freeze_layers`
            and `freeze_heads` freeze parts for the whole training, or until `thaw_at`. `gradual_unfreezing` (arXiv
            1801.06146) trains only the heads at first and unfreezes the encoder from the top: its last layer after the
            first period, another part after each further period, the embeddings last. The tasks' copies of layers are
            unfrozen with their originals. A period is an epoch, or `unfreeze_every` optimizer steps (a value below 1
            is a share of all steps).

    Raises:
        `ValueError`: if a flag does not match anything in the model, or nothing is trained at first.
    """

    def __init__(self, model: MTSBertModel, args: MTLTrainingArguments):
        self.model = model
        self.parts = model_parts(model)
        self._named = dict(model.named_parameters())
        self._fixed_by_flags = _fixed_by_flags(model, args)
        self.fixed = self._fixed_now()
        by_flags, without_use = _frozen_by_flags(model, self.parts, args), _without_use(model, self.parts, args)
        self.forever = by_flags | without_use
        self.periods: dict[str, int] = {}  # part → for how many periods it is frozen
        self._period: float | None = None  # steps, a share of all steps, or None for an epoch
        if args.gradual_unfreezing:
            self.periods, self._period = _thawing_periods(model, self.forever), args.unfreeze_every
        elif args.thaw_at is not None:
            self.forever = without_use
            value, is_of_epochs = args.thawing_point()
            self.periods = dict.fromkeys(by_flags - without_use, int(value) if is_of_epochs else 1)
            self._period = None if is_of_epochs else value
            if not self.periods:
                raise ValueError("`thaw_at` has nothing to thaw: no flag freezes a part of the model.")
        if self.periods and not self._trained_parameters(self.forever | set(self.periods)):
            begins = "`thaw_at` comes after steps without them"
            if args.gradual_unfreezing:
                begins = "`gradual_unfreezing` begins with the heads alone"
            raise ValueError(f"{begins}, and there is none that is trained.")
        self.steps_per_period: int | None = None
        self.settled: dict[str, int] = {}  # part that was frozen during training → the steps it was trained for
        # Parts that are unfrozen later are frozen only in the first `move_to`, after DDP has seen them as trainable.
        self.frozen = self.forever
        self._apply()

    def begin(self, num_steps: int, num_epochs: float) -> None:
        """Must be called before training with the number of optimizer steps and epochs of the run."""
        if not self.periods:
            return
        last, unit, length = max(self.periods.values()), "epoch", num_epochs
        if (every := self._period) is not None:
            self.steps_per_period = math.ceil(round(every * num_steps, 6)) if every < 1 else int(every)
            last, unit, length = last * self.steps_per_period, "step", num_steps
        if last >= length:
            logger.warning(
                f"The last part would thaw at {unit} {last}, and the run has {length:g} {unit}s: it stays frozen."
            )

    @property
    def is_outdated(self) -> bool:
        """Whether the user has frozen or unfrozen parameters by hand (`requires_grad_`) since this was built."""
        return self._fixed_now() != self.fixed

    @property
    def num_trained_parameters(self) -> int:
        """Number of parameters in all parts that are trained at some point."""
        return sum(parameter.numel() for parameter in self._trained_parameters(self.forever))

    @property
    def is_total(self) -> bool:
        """Whether nothing is ever trained."""
        return not self._trained_parameters(self.forever)

    @property
    def to_the_end(self) -> set[str]:
        """Parts that are frozen now and stay frozen."""
        return self.forever | set(self.settled)

    def move_to(self, *, step: int, epoch: float) -> None:
        """Unfreezes parts before an optimizer step. `step` and `epoch` are the finished steps and epochs."""
        period = int(epoch) if self.steps_per_period is None else step // self.steps_per_period
        frozen = self.to_the_end | {name for name, thaws in self.periods.items() if period < thaws}
        if frozen != self.frozen:
            self.frozen = frozen
            self._apply()

    def settle(self, settled: dict[str, int]) -> None:
        """Freezes parts to the end of the run: part → after how many steps. Replaces what was settled before."""
        self.frozen = (self.frozen - set(self.settled)) | set(settled)
        self.settled = settled
        self._apply()

    def set_modes(self) -> None:
        """Puts the frozen parts in evaluation mode. Must be called after `model.train()`."""
        for name in self.frozen:
            for module in self.parts[name].modules:
                if module.training:  # setting the attribute is slower than reading it
                    module.training = False

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Temporarily unfreezes everything, for code that must see all parameters from the start."""
        frozen, self.frozen = self.frozen, set()
        self._apply()
        try:
            yield
        finally:
            self.frozen = frozen
            self._apply()

    def trained_weights(self) -> dict[str, nn.Parameter]:
        """Returns the parameters that are trained at some point, by name."""
        trained = set(map(id, self._trained_parameters(self.forever)))
        return {name: weight for name, weight in self._named.items() if id(weight) in trained}

    def num_trained_of(self, name: str) -> int:
        """Number of parameters of a part that are trained at some point."""
        if name in self.forever:
            return 0
        return sum(weight.numel() for weight in self.parts[name].parameters if id(weight) not in self.fixed)

    def state_of(self, name: str) -> str:
        """
        Describes the state of a part: `"trained"`, `"frozen"`, how many of its parameters are trained if not all are,
        and from or until when it is frozen.
        """
        number, total = self.num_trained_of(name), self.parts[name].num_parameters
        if not number:
            return "frozen"
        trained = "trained" if number == total else f"{number:,} of {total:,} trained"
        if name in self.settled:
            then = f"frozen from step {self.settled[name]} on"
            return then if number == total else f"{trained}, {then}"
        if name in self.periods:
            at, unit = self.periods[name], "epoch"
            if self.steps_per_period is not None:
                at, unit = at * self.steps_per_period, "step"
            first = f"frozen until {unit} {at}"
            return first if number == total else f"{first}, then {trained}"
        return trained

    def _apply(self) -> None:
        fixed = self.fixed | self._fixed_now()  # a callback may freeze by hand as well
        for name, part in self.parts.items():
            for parameter in part.parameters:
                parameter.requires_grad_(name not in self.frozen and id(parameter) not in fixed)
        self.model._left_by_trainer = {name: weight.requires_grad for name, weight in self._named.items()}

    def _fixed_now(self) -> set[int]:
        held = getattr(self.model, "_held_by_adapters", set())
        names = held | fixed_by_hand(self.model, self._named)
        return self._fixed_by_flags | {id(self._named[name]) for name in names if name in self._named}

    def _trained_parameters(self, frozen: set[str]) -> list[nn.Parameter]:
        parts = [part for name, part in self.parts.items() if name not in frozen]
        return [parameter for part in parts for parameter in part.parameters if id(parameter) not in self.fixed]


def fixed_by_hand(model: MTSBertModel, named: dict[str, nn.Parameter]) -> set[str]:
    """
    Returns the names of the parameters that require no gradients, and not because a [`Freezing`] has left them so:
    what the user froze, before the first Trainer or after it, and what came so, such as sinusoidal positions. They are
    never trained.

    The names are stored on the model, with what a [`Freezing`] has set last. The user changed what differs from that;
    to freeze by hand what flags froze in an earlier run, one has to unfreeze it first.

    Args:
        model ([`MTSBertModel`]): The model.
        named (`dict[str, nn.Parameter]`): Its parameters by name.
    """
    before, left = getattr(model, "_fixed_names", set()), getattr(model, "_left_by_trainer", {})
    model._fixed_names = {
        name
        for name, weight in named.items()
        if (name in before if weight.requires_grad == left.get(name) else not weight.requires_grad)
    }
    return model._fixed_names


def _fixed_by_flags(model: MTSBertModel, args: MTLTrainingArguments) -> set[int]:
    """Returns the `id()` of each parameter that a flag freezes by its name."""
    found: set[int] = set()
    if args.bitfit:
        also = {id(parameter) for parameter in [*model.heads.parameters(), *case_vectors(model)]}
        if not any(name.endswith("bias") for name, _ in model.encoder.named_parameters()):
            raise ValueError(f"`bitfit` trains biases, and {type(model.encoder).__name__} has none.")
        others = {id(weight) for name, weight in model.named_parameters() if not name.endswith("bias")} - also
        found |= others
    if args.freeze_modules is not None:
        pattern = re.compile(args.freeze_modules)
        matched = {id(weight) for name, weight in model.named_parameters() if pattern.search(name)}
        if not matched:
            some = ", ".join(name for name, _ in islice(model.named_parameters(), 3))
            raise ValueError(
                f"`freeze_modules` {args.freeze_modules!r} matches no parameter; they are called {some} …"
            )
        found |= matched
    return found


def _frozen_by_flags(model: MTSBertModel, parts: dict[str, Part], args: MTLTrainingArguments) -> set[str]:
    names = set(filter(is_of_encoder, parts)) if args.freeze_encoder else set()
    if args.freeze_embeddings:
        names.add(EMBEDDINGS)
    if args.num_frozen_layers:
        num_layers = len(encoder_layers(model))
        if args.num_frozen_layers > num_layers:
            raise ValueError(f"`num_frozen_layers` is {args.num_frozen_layers}; the encoder has {num_layers} layers.")
        names |= {layer_name(index) for index in range(args.num_frozen_layers)}
    for index in args.freeze_layers or []:
        num_layers = len(encoder_layers(model))
        if not 0 <= index < num_layers:
            raise ValueError(f"`freeze_layers` names {index}; the encoder has the layers 0 to {num_layers - 1}.")
        names.add(layer_name(index))
    for task in args.freeze_heads or []:
        if task not in model.heads:
            raise ValueError(f"`freeze_heads` names {task!r}; the heads are {list(model.heads)}.")
        names.add(head_name(task))
    if args.freeze_encoder and set(args.freeze_heads or []) == set(model.heads):
        names |= {task_layer_name(index) for index in copied_layers(model)}
    return names


def _without_use(model: MTSBertModel, parts: dict[str, Part], args: MTLTrainingArguments) -> set[str]:
    """Returns the parts that no task of the model would ever train."""
    names: set[str] = set()
    if copied := copied_layers(model):
        types = {settings["type"] for settings in model.config.tasks.values()}
        if types <= set(PAIR_TYPES):
            names |= {task_layer_name(index) for index in copied}
        if not types & set(PAIR_TYPES) and not args.embedding_distillation:
            # Nothing trains the embedding, and the tasks have layers of their own.
            names |= {layer_name(index) for index in copied}
            names |= {OTHER} if parts[OTHER].parameters else set()
    return names


def _thawing_periods(model: MTSBertModel, forever: set[str]) -> dict[str, int]:
    """
    Maps each part of the encoder to the number of periods for which it is frozen. Parameters outside of embeddings and
    layers are unfrozen together with the last layer.
    """
    layers = [layer_name(index) for index in range(len(encoder_layers(model)))]
    copies = {layer_name(index): task_layer_name(index) for index in copied_layers(model)}
    order = [name for name in [*reversed(layers), EMBEDDINGS] if not {name, copies.get(name, name)} <= forever]
    if not order:
        raise ValueError("`gradual_unfreezing` has nothing to thaw: other flags freeze all layers and the embeddings.")
    periods = {OTHER: 1} | {name: period for period, name in enumerate(order, start=1)}
    return periods | {copy: periods[layer] for layer, copy in copies.items() if layer in periods}
