"""Temporarily patches methods and attention of an encoder, and compares its outputs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


SDPA = "sdpa"


@contextmanager
def replaced(module: nn.Module, name: str, replacement: Callable) -> Iterator[None]:
    """Temporarily replaces a method of a module. `replacement` gets the original method as its first argument."""
    before = vars(module).get(name)  # set by another wrapper
    setattr(module, name, partial(replacement, getattr(module, name)))
    try:
        yield
    finally:
        delattr(module, name)
        if before is not None:
            setattr(module, name, before)


@contextmanager
def replaced_attention(attention: Callable) -> Iterator[None]:
    """Temporarily replaces transformers' `sdpa`. `attention` gets the original function as its first argument."""
    before = dict(ALL_ATTENTION_FUNCTIONS._local_mapping)
    ALL_ATTENTION_FUNCTIONS[SDPA] = partial(attention, ALL_ATTENTION_FUNCTIONS[SDPA])
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS._local_mapping = before


def are_close(states: torch.Tensor, others: torch.Tensor) -> bool:
    """Whether states differ only by rounding errors, which for MiniLM are 1e-6 in fp32 and 1e-2 in bf16."""
    tolerance = 1e-4 if states.dtype == torch.float32 else 5e-2
    return bool((states - others).norm() <= tolerance * others.norm())
