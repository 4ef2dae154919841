"""The lower end of the encoder that no step changes: run once for a text, and later passed over."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from modeling_mtsbert import MTSBertModel
from mtsbert.network.freezing import Freezing
from mtsbert.network.parts import (
    EMBEDDINGS,
    encoder_embeddings,
    encoder_layers,
    encoder_parts,
    is_of_encoder,
    layer_name,
)
from mtsbert.network.patches import are_close, replaced


class FrozenPrefix:
    """
    The whole encoder, or its embeddings and lowest layers.

    Args:
        num_layers (`int`, *optional*): How many layers are in it besides the embeddings; None for the whole encoder.
    """

    def __init__(self, model: MTSBertModel, num_layers: int | None = None):
        self.model = model
        self.num_layers = num_layers
        self.modules: list[nn.Module] = [model.encoder]
        if num_layers is not None:
            self.modules = [encoder_embeddings(model), *encoder_layers(model)[:num_layers]]
        self._states: torch.Tensor | None = None  # during a pass above the prefix: what it starts from
        self._embedding_size = 0  # width of what the embeddings return
        self._tuple_length = 0  # of what the encoder's layers return; 0 where they return their states alone

    @classmethod
    def of(cls, freezing: Freezing) -> "FrozenPrefix | None":
        """The longest one that is frozen for good; None where the embeddings or the lowest layer are not."""
        parts = {name for name, part in freezing.parts.items() if is_of_encoder(name) and part.parameters}
        if parts <= freezing.forever:
            return cls(freezing.model)
        num_layers = 0
        while layer_name(num_layers) in freezing.forever:
            num_layers += 1
        return cls(freezing.model, num_layers) if num_layers and EMBEDDINGS in freezing.forever else None

    @property
    def is_whole_encoder(self) -> bool:
        return self.num_layers is None

    def weights(self) -> Iterator[torch.Tensor]:
        """All parameters and buffers that the states depend on, in a fixed order."""
        for module in self.modules:
            yield from module.state_dict().values()
        yield from encoder_parts(self.model)[EMBEDDINGS].parameters  # some lie outside the embeddings' module

    def run(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Word pieces `(B, T)` → the states `(B, T, H)` that the prefix ends with. The model is in evaluation mode."""
        encoder = self.model.encoder
        if self.is_whole_encoder:
            return encoder(input_ids=input_ids, attention_mask=attention_mask, return_dict=True).last_hidden_state

        def stop(module, inputs, output):
            self._tuple_length = len(output) if isinstance(output, tuple) else 0
            raise _EndOfPrefix(output[0] if self._tuple_length else output)

        def measure(module, inputs, output):
            self._embedding_size = output.shape[-1]

        hooks = [self.modules[0].register_forward_hook(measure), self.modules[-1].register_forward_hook(stop)]
        try:
            encoder(input_ids=input_ids, attention_mask=attention_mask)
        except _EndOfPrefix as end:
            return end.states
        finally:
            for hook in hooks:
                hook.remove()
        raise AssertionError("The encoder ran without its layers.")

    @torch.autocast("cpu", enabled=False)
    @torch.autocast("cuda", enabled=False)
    def check(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> int:
        """
        The width `H` of the states that the prefix ends with.

        Raises `ValueError` unless the prefix can be cached and passed over: a text's states must not depend on its
        padding nor on anything that is trained, and nothing but `inputs_embeds` may lead from the prefix to the end.
        Looks at some texts of unlike length, padded as in training, in the weights' own number format.
        """
        name = type(self.model.encoder).__name__
        states = self.run(input_ids, attention_mask)
        trained = [parameter for parameter in self.model.encoder.parameters() if parameter.requires_grad]
        # `requires_grad` alone says too little: with activation checkpointing the embeddings' output has it set.
        if (
            trained
            and states.requires_grad
            and any(g is not None for g in torch.autograd.grad(states.sum(), trained, allow_unused=True))
        ):
            raise ValueError(f"`feature_cache`: frozen layers of {name} use parameters that are trained.")
        states = states.detach()
        shortest = attention_mask.sum(dim=1).argmin()
        inside = attention_mask[shortest].bool()
        alone = self.run(input_ids[shortest, inside][None], attention_mask[shortest, inside][None])
        if not are_close(alone[0], states[shortest, inside]):
            raise ValueError(f"`feature_cache`: the states of {name} depend on how a text is padded.")
        if self.is_whole_encoder:
            return states.shape[-1]
        try:
            with torch.no_grad(), self.skipped():
                whole = self.model.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
                above = self.model.encoder(inputs_embeds=states, attention_mask=attention_mask).last_hidden_state
            is_same = are_close(above, whole)
        except Exception as error:  # whatever an encoder does that was not foreseen here
            raise ValueError(f"`feature_cache` cannot pass over the frozen layers of {name}: {error}") from error
        if not is_same:
            raise ValueError(
                f"`feature_cache` cannot pass over the frozen layers of {name}: it computes more than its embeddings "
                "and layers."
            )
        return states.shape[-1]

    @contextmanager
    def skipped(self) -> Iterator[None]:
        """Inside, `inputs_embeds` are what the prefix ends with, and the model goes on from there."""
        with ExitStack() as stack:
            stack.enter_context(replaced(self.model.encoder, "forward", self._encoder_forward))
            if self.is_whole_encoder:
                stack.enter_context(replaced(self.model.encoder, "train", self._train))
            if not self.is_whole_encoder:
                stack.enter_context(replaced(self.modules[0], "forward", self._embeddings_forward))
                for layer in self.modules[1:]:
                    stack.enter_context(replaced(layer, "forward", self._layer_forward))
            yield

    # What stands in for a module's methods: bound methods in partials, because a copy of the model (for a moving
    # average of its weights, say) then has copies of them, where closures would go on with the original.

    def _encoder_forward(self, forward: Callable, *args, inputs_embeds: torch.Tensor | None = None, **kwargs):
        if inputs_embeds is None:
            return forward(*args, **kwargs)
        if self.is_whole_encoder:
            return BaseModelOutput(last_hidden_state=inputs_embeds)
        self._states = inputs_embeds
        try:
            return forward(*args, inputs_embeds=inputs_embeds, **kwargs)
        finally:
            self._states = None

    def _train(self, train: Callable, mode: bool = True) -> nn.Module:
        """A frozen encoder stays in evaluation mode: no walk through its modules in every step."""
        return self.model.encoder if mode else train(mode)

    def _embeddings_forward(self, forward: Callable, *args, **kwargs):
        if self._states is None:
            return forward(*args, **kwargs)
        # No layer looks at it; but a projection below the first one wants the right width.
        return self._states.new_zeros((*self._states.shape[:2], self._embedding_size))

    def _layer_forward(self, forward: Callable, *args, **kwargs):
        if self._states is None:
            return forward(*args, **kwargs)
        return (self._states, *[None] * (self._tuple_length - 1)) if self._tuple_length else self._states


class _EndOfPrefix(Exception):
    def __init__(self, states: torch.Tensor):
        self.states = states
