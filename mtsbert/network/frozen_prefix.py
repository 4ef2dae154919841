"""The frozen bottom layers of the encoder, which are computed once per text and then skipped."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from modeling_mtsbert import MTSBertModel
from mtsbert.network.freezing import Freezing
from mtsbert.network.parts import (
    EMBEDDINGS,
    copied_layers,
    encoder_embeddings,
    encoder_layers,
    encoder_parts,
    is_of_encoder,
    layer_name,
)
from mtsbert.network.patches import are_close, replaced


class FrozenPrefix:
    """
    The frozen part of an encoder: all of it, or its embeddings and lowest layers.

    Args:
        model ([`MTSBertModel`]): The model.
        num_layers (`int`, *optional*): The number of frozen layers above the embeddings. Default: the whole encoder.
    """

    def __init__(self, model: MTSBertModel, num_layers: int | None = None):
        self.model = model
        self.num_layers = num_layers
        self.modules: list[nn.Module] = [model.encoder]
        if num_layers is not None:
            self.modules = [encoder_embeddings(model), *encoder_layers(model)[:num_layers]]
        self._states: torch.Tensor | None = None  # input of the layers above the prefix, during a forward pass
        self._embedding_size = 0  # width of the embeddings' output
        self._tuple_length = 0  # length of the tuple that layers return; 0 if they return only the states

    @classmethod
    def of(cls, freezing: Freezing) -> "FrozenPrefix | None":
        """
        Returns the longest prefix that stays frozen to the end of training; None if the embeddings or the lowest layer
        are not frozen. Layers that the tasks have copies of are not part of it, because the copies need their input.
        """
        copied, frozen = copied_layers(freezing.model), freezing.to_the_end
        parts = {name for name, part in freezing.parts.items() if is_of_encoder(name) and part.parameters}
        if parts <= frozen and not copied:
            return cls(freezing.model)
        num_layers = 0
        while layer_name(num_layers) in frozen and num_layers not in copied:
            num_layers += 1
        return cls(freezing.model, num_layers) if num_layers and EMBEDDINGS in frozen else None

    @property
    def is_whole_encoder(self) -> bool:
        return self.num_layers is None

    def weights(self) -> Iterator[torch.Tensor]:
        """Yields all parameters and buffers that the output depends on, in a fixed order."""
        for module in self.modules:
            yield from module.state_dict().values()
        yield from encoder_parts(self.model)[EMBEDDINGS].parameters  # some are outside of the embeddings' module

    def run(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Computes the output `(B, T, H)` of the prefix for token ids `(B, T)`. Needs a model in evaluation mode."""
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
        raise ValueError(f"`feature_cache`: {type(encoder).__name__} does not run its layers as modules.")

    @torch.autocast("cpu", enabled=False)
    @torch.autocast("cuda", enabled=False)
    def check(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> int:
        """
        Checks on a few texts of different lengths that the output of the prefix can be cached, and returns its width
        `H`. The texts must be padded as in training; autocast is turned off.

        Raises:
            `ValueError`: if the output depends on padding or on trained parameters, or if the layers above use
                anything else from the prefix than its output.
        """
        name = type(self.model.encoder).__name__
        states = self.run(input_ids, attention_mask)
        trained = [parameter for parameter in self.model.encoder.parameters() if parameter.requires_grad]
        # Checking `requires_grad` is not enough: activation checkpointing sets it for the embeddings' output.
        if (
            trained
            and states.requires_grad
            and any(g is not None for g in torch.autograd.grad(states.sum(), trained, allow_unused=True))
        ):
            raise ValueError(f"`feature_cache`: frozen layers of {name} use parameters that are trained.")
        states = states.detach()
        if states.shape[:2] != input_ids.shape:
            raise ValueError(f"`feature_cache`: the layers of {name} do not give one state for each token, in order.")
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
        except Exception as error:  # custom encoders may fail in any way
            raise ValueError(f"`feature_cache` cannot pass over the frozen layers of {name}: {error}") from error
        if not is_same:
            raise ValueError(
                f"`feature_cache` cannot pass over the frozen layers of {name}: it computes more than its embeddings "
                "and layers."
            )
        return states.shape[-1]

    @contextmanager
    def skipped(self) -> Iterator[None]:
        """Makes the model skip the prefix: `inputs_embeds` is then the output of the prefix."""
        with ExitStack() as stack:
            stack.enter_context(replaced(self.model.encoder, "forward", self._encoder_forward))
            if self.is_whole_encoder:
                stack.enter_context(replaced(self.model.encoder, "train", self._train))
            if not self.is_whole_encoder:
                stack.enter_context(replaced(self.modules[0], "forward", self._embeddings_forward))
                for layer in self.modules[1:]:
                    stack.enter_context(replaced(layer, "forward", self._layer_forward))
            yield

    # These replace methods of modules. They are bound methods in partials and not closures, so that a deep copy of the
    # model (e.g. for a moving average of its weights) has its own copies instead of referring to the original.

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
        """Keeps a frozen encoder in evaluation mode, without visiting its modules in each step."""
        return self.model.encoder if mode else train(mode)

    def _embeddings_forward(self, forward: Callable, *args, **kwargs):
        if self._states is None:
            return forward(*args, **kwargs)
        # No layer uses the values, but a projection below the first layer needs the right width.
        return self._states.new_zeros((*self._states.shape[:2], self._embedding_size))

    def _layer_forward(self, forward: Callable, *args, **kwargs):
        if self._states is None:
            return forward(*args, **kwargs)
        return (self._states, *[None] * (self._tuple_length - 1)) if self._tuple_length else self._states


class _EndOfPrefix(Exception):
    def __init__(self, states: torch.Tensor):
        self.states = states
