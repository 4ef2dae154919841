"""The lower end of the encoder that no step changes: run once for a text, and later passed over."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from modeling_mtsbert import MTSBertModel
from mtl.freezing import Freezing
from mtl.parts import EMBEDDINGS, encoder_embeddings, encoder_layers, encoder_parts, layer_name


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
        self._returns_tuple = False  # whether the encoder's layers return their states as a tuple of one

    @classmethod
    def of(cls, freezing: Freezing) -> "FrozenPrefix | None":
        """The longest one that is frozen for good; None where the embeddings or the lowest layer are not."""
        parts = encoder_parts(freezing.model)
        if all(name in freezing.forever for name, part in parts.items() if part.parameters):
            return cls(freezing.model)
        num_layers = 0
        while layer_name(num_layers) in freezing.forever:
            num_layers += 1
        return cls(freezing.model, num_layers) if num_layers and EMBEDDINGS in freezing.forever else None

    @property
    def is_whole_encoder(self) -> bool:
        return self.num_layers is None

    def run(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Word pieces `(B, T)` → the states `(B, T, H)` that the prefix ends with. The model is in evaluation mode."""
        encoder = self.model.encoder
        if self.is_whole_encoder:
            return encoder(input_ids=input_ids, attention_mask=attention_mask, return_dict=True).last_hidden_state

        def stop(module, inputs, output):
            self._returns_tuple = isinstance(output, tuple)
            raise _EndOfPrefix(output[0] if self._returns_tuple else output)

        hook = self.modules[-1].register_forward_hook(stop)
        try:
            encoder(input_ids=input_ids, attention_mask=attention_mask)
        except _EndOfPrefix as end:
            return end.states
        finally:
            hook.remove()
        raise AssertionError("The encoder ran without its layers.")

    def check(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """
        The states of some texts, as `run` gives them.

        Raises `ValueError` unless the prefix can be passed over: it must not depend on anything that is trained (a
        position bias that all layers share, say), and nothing may happen between embeddings, layers and the end but
        what the encoder does to its `inputs_embeds`.
        """
        name = type(self.model.encoder).__name__
        states = self.run(input_ids, attention_mask)
        if states.requires_grad:
            raise ValueError(f"`feature_cache`: frozen layers of {name} use parameters that are trained.")
        if self.is_whole_encoder:
            return states
        with torch.no_grad(), self.skipped():
            whole = self.model.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            above = self.model.encoder(inputs_embeds=states, attention_mask=attention_mask).last_hidden_state
        if not torch.allclose(above, whole, atol=1e-5 if whole.dtype == torch.float32 else 1e-2):
            raise ValueError(
                f"`feature_cache` cannot pass over the frozen layers of {name}: it computes more than its embeddings "
                "and layers. Set `feature_cache: false`."
            )
        return states

    @contextmanager
    def skipped(self) -> Iterator[None]:
        """Inside, `inputs_embeds` are what the prefix ends with, and the model goes on from there."""
        with ExitStack() as stack:
            stack.enter_context(_forward_replaced(self.model.encoder, self._encoder_forward))
            if not self.is_whole_encoder:
                stack.enter_context(_forward_replaced(self.modules[0], self._embeddings_forward))
                for layer in self.modules[1:]:
                    stack.enter_context(_forward_replaced(layer, self._layer_forward))
            yield

    def _encoder_forward(self, forward: Callable) -> Callable:
        def replaced(*args, inputs_embeds: torch.Tensor | None = None, **kwargs):
            if inputs_embeds is None:
                return forward(*args, **kwargs)
            if self.is_whole_encoder:
                return BaseModelOutput(last_hidden_state=inputs_embeds)
            self._states = inputs_embeds
            try:
                return forward(*args, inputs_embeds=inputs_embeds, **kwargs)
            finally:
                self._states = None

        return replaced

    def _embeddings_forward(self, forward: Callable) -> Callable:
        return lambda *args, **kwargs: forward(*args, **kwargs) if self._states is None else self._states

    def _layer_forward(self, forward: Callable) -> Callable:
        def replaced(*args, **kwargs):
            if self._states is None:
                return forward(*args, **kwargs)
            return (self._states,) if self._returns_tuple else self._states

        return replaced


class _EndOfPrefix(Exception):
    def __init__(self, states: torch.Tensor):
        self.states = states


@contextmanager
def _forward_replaced(module: nn.Module, replace: Callable[[Callable], Callable]) -> Iterator[None]:
    module.forward = replace(module.forward)
    try:
        yield
    finally:
        del module.forward
