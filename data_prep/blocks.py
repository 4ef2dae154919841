"""Rows of news → labelled rows, a block at a time: the work itself, in whichever process and on whichever machine."""

import itertools
import platform
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa

from .bylines import Segment, segments_of
from .cleaning import clean
from .headlines import Truecaser
from .labelling import EntityLabeller, LabelledText


try:  # installed: this is `mtsbert.data_prep`
    from ..entities_mtsbert import bio_labels, spans_to_tags, vote, without_article_and_possessive
except ImportError:  # run from a clone, with the repository root on `sys.path`
    from entities_mtsbert import bio_labels, spans_to_tags, vote, without_article_and_possessive


ROWS_PER_BLOCK = 64
SENDER_TYPE = "ORG"  # what OntoNotes, which spaCy's pipelines learn, calls a news agency


UNKNOWN = "left open"  # how an entity without a label is counted


def types_of(labellers: list[EntityLabeller]) -> list[str]:
    return sorted({entity_type for labeller in labellers for entity_type in labeller.types})


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
        labellers (list of [`~data_prep.labelling.EntityLabeller`]): What finds the entities; several of them vote.
        schema (`pa.Schema`): The dataset's columns.
        truecaser ([`~data_prep.headlines.Truecaser`]): How words are written within sentences.
    """

    def __init__(self, labellers: list[EntityLabeller], schema: pa.Schema, truecaser: Truecaser):
        self._labellers = labellers
        self._schema = schema
        self._truecaser = truecaser
        self._types = types_of(labellers)
        self._label2id = {tag: index for index, tag in enumerate(bio_labels(self._types))}

    @classmethod
    def load(
        cls, spacy_models: list[str], versions: list[str], schema: pa.Schema, truecaser: Truecaser
    ) -> "BlockLabeller":
        """
        In a process of its own, for `functools.partial`.

        Raises:
            `ValueError`: where a spaCy pipeline is missing on this machine, or is not of the version of `versions`.
        """
        labellers = [EntityLabeller(name) for name in spacy_models]
        for labeller, version in zip(labellers, versions, strict=True):
            if labeller.version != version:
                raise ValueError(
                    f"Labels would differ from machine to machine: {platform.node()} has {labeller.version}, and "
                    f"where the program was started there is {version}. Install the same on both."
                )
        return cls(labellers, schema, truecaser)

    def __call__(self, rows: list[dict]) -> LabelledBlock:
        given = [[part.strip() for part in row["parts"] if part.strip()] for row in rows]
        cleaned = [[part for part in map(clean, parts) if part] for parts in given]
        segments = [segments_of(parts) for parts in cleaned]
        read = [self._truecaser(segment.text) for row in segments for part in row for segment in part]
        labelled = iter(self._label(read))
        joined = [
            self._join(row, parts, [[(segment, next(labelled)) for segment in part] for part in of_row])
            for row, parts, of_row in zip(rows, cleaned, segments, strict=True)
            if parts
        ]
        return LabelledBlock(
            pa.RecordBatch.from_pylist(joined, schema=self._schema),
            num_read=len(rows),
            num_empty=len(rows) - len(joined),
            num_cleaned=sum(before != after for before, after in zip(given, cleaned, strict=True)),
            type_counts=Counter(span["label"] or UNKNOWN for row in joined for span in row["entities"]),
        )

    def _label(self, texts: list[str]) -> list[LabelledText]:
        """The words are the first labeller's."""
        by_labeller = [labeller.label(texts) for labeller in self._labellers]
        if len(by_labeller) == 1:
            return by_labeller[0]
        return [
            LabelledText(vote([opinion.entities for opinion in opinions]), opinions[0].words)
            for opinions in zip(*by_labeller, strict=True)
        ]

    def _join(self, row: dict, parts: list[str], labelled: list[list[tuple[Segment, LabelledText]]]) -> dict:
        """One row of the dataset from its parts and their labelled segments."""
        text = " ".join(parts)
        entities, words, part_start = [], [], 0
        for part, segments in zip(parts, labelled, strict=True):
            for segment, found in segments:
                shift = part_start + segment.start
                spans = found.entities if segment.sender is None else self._sender(*segment.sender)
                entities += [self._trimmed(text, span, shift) for span in spans]
                words += [(start + shift, end + shift) for start, end in found.words]
            part_start += len(part) + 1
        entities = [span for span in entities if span["start"] < span["end"]]
        return {
            "text": text,
            **{name: value for name, value in row.items() if name != "parts"},
            "entities": entities,
            "tokens": [text[start:end] for start, end in words],
            "ner_tags": spans_to_tags(entities, words, self._label2id).tags,
        }

    def _sender(self, start: int, end: int) -> list[dict]:
        return [{"start": start, "end": end, "label": SENDER_TYPE}] if SENDER_TYPE in self._types else []

    @staticmethod
    def _trimmed(text: str, span: dict, shift: int) -> dict:
        start, end = without_article_and_possessive(text, span["start"] + shift, span["end"] + shift)
        return {"start": start, "end": end, "label": span["label"]}


def blocks_of(rows: Iterable[dict]) -> Iterator[list[dict]]:
    rows = iter(rows)
    while block := list(itertools.islice(rows, ROWS_PER_BLOCK)):
        yield block
