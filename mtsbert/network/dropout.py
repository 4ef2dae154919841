"""Faster dropout on the CPU, where torch spends as much time on random numbers as on matrix products."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from mtsbert.network.patches import replaced_attention


RANGE = 2**16  # each element is decided by 16 random bits


class FastDropout(nn.Dropout):
    """
    A faster `nn.Dropout` on the CPU, which uses one 64-bit random number of torch's generator for four elements.

    The probability `p` is rounded to a multiple of 1/65,536, and the kept elements are scaled to match it exactly. In
    evaluation mode and on other devices, this is the same as `nn.Dropout`.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        kept = round((1.0 - self.p) * RANGE)
        if not self.training or input.device.type != "cpu" or kept in (0, RANGE):
            return super().forward(input)
        return input * _mask(input, kept) * (RANGE / kept)


def use_fast_dropout(model: nn.Module) -> None:
    """Turns every `nn.Dropout` of a model into a [`FastDropout`]. This does not change what is saved."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = FastDropout


@contextmanager
def fast_attention_dropout() -> Iterator[None]:
    """
    Makes transformers' `sdpa` attention use the same faster dropout on the CPU, where torch has no fast attention
    kernel with dropout. This takes a third of the time at 128 tokens. Without dropout, where torch's kernel has a slow
    backward pass, a forward and backward pass of 32 texts take a third of the time at 128 tokens, and a sixth at 64
    (bf16). If a token may not attend to any other token, its output is the mean of all values instead of 0.
    """
    with replaced_attention(_attention):
        yield


def _attention(
    sdpa,
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """`query`, `key`, `value` `(B, heads, T, D)`, mask `(B, 1, T, T)` → `(B, T, heads, D)`, as in transformers."""
    kept = round((1.0 - dropout) * RANGE)
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    others = any(value is not None for name, value in kwargs.items() if name in ("position_bias", "softcap", "cache"))
    plain = not causal and not others and query.shape[:2] == key.shape[:2]
    learns = torch.is_grad_enabled() and query.requires_grad
    if query.device.type != "cpu" or kept == 0 or (kept == RANGE and not learns) or not plain:
        return sdpa(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
    scores = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.transpose(-1, -2)
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            lowest = torch.finfo(scores.dtype).min / 2  # half the minimum, so that the sum stays finite
            attention_mask = torch.zeros_like(attention_mask, dtype=scores.dtype).masked_fill_(~attention_mask, lowest)
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1)
    if kept == RANGE:
        return (weights @ value).transpose(1, 2).contiguous(), None
    values = (weights * _mask(weights, kept)) @ value
    return (values * (RANGE / kept)).transpose(1, 2).contiguous(), None


def _mask(input: torch.Tensor, kept: int) -> torch.Tensor:
    """
    Draws a dropout mask with the shape and dtype of the input: 1 with probability `kept / RANGE`, otherwise 0.

    Multiplying by such a mask is several times faster in torch than selecting with a boolean mask. The fastest way to
    build it is to write a comparison into integers, multiply them by the bits of the number 1, and reinterpret them.
    """
    numbers = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = numbers.view(torch.int16)[: input.numel()].view(input.shape)
    mask = torch.lt(bits, kept - RANGE // 2, out=torch.empty_like(bits))
    half = input.dtype if input.dtype == torch.float16 else torch.bfloat16
    return mask.mul_(torch.ones((), dtype=half).view(torch.int16)).view(half).to(input.dtype)
