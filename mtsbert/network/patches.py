"""How a running encoder is changed for a while, and how it is seen that it still says the same."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


SDPA = "sdpa"


@contextmanager
def replaced(module: nn.Module, name: str, replacement: Callable) -> Iterator[None]:
    """Inside, calls of a module's method are calls of `replacement` with that method as first argument."""
    before = vars(module).get(name)  # of other wrappers
    setattr(module, name, partial(replacement, getattr(module, name)))
    try:
        yield
    finally:
        delattr(module, name)
        if before is not None:
            setattr(module, name, before)


@contextmanager
def replaced_attention(attention: Callable) -> Iterator[None]:
    """Inside, transformers' `sdpa` is `attention`, with the one before as its first argument."""
    before = dict(ALL_ATTENTION_FUNCTIONS._local_mapping)
    ALL_ATTENTION_FUNCTIONS[SDPA] = partial(attention, ALL_ATTENTION_FUNCTIONS[SDPA])
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS._local_mapping = before


def are_close(states: torch.Tensor, others: torch.Tensor) -> bool:
    """Whether they differ by no more than rounding: MiniLM shows 1e-6 in fp32 and 1e-2 in bf16."""
    tolerance = 1e-4 if states.dtype == torch.float32 else 5e-2
    return bool((states - others).norm() <= tolerance * others.norm())
