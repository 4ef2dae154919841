"""Reads gold entities, and maps entities of other label sets to comparable types.

A mark is `(start, end, type)` in characters of its text, `end` exclusive.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import DatasetDict

from configuration_mtsbert import TOKEN_CLASSIFICATION
from mtsbert.data.examples import read_examples
from mtsbert.data.sources import TEXT, SourceDataset
from mtsbert.formats.files import read_file
from mtsbert.formats.options import TAGS, WORDS
from mtsbert.preparation import data_prep


Mark = tuple[int, int, str]

# Maps the entity types of well-known label sets to common types. Types that are not listed are left out.
COMMON_TYPES = {
    # OntoNotes, as in spaCy's English pipelines. GPE, LOC and FAC together correspond to LOC in the gold datasets.
    "PERSON": "PER",
    "ORG": "ORG",
    "GPE": "LOC",
    "LOC": "LOC",
    "FAC": "LOC",
    # CoNLL, Wikigold, Broad Twitter Corpus (ORG and LOC are above)
    "PER": "PER",
    # WNUT 2017
    "person": "PER",
    "corporation": "ORG",
    "group": "ORG",
    "location": "LOC",
}

ENTITIES = "entities"
ROWS = {"even": slice(0, None, 2), "odd": slice(1, None, 2)}  # sentences are counted from 0


@dataclass(frozen=True)
class GoldFile:
    """The sentences of a file and their gold entities."""

    path: Path
    num_rows: int
    """Number of rows in the whole file."""
    types: list[str]
    """Entity types in the whole file, sorted."""
    texts: list[str]
    """Texts of the chosen rows, with words joined by spaces."""
    entities: list[list[dict]]
    """Spans of each text, sorted and not overlapping. A span without a label means that its label is not known."""


def read_gold(path: Path, *, rows: str | None = None, tag_scheme: str = "bio") -> GoldFile:
    """
    Reads gold entities from a file of words and tags (`.bio`, `.conll`), or with the columns `text` and `entities`.

    Args:
        path (`Path`): The file.
        rows (`str`, *optional*): `"even"` or `"odd"` to keep only the sentences with such a number, counted from 0.
            This splits a file into two halves, one for tuning and one for reporting.
        tag_scheme (`str`, *optional*, defaults to `"bio"`): The tag scheme, see `to_bio`.

    Raises:
        `ValueError`: naming file and row of an error, or if no sentence or no entity is left.
    """
    table = read_file(path)
    if {WORDS, TAGS} <= set(table.column_names):
        columns = {TEXT: WORDS, ENTITIES: TAGS}
    elif {TEXT, ENTITIES} <= set(table.column_names):
        columns = {TEXT: TEXT, ENTITIES: ENTITIES}
    else:
        raise ValueError(
            f"{path} has the columns {table.column_names}; gold entities are read from {WORDS!r} and {TAGS!r}, or "
            f"from {TEXT!r} and {ENTITIES!r}."
        )
    source = SourceDataset(str(path), DatasetDict({"gold": table}), columns, tag_scheme)
    everything = list(read_examples(source, "gold", {ENTITIES: {"type": TOKEN_CLASSIFICATION}}))
    types = sorted({span["label"] for example in everything for span in example[ENTITIES] or []} - {None})
    if not types:
        raise ValueError(f"{path} has no entity in any of its {len(everything)} rows.")
    chosen = everything if rows is None else everything[ROWS[rows]]
    chosen = [example for example in chosen if example[ENTITIES] is not None]
    if not chosen:
        raise ValueError(f"{path} has no {rows} rows.")
    texts, entities = ([example[role] for example in chosen] for role in (TEXT, ENTITIES))
    return GoldFile(path, len(everything), types, texts, entities)


def parse_map(pairs: Iterable[str], option: str = "--map", form: str = "TYPE=COMMON, such as GPE=LOC") -> dict:
    """Parses `["GPE=LOC", "PERSON=PER"]` into `{"GPE": "LOC", "PERSON": "PER"}`."""
    mapping: dict[str, str] = {}
    for pair in pairs:
        own, is_pair, common = pair.partition("=")
        if not (own and is_pair and common):
            raise ValueError(f"{option} {pair!r}: write {form}.")
        if mapping.setdefault(own, common) != common:
            raise ValueError(f"{option} says both {own}={mapping[own]} and {pair}.")
    return mapping


def restrict(types: Sequence[str], mapping: dict[str, str], common: Iterable[str] | None = None) -> dict[str, str]:
    """Restricts a mapping to the given `types`, and to those that are mapped to one of the `common` types."""
    reached = set(mapping.values()) if common is None else set(common)
    return {own: mapping[own] for own in types if mapping.get(own) in reached}


def marks_of(entities: Iterable[dict], text: str, mapping: dict[str, str], *, normalize: bool = False) -> set[Mark]:
    """
    Maps entities to common types and returns them as marks. Entities whose type is not in `mapping` are left out.

    Args:
        entities (`Iterable[dict]`): The spans of a text.
        text (`str`): The text.
        mapping (`dict[str, str]`): Entity type → common type.
        normalize (`bool`, *optional*, defaults to `False`): Whether to strip a leading article and a trailing
            possessive 's, which label sets treat differently. Entities that are empty afterwards are left out.
    """
    marks = set()
    for entity in entities:
        if entity["label"] in mapping:
            start, end = entity["start"], entity["end"]
            if normalize:
                start, end = data_prep("spans").without_article_and_possessive(text, start, end)
            if start < end:
                marks.add((start, end, mapping[entity["label"]]))
    return marks
