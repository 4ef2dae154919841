"""Tests which private methods of transformers' Trainer are overridden."""

import re

from transformers import Trainer

import mtsbert.training
from mtsbert.training.trainer import MTSBertTrainer


def overridden() -> set[str]:
    classes = [one for one in MTSBertTrainer.__mro__ if one.__module__.startswith("mtsbert.")]
    return {
        name for one in classes for name in vars(one) if hasattr(Trainer, name) and callable(getattr(Trainer, name))
    }


def test_every_private_method_that_is_overridden_is_listed_with_its_reason():
    listed = re.findall(r"^- `(_\w+)`: .+", mtsbert.training.__doc__, re.MULTILINE)
    assert listed == sorted(name for name in overridden() if re.match("_[a-z]", name))


def test_the_methods_that_are_overridden_still_exist():
    """Where transformers renames one, it would no longer be called, and nothing else would say so."""
    for name in re.findall(r"^- `(_\w+)`", mtsbert.training.__doc__, re.MULTILINE):
        assert callable(getattr(Trainer, name, None)), name
