"""Tells which labels are the same and differ only in how they are written, and sorts labels."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable
from decimal import Decimal


NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
WITH_LEADING_ZERO = re.compile(r"[+-]?0[0-9]")
TRUTH_VALUES = ("true", "false")
INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))


def meaning_of(label: str) -> Hashable:
    """
    Returns what a label stands for. Two labels with the same meaning differ only in whitespace, invisible characters
    or the form of Unicode (`"Sci  Tech "`, `"Sci Tech"`), in how a number is written (`"1"`, `"1.0"`) or in the case
    of a truth value (`"True"`, `"true"`).
    """
    text = _tidy(label)
    if text.lower() in TRUTH_VALUES:
        return text.lower()
    return Decimal(text) if NUMBER.fullmatch(text) else text


def _tidy(label: str) -> str:
    return " ".join(unicodedata.normalize("NFC", label).translate(INVISIBLE).split())


def one_of_each(labels: Iterable[str]) -> list[str]:
    """Returns one label of each meaning; of several, the shortest without its superfluous whitespace."""
    alike: dict[Hashable, set[str]] = defaultdict(set)
    for label in labels:
        alike[meaning_of(label)].add(label)
    chosen = []
    for of_meaning in alike.values():
        names = of_meaning if len(of_meaning) == 1 else {_tidy(label) for label in of_meaning}
        chosen.append(min(names, key=lambda label: (len(label), label)))
    return chosen


def spellings(labels: Collection[str], known: Collection[str]) -> dict[str, str]:
    """
    Maps labels to the known ones that they mean. Labels that mean none of them are left out.

    Raises:
        `ValueError`: for a label that may be one of them or another one: `"01"` and `"1"`.
    """
    exact = set(known)
    of_meaning: dict[Hashable, list[str]] = defaultdict(list)
    for label in known:
        of_meaning[meaning_of(label)].append(label)
    found = {}
    for label in labels:
        if label in exact:
            found[label] = label
        elif (meant := of_meaning.get(meaning_of(label))) is not None:
            if len(meant) > 1 or bool(WITH_LEADING_ZERO.match(label)) != bool(WITH_LEADING_ZERO.match(meant[0])):
                raise ValueError(
                    f"the data has the label {label!r}, and {' and '.join(map(repr, meant))} may be the same or not. "
                    "Write them alike, or name all of them in the recipe."
                )
            found[label] = meant[0]
    return found


def sorted_labels(labels: Iterable[str]) -> list[str]:
    """Sorts labels: numbers by their value if all are numbers, as text otherwise."""
    labels = list(labels)
    if all(NUMBER.fullmatch(label) for label in labels):
        return sorted(labels, key=lambda label: (Decimal(label), label))
    return sorted(labels)
