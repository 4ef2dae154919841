"""Rows of news → labelled rows, a block at a time: the work itself, in whichever process and on whichever machine."""

import itertools
import platform
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa

from .cleaning import clean
from .labelling import EntityLabeller, LabelledText


try:  # installed: this is `mtsbert.data_prep`
    from ..entities_mtsbert import bio_labels, spans_to_tags
except ImportError:  # run from a clone, with the repository root on `sys.path`
    from entities_mtsbert import bio_labels, spans_to_tags


ROWS_PER_BLOCK = 64


class LabelledBlock(NamedTuple):
    rows: pa.RecordBatch
    """Rows of the dataset, in order."""
    num_read: int
    num_empty: int
    """Rows without text, which are left out."""
    num_cleaned: int
    type_counts: Counter


class BlockLabeller:
    """Cleans and labels blocks of rows.

    Args:
        labeller ([`~data_prep.labelling.EntityLabeller`]): What finds the entities.
        schema (`pa.Schema`): The dataset's columns.
    """

    def __init__(self, labeller: EntityLabeller, schema: pa.Schema):
        self._labeller = labeller
        self._schema = schema
        self._label2id = {tag: index for index, tag in enumerate(bio_labels(labeller.types))}

    @classmethod
    def load(cls, spacy_model: str, schema: pa.Schema, version: str) -> "BlockLabeller":
        """
        In a process of its own, for `functools.partial`.

        Raises:
            `ValueError`: where the spaCy pipeline is missing on this machine, or is not of that `version`.
        """
        labeller = EntityLabeller(spacy_model)
        if labeller.version != version:
            raise ValueError(
                f"Labels would differ from machine to machine: {platform.node()} has {labeller.version}, and where "
                f"the program was started there is {version}. Install the same on both."
            )
        return cls(labeller, schema)

    def __call__(self, rows: list[dict]) -> LabelledBlock:
        given = [[part.strip() for part in row["parts"] if part.strip()] for row in rows]
        cleaned = [[part for part in map(clean, parts) if part] for parts in given]
        labelled = iter(self._labeller.label([part for parts in cleaned for part in parts]))
        joined = [
            self._join(row, list(itertools.islice(labelled, len(parts))))
            for row, parts in zip(rows, cleaned, strict=True)
            if parts
        ]
        return LabelledBlock(
            pa.RecordBatch.from_pylist(joined, schema=self._schema),
            num_read=len(rows),
            num_empty=len(rows) - len(joined),
            num_cleaned=sum(before != after for before, after in zip(given, cleaned, strict=True)),
            type_counts=Counter(span["label"] for row in joined for span in row["entities"]),
        )

    def _join(self, row: dict, parts: list[LabelledText]) -> dict:
        """One row of the dataset from its parts, each labelled for itself."""
        text, entities, words = "", [], []
        for part in parts:
            shift = len(text) + 1 if text else 0
            text = f"{text} {part.text}" if text else part.text
            entities += [
                {**span, "start": span["start"] + shift, "end": span["end"] + shift} for span in part.entities
            ]
            words += [(start + shift, end + shift) for start, end in part.words]
        return {
            "text": text,
            **{name: value for name, value in row.items() if name != "parts"},
            "entities": entities,
            "tokens": [text[start:end] for start, end in words],
            "ner_tags": spans_to_tags(entities, words, self._label2id).tags,
        }


def blocks_of(rows: Iterable[dict]) -> Iterator[list[dict]]:
    rows = iter(rows)
    while block := list(itertools.islice(rows, ROWS_PER_BLOCK)):
        yield block
