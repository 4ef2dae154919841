"""Reads the rows of an audit, and keeps rows with the same text together."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mtsbert.data.examples import read_examples
from mtsbert.data.labels import join_spellings
from mtsbert.data.sources import open_datasets


TRAIN = "train"


def read_rows(path: Path | str, columns: dict[str, str], tasks: dict[str, dict], **settings) -> list[dict]:
    """
    Reads the training rows as examples (see `mtsbert/data/examples.py`). Labels that differ only in how they are
    written are one.

    Args:
        path (`Path` or `str`): A file, a prepared folder or a Hub id. Of the latter two, the training split is read.
        columns (`dict[str, str]`): Column → `text` or the name of a task.
        tasks (`dict[str, dict]`): The tasks.
        settings: Further keys of the dataset, as in a recipe.

    Raises:
        `ValueError`: if the data cannot be read.
    """
    spec = {"path": str(path), "splits": {TRAIN: TRAIN}, "columns": columns, **settings}
    (source,) = open_datasets({str(path): spec}, tasks)
    examples = {source.name: {TRAIN: read_examples(source, TRAIN, tasks)}}
    for name, task in tasks.items():
        join_spellings(name, task, examples)
    return list(examples[source.name][TRAIN])


def groups_of(texts: Sequence[str]) -> np.ndarray:
    """Returns a number for each text `(N,)`, the same for equal texts."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(text, len(numbers)) for text in texts])
