"""Parses and checks the values of settings, and imports the optional packages that some of them need."""

import importlib
import json
import math
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType, UnionType
from typing import Any, get_args, get_origin

import numpy as np


AT_LEAST = {  # flag → lowest value
    "seed": 0,
    "data_seed": 0,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "learning_rate": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "dataloader_num_workers": 0,
    "eval_accumulation_steps": 1,
    "neftune_noise_alpha": 0,
}
MORE_THAN_0 = ("num_train_epochs", "logging_steps", "eval_steps", "save_steps")
MAX_SEED = 2**32 - 1  # numpy's
MAPPINGS_OF_NUMBERS = ("_weights", "_temperatures")  # how their names end
IN_WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds a dict from key-value pairs. Raises `ValueError` for a duplicate key."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice in one mapping.")
    return mapping


def parse_mapping(value: dict | str | None, name: str) -> dict[str, Any]:
    """Returns a mapping that was given as a dict in a recipe or as JSON on the command line."""
    if isinstance(value, str):
        try:
            value = json.loads(value, object_pairs_hook=unique_keys)
        except json.JSONDecodeError as error:
            raise ValueError(f"--{name} is not JSON ({error}): {value!r}.") from None
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"`{name}` must be a mapping; got {value!r}.")
    return value or {}


def parse_weights(value: dict | str | None, name: str) -> dict[str, float]:
    """Like `parse_mapping`, but requires all values to be numbers of at least 0."""
    weights = parse_mapping(value, name)
    for key, weight in weights.items():
        if not isinstance(weight, int | float) or weight < 0:
            raise ValueError(f"`{name}` gives {key!r} the weight {weight!r}; it must be a number, 0 or more.")
    return weights


def spelled_out(tasks: Mapping[str, str | dict]) -> dict[str, dict]:
    """Expands tasks that are given by their type alone: `"pair_similarity"` becomes `{"type": "pair_similarity"}`."""
    return {name: {"type": task} if isinstance(task, str) else task for name, task in tasks.items()}


def as_annotated(name: str, value: Any, annotation: Any) -> Any:
    """
    Returns the value of a setting in the type that the setting is annotated with, as a recipe would give it: a lone
    value of a list becomes a list of one. Raises `ValueError` for a value of another type.

    Args:
        name (`str`): Name of the setting.
        value (`Any`): Its value.
        annotation (`type`): One of `IN_WORDS`, or a list of one, perhaps `| None`. Mappings are not checked here.
    """
    allowed = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    if dict in allowed or (value is None and type(None) in allowed):
        return value
    if get_origin(allowed[0]) is not list:
        return _as_type(value, allowed[0], f"`{name}` is {value!r}; it must be")
    is_lone = not isinstance(value, Collection) or isinstance(value, str | bytes | Mapping)
    refusal = f"`{name}` is {value!r}; each must be"
    return [_as_type(one, get_args(allowed[0])[0], refusal) for one in ([value] if is_lone else value)]


def _as_type(value: Any, kind: type, refusal: str) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if kind is bool and isinstance(value, int) and value in (0, 1):
        return bool(value)
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if not isinstance(value, int | float if kind is float else kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{refusal} {IN_WORDS[kind]}.")
    return value


def check_numbers(settings: dict[str, Any]) -> None:
    """Raises `ValueError` for a setting whose number is not finite or out of range."""
    for name, value in settings.items():
        numbers = value if name.endswith(MAPPINGS_OF_NUMBERS) and isinstance(value, dict) else {"": value}
        for key, number in numbers.items():
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"`{name}` is {number}{f' for {key!r}' if key else ''}; it must be a finite number.")
            if key and isinstance(number, bool):
                raise ValueError(f"`{name}` is {number} for {key!r}; it must be a number.")
    for name in (*AT_LEAST, *MORE_THAN_0):
        if (value := settings.get(name)) is not None:
            _as_type(value, float, f"`{name}` is {value!r}; it must be")
    for name, lowest in AT_LEAST.items():
        if (value := settings.get(name)) is not None and value < lowest:
            raise ValueError(f"`{name}` is {value}; it must be at least {lowest}.")
    for name in MORE_THAN_0:
        if (value := settings.get(name)) is not None and value <= 0:
            raise ValueError(f"`{name}` is {value}; it must be more than 0.")
    for name in ("seed", "data_seed"):
        if (value := settings.get(name)) is not None and value > MAX_SEED:
            raise ValueError(f"`{name}` is {value}; it must be at most {MAX_SEED:,}.")


def import_extra(module: str, *, extra: str) -> ModuleType:
    """Imports a module of an optional package. Raises `ValueError` with the extra to install if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{module.partition('.')[0]} is not installed: `pip install 'mtsbert[{extra}]'`, or in a clone "
            f"`pip install -r requirements-{extra}.txt`. ({error})"
        ) from None


@contextmanager
def being_made(what: str, **settings) -> Iterator[None]:
    """
    Context in which transformers makes an optimizer or a schedule.

    Raises:
        `ValueError`: with the settings, if it refuses them, or the package of an optimizer is not installed.
    """
    try:
        yield
    except (ImportError, TypeError, ValueError) as error:
        given = ", ".join(f"`{name}: {value}`" for name, value in settings.items() if value)
        raise ValueError(f"The {what} cannot be made from {given}: {error}") from error
