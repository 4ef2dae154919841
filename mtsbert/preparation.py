"""Gives access to `data_prep`, which is next to this package in a clone and inside it when installed."""

import importlib
import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType


@cache
def data_prep(module: str) -> ModuleType:
    """Imports a module of `data_prep`, such as `"build"`. This is lazy: a command imports only what it needs."""
    package = "mtsbert.data_prep" if importlib.util.find_spec("mtsbert.data_prep") else "data_prep"
    return importlib.import_module(f"{package}.{module}")


def prepare(**options) -> Path:
    """
    Labels texts with spaCy and writes a dataset folder, like `python -m data_prep`; `options` are those of
    `data_prep.build.build_dataset`. With `nli`, makes triplets for a ranking instead, and `options` are those of
    `data_prep.triplets.build_triplets`; with `pairs_of`, pairs, and those of `data_prep.pairs.build_pairs`.

    Returns:
        The folder.

    Raises:
        `ValueError`: for an unknown option, or one that cannot be used; nothing is left behind then.

    Example:

        >>> prepare(source="sample", spacy_model="en_core_web_sm", output="data/sample")
        PosixPath('data/sample')
    """
    build = data_prep("build").check_options(options)
    build(**options)
    return Path(options["output"])
