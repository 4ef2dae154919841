"""Dropout that costs a processor little: torch spends as long on its random numbers there as on matrix products."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from mtsbert.network.patches import replaced_attention


RANGE = 2**16  # a number of 16 random bits decides for each element


class FastDropout(nn.Dropout):
    """
    `nn.Dropout` for the processor: one 64-bit random number of torch's generator serves four elements.

    The share that is dropped is `p` rounded to 1/65,536; what is kept is scaled by exactly that. In evaluation, and on
    other devices, it is `nn.Dropout`.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        kept = round((1.0 - self.p) * RANGE)
        if not self.training or input.device.type != "cpu" or kept in (0, RANGE):
            return super().forward(input)
        return input * _mask(input, kept) * (RANGE / kept)


def use_fast_dropout(model: nn.Module) -> None:
    """Makes every `nn.Dropout` of a model a [`FastDropout`]; nothing of it is saved."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = FastDropout


@contextmanager
def fast_attention_dropout() -> Iterator[None]:
    """
    Inside, transformers' `sdpa` attention drops in the same way on the processor, where torch's own has no fast kernel
    with dropout: a third of the time at 128 word pieces. A row of which nothing may be attended to gets the mean of
    all values instead of 0.
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
    if query.device.type != "cpu" or kept in (0, RANGE) or not plain:
        return sdpa(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
    scores = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.transpose(-1, -2)
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            lowest = torch.finfo(scores.dtype).min / 2  # half of it: the sum must stay finite
            attention_mask = torch.zeros_like(attention_mask, dtype=scores.dtype).masked_fill_(~attention_mask, lowest)
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1)
    values = (weights * _mask(weights, kept)) @ value
    return (values * (RANGE / kept)).transpose(1, 2).contiguous(), None


def _mask(input: torch.Tensor, kept: int) -> torch.Tensor:
    """
    1 for `kept` of `RANGE` elements and 0 for the others, in the input's shape and number format.

    torch multiplies by such a mask several times faster than it selects by one of type bool, and makes it fastest by
    comparing into integers that have the bits of the number 1.
    """
    numbers = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = numbers.view(torch.int16)[: input.numel()].view(input.shape)
    mask = torch.lt(bits, kept - RANGE // 2, out=torch.empty_like(bits))
    half = input.dtype if input.dtype == torch.float16 else torch.bfloat16
    return mask.mul_(torch.ones((), dtype=half).view(torch.int16)).view(half).to(input.dtype)
