"""
Assigns texts and entities to folds, so that each is judged by a model that has not learned it.

Two entities are the same if their words are, without regard to case, leading articles, a final `'s`, and marks at both
ends. A fold has a share of all entities, and a share of all texts. Its model is trained on the other texts, in which
every occurrence of its own entities is left open: a span without a label, from which nothing is learned. This is the
idea of CrossWeigh (arXiv 1909.01441), which leaves out all texts with such an entity instead, and few would be left of
news.
"""

import re
from collections.abc import Iterable, Sequence
from zlib import crc32

from mtsbert.preparation import data_prep


_WORD = re.compile(r"\w+")
_EDGES = re.compile(r"^\W+|\W+$")


def key_of(entity: str) -> str:
    """What two occurrences of the same entity have in common: `"The  Alps's"` and `"alps"`, `"$5"` and `"5"`."""
    start, end = data_prep("spans").without_article_and_possessive(entity, 0, len(entity))
    return _EDGES.sub("", " ".join(entity[start:end].casefold().split()))


def fold_of(text: str, num_folds: int) -> int:
    """The fold of an entity's key, or of a text: the same in every process."""
    return crc32(text.encode("utf-8", "surrogatepass")) % num_folds


class Folds:
    """
    The folds of a labelled dataset.

    Args:
        texts (`Iterable[str]`): The texts.
        entities (`Iterable[Sequence[dict]]`): The spans of each text.
        num_folds (`int`): How many folds there are.
    """

    def __init__(self, texts: Iterable[str], entities: Iterable[Sequence[dict]], num_folds: int):
        self.num_folds = num_folds
        self.keys: list[set[str]] = [set() for _ in range(num_folds)]  # by fold
        self._lengths: list[dict[str, int]] = [{} for _ in range(num_folds)]  # first word → the most words of a key
        for text, spans in zip(texts, entities, strict=True):
            for span in spans:
                if span["label"] is not None and (key := key_of(text[span["start"] : span["end"]])):
                    self._add(key)

    def _add(self, key: str) -> None:
        fold = fold_of(key, self.num_folds)
        self.keys[fold].add(key)
        first, *rest = _WORD.findall(key)
        self._lengths[fold][first] = max(self._lengths[fold].get(first, 0), 1 + len(rest))

    def is_held_out(self, text: str, fold: int) -> bool:
        """Whether a text is not shown to the model of a fold."""
        return fold_of(text, self.num_folds) == fold

    def fold_of_span(self, text: str, span: dict) -> int:
        return fold_of(key_of(text[span["start"] : span["end"]]), self.num_folds)

    def opened(self, text: str, spans: Sequence[dict], fold: int) -> list[dict]:
        """
        The spans of a text as the model of a fold is shown them: those of its own entities have no label, and their
        occurrences that nobody labelled are spans without a label as well.
        """
        kept = [{**span, "label": None if self.fold_of_span(text, span) == fold else span["label"]} for span in spans]
        taken = [(span["start"], span["end"]) for span in spans]
        words, first = list(_WORD.finditer(text)), 0
        while first < len(words):
            word, *_ = _WORD.findall(words[first].group().casefold())  # İ becomes an i and a mark above it
            most = self._lengths[fold].get(word, 0)
            for last in range(min(len(words), first + most) - 1, first - 1, -1):  # the longest first
                start, end = words[first].start(), words[last].end()
                if " ".join(text[start:end].casefold().split()) in self.keys[fold]:
                    if not any(start < other_end and other_start < end for other_start, other_end in taken):
                        kept.append({"start": start, "end": end, "label": None})
                        taken.append((start, end))
                        first = last
                    break
            first += 1
        return sorted(kept, key=lambda span: span["start"])

    def found(self, text: str, given: Sequence[dict], found_by: Sequence[Sequence[dict]]) -> list[dict]:
        """
        What the models find in a text, as far as each may be asked: entities that are given by the model that has not
        learned them, and others by the model that has not seen the text.

        Args:
            text (`str`): The text.
            given (`Sequence[dict]`): Its labelled spans.
            found_by (`Sequence[Sequence[dict]]`): By fold, the spans that its model finds.
        """
        marks = [{(span["start"], span["end"], span["label"]) for span in spans} for spans in found_by]
        confirmed = [
            {name: span[name] for name in ("start", "end", "label")}
            for span in given
            if (span["start"], span["end"], span["label"]) in marks[self.fold_of_span(text, span)]
        ]
        rejected = {(span["start"], span["end"], span["label"]) for span in given}
        others = [
            {name: span[name] for name in ("start", "end", "label")}
            for span in found_by[fold_of(text, self.num_folds)]
            if (span["start"], span["end"], span["label"]) not in rejected
            and not any(span["start"] < other["end"] and other["start"] < span["end"] for other in confirmed)
        ]
        return sorted(confirmed + others, key=lambda span: span["start"])
