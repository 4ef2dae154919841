"""Training without padding: the encoder's layers process the tokens of a batch as one concatenated sequence."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import copy

import torch
from torch import nn

from modeling_mtsbert import MTSBertModel
from mtsbert.network.parts import encoder_layers
from mtsbert.network.patches import are_close, replaced, replaced_attention


WORTHWHILE = 0.95  # if more of a batch than this is text, padding is faster than removing it


class PaddingFree:
    """
    Runs the layers of an encoder on `(1, N, H)` instead of `(B, T, H)`, where N is the number of tokens in a batch
    without padding. Attention, a small part of the computation, still runs on padded texts `(B, T)`.

    Embeddings and everything after the layers run with padding as usual, so that results differ only by rounding and
    the random numbers of dropout.

    Args:
        model ([`MTSBertModel`]): The model.
        first_layer (`int`, *optional*, defaults to 0): The lowest layer that is run.

    Raises:
        `ValueError`: if the encoder does not have a single list of layers.
    """

    def __init__(self, model: MTSBertModel, *, first_layer: int = 0):
        self.encoder = model.encoder
        self.layers = encoder_layers(model)[first_layer:]
        # The tasks' copies of layers get the states of the encoder's pass, which are without padding.
        self.task_layers = [] if model.task_layers is None else model.task_layers.layers
        both = (self.encoder, *self.task_layers)
        self._modules = frozenset(id(module) for part in both for module in part.modules())  # with our attention
        self._is_on = True
        self._pieces: torch.Tensor | None = None  # (N,) positions of tokens in the flattened (B, T)
        self._shape: tuple[int, int] | None = None  # (B, T)

    @contextmanager
    def active(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(replaced(self.encoder, "forward", self._forward))
            # `prepend`, so that the tasks' copies of layers are given the states without padding
            enter = self.layers[0].register_forward_pre_hook(self._enter, with_kwargs=True, prepend=True)
            stack.callback(enter.remove)
            for last in (self.layers[-1], *self.task_layers[-1:]):
                stack.callback(last.register_forward_hook(self._leave).remove)
            stack.enter_context(replaced_attention(self._attention))
            yield

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    @torch.autocast("cuda", enabled=False)
    def check(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> None:
        """
        Raises `ValueError` unless the encoder computes the same for a batch of texts without padding. Every other text
        is shortened, so that there is padding to remove. The model must be in evaluation mode.
        """
        name = type(self.encoder).__name__
        inputs = {"input_ids": input_ids.repeat(2, 1), "attention_mask": _with_padding(attention_mask.repeat(2, 1))}
        is_text = inputs["attention_mask"].bool()
        expected = self.encoder(**inputs).last_hidden_state[is_text]
        try:
            with self.active():
                found = self.encoder(**inputs).last_hidden_state[is_text]
        except Exception as error:  # custom encoders may fail in any way
            raise ValueError(f"{name} does not run without padding: {error}") from error
        assert self._pieces is not None
        if not are_close(found, expected):
            raise ValueError(f"{name} computes something else without padding.")

    def __deepcopy__(self, memo: dict) -> "PaddingFree":
        """Turns padding on again in a deep copy of the model, e.g. for a moving average of its weights."""
        copied = copy(self)
        copied._pieces, copied._is_on, copied._modules = None, False, frozenset()
        return copied

    def _forward(self, forward: Callable, *args, **kwargs):
        self._pieces = None
        attention_mask = kwargs.get("attention_mask")
        # Callers that ask for the states between layers expect them with padding.
        wanted = any(
            kwargs.get(name) or getattr(self.encoder.config, name, False)
            for name in ("output_hidden_states", "output_attentions")
        )
        if self._is_on and not wanted and attention_mask is not None and attention_mask.dim() == 2:
            pieces = attention_mask.flatten().nonzero().squeeze(1)
            if len(pieces) <= WORTHWHILE * attention_mask.numel():
                self._pieces, self._shape = pieces, tuple(attention_mask.shape)
        # The positions are kept, because activation checkpointing runs the layers again in the backward pass.
        return forward(*args, **kwargs)

    def _enter(self, layer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if self._pieces is None:
            return args, kwargs
        states, *rest = args
        return (_TakeOut.apply(states.flatten(0, 1), self._pieces)[None], *rest), kwargs

    def _leave(self, layer: nn.Module, args: tuple, output: torch.Tensor | tuple) -> torch.Tensor | tuple:
        if self._pieces is None:
            return output
        states = output[0] if isinstance(output, tuple) else output
        padded = self._padded(states[0])
        return (padded, *output[1:]) if isinstance(output, tuple) else padded

    def _attention(
        self, attention: Callable, module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
        *args, **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
        if self._pieces is None or id(module) not in self._modules or query.shape[2] != len(self._pieces):
            return attention(module, query, key, value, *args, **kwargs)
        states = (state.transpose(1, 2) for state in (query, key, value))  # (1, N, heads, D)
        padded = [
            self._padded(state.flatten(2)[0]).unflatten(2, state.shape[2:]).transpose(1, 2) for state in states
        ]  # (B, heads, T, D)
        output, weights = attention(module, *padded, *args, **kwargs)  # (B, T, heads, D)
        taken = _TakeOut.apply(output.flatten(2).flatten(0, 1), self._pieces)
        return taken.unflatten(1, output.shape[2:])[None], weights

    def _padded(self, states: torch.Tensor) -> torch.Tensor:
        """Turns `(N, H)` into `(B, T, H)`, with 0 for padding."""
        return _PutBack.apply(states, self._pieces, self._shape[0] * self._shape[1]).unflatten(0, self._shape)


def _with_padding(attention_mask: torch.Tensor) -> torch.Tensor:
    """Shortens every other text of an attention mask `(B, T)` to half its length, on the side of the padding."""
    mask = attention_mask.clone()
    for row in mask[1::2]:
        places = row.nonzero().squeeze(1)
        half = max(1, len(places) // 2)
        row[places[half:] if row[0] else places[:-half]] = 0
    return mask


class _TakeOut(torch.autograd.Function):
    """Selects rows of a matrix. Since each row is selected only once, the gradient is a copy instead of a sum."""

    @staticmethod
    def forward(ctx, matrix: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(rows)
        ctx.num_rows = len(matrix)
        return matrix.index_select(0, rows)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (rows,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.num_rows, gradient.shape[1]).index_copy_(0, rows, gradient), None


class _PutBack(torch.autograd.Function):
    """The inverse of [`_TakeOut`]: puts rows into a matrix of `num_rows` rows that is 0 elsewhere."""

    @staticmethod
    def forward(ctx, matrix: torch.Tensor, rows: torch.Tensor, num_rows: int) -> torch.Tensor:
        ctx.save_for_backward(rows)
        return matrix.new_zeros(num_rows, matrix.shape[1]).index_copy_(0, rows, matrix)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        return gradient.index_select(0, rows), None, None
