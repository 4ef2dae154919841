"""Copies of training texts with other names in them, so that entities are learned by context instead of by heart."""

import logging
import random
from collections.abc import Sequence
from functools import partial

from datasets import Dataset, concatenate_datasets

from mtsbert.data.examples import fingerprint_of
from mtsbert.data.sources import TEXT, TEXT_PAIR


SHARE = 0.4  # of the names of a copy

logger = logging.getLogger(__name__)

Names = dict[tuple[str, int], list[str]]  # type and number of words → the names


def with_swapped_copies(examples: Dataset, task: str, number: int) -> Dataset:
    """
    Appends copies of training rows in which names are replaced by others of the dataset ("mention replacement", arXiv
    2010.11683). Rows without a name, and pairs of texts, are not copied.

    Args:
        examples (`Dataset`): The training rows of one dataset.
        task (`str`): The token task whose entities are the names.
        number (`int`): The number of copies of each row.
    """
    texts, pairs, entities = (examples[column][:] for column in (TEXT, TEXT_PAIR, task))
    names = names_of(texts, entities)
    rows = [
        row
        for row, (text, pair, spans) in enumerate(zip(texts, pairs, entities, strict=True))
        if pair is None and any(is_name(text, span) for span in spans or ())
    ]
    if not rows:
        logger.warning(f"`swapped_copies`: no entity of {task!r} is a name, so there are no copies.")
        return examples
    logger.info(f"{len(rows):,} of {len(examples):,} texts have names; of each, copies with other names: {number}.")
    copies = [
        examples.select(rows).map(
            partial(with_other_names, names=names, task=task, number=copy),
            features=examples.features,
            new_fingerprint=fingerprint_of(examples, "swapped", task, copy),
        )
        for copy in range(1, number + 1)
    ]
    return concatenate_datasets([examples, *copies])


def is_name(text: str, span: dict) -> bool:
    """Whether an entity is a name: it has a label and begins with a letter that is not a small one."""
    first = text[span["start"]]
    return span["label"] is not None and first.isalpha() and not first.islower()


def names_of(texts: Sequence[str], entities: Sequence[list[dict] | None]) -> Names:
    """Returns the distinct names in texts with these entities, in alphabetical order."""
    found: dict[tuple[str, int], set[str]] = {}
    for text, spans in zip(texts, entities, strict=True):
        for span in spans or ():
            if is_name(text, span):
                name = text[span["start"] : span["end"]]
                found.setdefault(_kind(name, span["label"]), set()).add(name)
    return {kind: sorted(of_kind) for kind, of_kind in found.items()}


def with_other_names(row: dict, *, names: Names, task: str, number: int) -> dict:
    """
    Replaces about 40 % of the names of a row by others of the same type and as many words. A name that is there twice
    is replaced by the same one, and all other entities stay as they are.

    Args:
        row (`dict`): The row, with the entities in order and not overlapping.
        names (`Names`): What to choose from, see [`names_of`].
        task (`str`): The token task.
        number (`int`): Number of the copy. The same row and number give the same copy.
    """
    text, draw, chosen = row[TEXT], random.Random(f"{number} {row[TEXT]}"), {}
    pieces, spans, done, length = [], [], 0, 0
    for span in row[task]:
        own = text[span["start"] : span["end"]]
        if (own, span["label"]) not in chosen:
            is_swapped = is_name(text, span) and draw.random() < SHARE
            others = [name for name in names[_kind(own, span["label"])] if name != own] if is_swapped else []
            chosen[own, span["label"]] = draw.choice(others or [own])
        name, between = chosen[own, span["label"]], text[done : span["start"]]
        start = length + len(between)
        spans.append({"start": start, "end": start + len(name), "label": span["label"]})
        pieces += [between, name]
        done, length = span["end"], start + len(name)
    return {**row, TEXT: "".join([*pieces, text[done:]]), task: spans}


def _kind(name: str, label: str) -> tuple[str, int]:
    return label, len(name.split())
