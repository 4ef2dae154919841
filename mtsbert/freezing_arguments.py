"""Defines the options that choose what is trained: freezing, thawing and adapters."""

import math
import re
from dataclasses import dataclass, field

from transformers.trainer_utils import HubStrategy


OF_ADAPTERS = ("lora_target", "lora_alpha", "lora_dropout")  # what cannot change in a run that is resumed
NEED_ADAPTERS = (*OF_ADAPTERS, "lora_merge")


@dataclass
class FreezingArguments:
    """Which weights are trained, and from when on. A part of [`MTLTrainingArguments`]."""

    freeze_encoder: bool = field(
        default=False, metadata={"help": "Train only the heads. The encoder stays exactly the same, bit for bit."}
    )
    freeze_embeddings: bool = field(
        default=False, metadata={"help": "Freeze the encoder's embeddings (word, position, type)."}
    )
    num_frozen_layers: int = field(
        default=0,
        metadata={
            "help": "Freeze this many encoder layers, counted from the bottom. With --freeze_embeddings, their "
            "backward pass is skipped as well, which saves time."
        },
    )
    freeze_layers: list[int] | None = field(
        default=None,
        metadata={
            "help": "Freeze these layers of the encoder, counted from 0 at the bottom, e.g. --freeze_layers 0 1 4."
        },
    )
    freeze_modules: str | None = field(
        default=None,
        metadata={
            "help": "Freeze all parameters whose name matches this regular expression anywhere, e.g. "
            r"--freeze_modules 'layer\.[0-3]\.attention'. Dropout in "
            "them stays on, and thaw_at does not thaw them."
        },
    )
    bitfit: bool = field(
        default=False, metadata={"help": "Of the encoder, train only the biases (BitFit); heads are trained in full."}
    )
    freeze_heads: list[str] | None = field(
        default=None, metadata={"help": "Tasks whose heads are frozen, e.g. --freeze_heads topic."}
    )
    gradual_unfreezing: bool = field(
        default=False,
        metadata={
            "help": "Train only the heads at first, then unfreeze the encoder from the top: its last layer after one "
            "epoch, another layer after each further epoch, the embeddings last. What other flags freeze stays frozen."
        },
    )
    unfreeze_every: float | None = field(
        default=None,
        metadata={
            "help": "For gradual_unfreezing: the number of steps between two layers, instead of an epoch. A value "
            "below 1 is a share of all steps."
        },
    )
    thaw_at: str | None = field(
        default=None,
        metadata={
            "help": "Train the parts that the other flags freeze from here on: a number of optimizer steps (500), a "
            "share of them below 1 (0.25), or whole epochs ('2 epochs'). What bitfit and freeze_modules freeze stays "
            "frozen."
        },
    )
    adaptive_freezing: bool = field(
        default=False,
        metadata={
            "help": "Freeze layers from the bottom in the second half of the run, when their shares in the gradient "
            "of every task change little from one twelfth of the run to the next (AutoFreeze, arXiv 2102.01386; each "
            "task is judged by itself). For one twelfth they learn more and more slowly, and then they are frozen. "
            "This saves time: their backward pass is skipped from then on, and their forward pass as well where "
            "enough epochs are left for a feature cache to pay."
        },
    )
    adaptive_freezing_change: float = field(
        default=0.25,
        metadata={
            "help": "For adaptive_freezing: the largest relative change of a share that counts as little. More tends "
            "to freeze earlier."
        },
    )
    lora_r: int | None = field(
        default=None,
        metadata={
            "help": "Train low-rank adapters of this rank in the encoder (LoRA) in place of its weights; heads are "
            "trained in full. Checkpoints have the merged weights. Needs the extra 'lora'."
        },
    )
    lora_merge: bool = field(
        default=True,
        metadata={
            "help": "With --lora_merge false, adapters and heads are saved alone at the end, in peft's format, for "
            "the mtsbert checkpoint that the run starts from, which must have the same tasks. Their scores are "
            "calibrated as those of that checkpoint."
        },
    )
    lora_alpha: float = field(default=16.0, metadata={"help": "Adapters are scaled by this number divided by lora_r."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout in front of the adapters."})
    lora_target: list[str] | None = field(
        default=None,
        metadata={
            "help": "Names of the linear layers that get adapters, e.g. --lora_target query value, or all-linear. "
            "Default: what peft takes for this kind of encoder."
        },
    )
    layer_decay: float | None = field(
        default=None,
        metadata={
            "help": "Multiply the learning rate by this factor for each layer from the top: once for the encoder's "
            "last layer, number of layers + 1 times for the embeddings. 0.9 is common. The rate of the heads does "
            "not change."
        },
    )

    def check_freezing(self) -> None:
        if self.num_frozen_layers < 0:
            raise ValueError(f"`num_frozen_layers` is {self.num_frozen_layers}; it must not be negative.")
        if self.gradual_unfreezing and self.freeze_encoder:
            raise ValueError("`gradual_unfreezing` thaws the encoder that `freeze_encoder` keeps frozen; drop one.")
        if self.unfreeze_every is not None and not self.gradual_unfreezing:
            raise ValueError("`unfreeze_every` says when `gradual_unfreezing` thaws; set that as well.")
        every = self.unfreeze_every
        if every is not None and not _is_number_of_steps(every):
            raise ValueError(
                f"`unfreeze_every` is {every}; it must be a whole number of steps, or a share between 0 and 1."
            )
        if self.thaw_at is not None:
            self.thawing_point()
            if self.feature_cache:
                raise ValueError("`feature_cache` keeps what is frozen to the end, and `thaw_at` thaws it; drop one.")
            if self.gradual_unfreezing:
                raise ValueError("`thaw_at` thaws everything at once, and `gradual_unfreezing` in turn; drop one.")
            freezes_parts = self.freeze_encoder or self.freeze_embeddings or self.num_frozen_layers
            freezes_parts = freezes_parts or self.freeze_layers or self.freeze_heads
            if (self.bitfit or self.freeze_modules is not None) and not freezes_parts:
                raise ValueError(
                    "`thaw_at` has nothing to thaw: what `bitfit` and `freeze_modules` freeze stays frozen to the "
                    "end. Freeze embeddings, layers, the encoder or heads as well, or drop `thaw_at`."
                )
        if self.fsdp or self.deepspeed:
            self.check_sharded()
        self._check_adaptive_freezing()
        if self.freeze_modules is not None:
            try:
                re.compile(self.freeze_modules)
            except re.error as error:
                raise ValueError(f"`freeze_modules` is {self.freeze_modules!r}: {error}.") from None
        if self.bitfit and (self.freeze_encoder or self.lora_r is not None):
            raise ValueError("`bitfit` trains the biases of the encoder; drop `freeze_encoder` or `lora_r`.")
        if self.lora_r is not None:
            self._check_lora()
        elif any(getattr(self, name) != getattr(FreezingArguments, name) for name in NEED_ADAPTERS):
            raise ValueError(
                "`lora_target`, `lora_alpha`, `lora_dropout` and `lora_merge` need `lora_r`, the rank of the adapters."
            )
        if self.layer_decay is not None and not 0.0 < self.layer_decay <= 1.0:
            raise ValueError(f"`layer_decay` is {self.layer_decay}; it must lie in (0, 1].")
        if self.layer_decay is not None and self.freeze_encoder and self.thaw_at is None:
            raise ValueError(
                "`layer_decay` sets the rates of the encoder that `freeze_encoder` keeps frozen; drop one."
            )
        if self.gradient_aggregator and self.adaptive_freezing:
            raise ValueError(
                "`gradient_aggregator` joins gradients on the same weights in every step, and `adaptive_freezing` "
                "freezes some of them; drop one."
            )
        if self.gradient_aggregator and (self.freeze_encoder or self.gradual_unfreezing or self.thaw_at is not None):
            raise ValueError(
                "`gradient_aggregator` joins gradients on the encoder; with `freeze_encoder`, `gradual_unfreezing` or "
                "`thaw_at` there are steps without any."
            )

    def _check_adaptive_freezing(self) -> None:
        change = self.adaptive_freezing_change
        if change < 0.0:
            raise ValueError(f"`adaptive_freezing_change` is {change}; it must not be negative.")
        if not self.adaptive_freezing:
            if change != FreezingArguments.adaptive_freezing_change:
                raise ValueError("`adaptive_freezing_change` says when `adaptive_freezing` freezes; set that as well.")
            return
        if self.freeze_encoder:
            raise ValueError("`adaptive_freezing` has nothing left to freeze with `freeze_encoder`; drop one.")
        if self.gradual_unfreezing or self.thaw_at is not None:
            raise ValueError(
                "`adaptive_freezing` freezes what has been trained, and `gradual_unfreezing` and `thaw_at` train what "
                "has been frozen; drop one."
            )
        if self.lora_r is not None:
            raise ValueError("`adaptive_freezing` freezes weights that `lora_r` does not train anyway; drop one.")
        if self.activation_checkpointing and (self.activation_checkpointing_kwargs or {}).get("use_reentrant"):
            raise ValueError(
                "`adaptive_freezing` measures the gradients of single tasks, which reentrant activation checkpointing "
                "does not support. Set `use_reentrant: false` in `activation_checkpointing_kwargs`, or leave it out."
            )
        if self.feature_cache and self.torch_compile:
            raise ValueError(
                "`feature_cache` skips layers in the middle of a run with `adaptive_freezing`, and `torch_compile` "
                "has compiled them; drop one."
            )

    def _check_lora(self) -> None:
        if self.lora_r < 1 or self.lora_alpha <= 0 or not 0.0 <= self.lora_dropout < 1.0:
            raise ValueError(
                f"`lora_r` is {self.lora_r}, `lora_alpha` {self.lora_alpha} and `lora_dropout` {self.lora_dropout}; "
                "they must be at least 1, above 0, and in [0, 1)."
            )
        if self.freeze_encoder:
            raise ValueError("`lora_r` trains adapters in the encoder that `freeze_encoder` keeps frozen; drop one.")
        if self.gradient_aggregator:
            raise ValueError("`lora_r` cannot be used with `gradient_aggregator`.")
        if not self.lora_merge and self.push_to_hub and self.hub_strategy != HubStrategy.END:
            raise ValueError(
                "`lora_merge: false` gives an adapter at the end only, and what is pushed during training is merged. "
                "Set `hub_strategy: end`."
            )

    def check_sharded(self) -> None:
        """Raises `ValueError` for options that cannot be used where FSDP or DeepSpeed shards the weights."""
        if self.adaptive_freezing:
            raise ValueError(
                "`adaptive_freezing` measures gradients of whole layers, which FSDP and DeepSpeed share out; drop it."
            )
        if self.lora_r is not None:
            raise ValueError("`lora_r` cannot be used with FSDP or DeepSpeed; drop it.")

    def thawing_point(self) -> tuple[float, bool]:
        """The number in `thaw_at`, and whether it counts epochs, not steps. Raises `ValueError` if it is none."""
        number, _, unit = str(self.thaw_at).strip().partition(" ")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        is_of_epochs = unit in ("epoch", "epochs")
        fits = value >= 1 and value.is_integer() if is_of_epochs else not unit and _is_number_of_steps(value)
        if not fits:
            raise ValueError(
                f"`thaw_at` is {self.thaw_at!r}; it must be a number of steps, a share of them between 0 and 1, or "
                "epochs, as '2 epochs'."
            )
        return value, is_of_epochs


def _is_number_of_steps(value: float) -> bool:
    return 0 < value < 1 or (value >= 1 and float(value).is_integer())
