"""Cleans and labels rows of news in blocks. Used in this process, in subprocesses and on Ray workers."""

import itertools
import platform
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa

from entities_mtsbert import bio_labels, spans_to_tags

from .cleaning import clean
from .headlines import Truecaser
from .labelling import EntityLabeller, LabelledText
from .links import LINK
from .spans import vote, without_article_and_possessive


ROWS_PER_BLOCK = 64


UNKNOWN = "left open"  # key for counting entities without a label


def types_of(labellers: list[EntityLabeller]) -> list[str]:
    return sorted({entity_type for labeller in labellers for entity_type in labeller.types})


class LabelledBlock(NamedTuple):
    rows: pa.RecordBatch
    """Labelled rows, in order."""
    num_read: int
    num_empty: int
    """Number of rows without text, which are left out."""
    num_cleaned: int
    type_counts: Counter


class BlockLabeller:
    """Cleans and labels blocks of rows.

    Args:
        labellers (list of [`~data_prep.labelling.EntityLabeller`]): Find the entities. Several of them vote.
        schema (`pa.Schema`): The columns of the dataset.
        truecaser ([`~data_prep.headlines.Truecaser`], *optional*): Rewrites headlines before they are labelled.
    """

    def __init__(self, labellers: list[EntityLabeller], schema: pa.Schema, truecaser: Truecaser | None = None):
        self._labellers = labellers
        self._schema = schema
        self._truecaser = truecaser
        self._label2id = {tag: index for index, tag in enumerate(bio_labels(types_of(labellers)))}

    @classmethod
    def load(
        cls, spacy_models: list[str], versions: list[str], schema: pa.Schema, truecaser: Truecaser | None = None
    ) -> "BlockLabeller":
        """
        Loads the spaCy pipelines and builds a labeller. Used in subprocesses and on workers.

        Args:
            spacy_models (`list[str]`): Names of the spaCy pipelines.
            versions (`list[str]`): The expected version of each.
            schema (`pa.Schema`): The columns of the dataset.
            truecaser ([`~data_prep.headlines.Truecaser`], *optional*): Rewrites headlines before they are labelled.

        Raises:
            `ValueError`: if a spaCy pipeline is not installed on this machine, or has another version.
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
        labelled = iter(self._label([part for parts in cleaned for part in parts]))
        joined = [
            self._join(row, parts, list(itertools.islice(labelled, len(parts))))
            for row, parts in zip(rows, cleaned, strict=True)
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
        """Labels texts. The words are those of the first labeller."""
        # The truecaser keeps the length of a text, so offsets stay valid.
        shown = texts if self._truecaser is None else [self._truecaser(text) for text in texts]
        by_labeller = [
            [_without_articles_and_possessives(*pair) for pair in zip(texts, labeller.label(shown), strict=True)]
            for labeller in self._labellers
        ]
        if len(by_labeller) == 1:
            return by_labeller[0]
        return [
            LabelledText(vote([opinion.entities for opinion in opinions]), opinions[0].words)
            for opinions in zip(*by_labeller, strict=True)
        ]

    def _join(self, row: dict, parts: list[str], labelled: list[LabelledText]) -> dict:
        """Joins the parts of a row, which were labelled separately."""
        text = " ".join(parts)
        entities, words, shift = [], [], 0
        for part, found in zip(parts, labelled, strict=True):
            for span in found.entities:
                entities.append({**span, "start": span["start"] + shift, "end": span["end"] + shift})
            words += [(start + shift, end + shift) for start, end in found.words]
            shift += len(part) + 1
        if LINK in row:
            words.append((shift, shift + len(row[LINK])))
            text = f"{text} {row[LINK]}"
        return {
            "text": text,
            **{name: value for name, value in row.items() if name not in ("parts", LINK)},
            "entities": entities,
            "tokens": [text[start:end] for start, end in words],
            "ner_tags": spans_to_tags(entities, words, self._label2id).tags,
        }


def _without_articles_and_possessives(text: str, found: LabelledText) -> LabelledText:
    """Strips leading articles and possessives from entities, and drops entities that are empty afterwards."""
    borders = [without_article_and_possessive(text, span["start"], span["end"]) for span in found.entities]
    entities = [
        {**span, "start": start, "end": end}
        for span, (start, end) in zip(found.entities, borders, strict=True)
        if start < end
    ]
    return LabelledText(entities, found.words)


def blocks_of(rows: Iterable[dict]) -> Iterator[list[dict]]:
    rows = iter(rows)
    while block := list(itertools.islice(rows, ROWS_PER_BLOCK)):
        yield block
