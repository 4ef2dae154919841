"""Reads the files of annotation tools as plain rows: doccano, Label Studio, Prodigy, GLiNER, spaCy.

Entities become lists of `{"start", "end", "label"}` in characters of the text, `end` exclusive. What a tool says of
their place is kept beside that: `"text"`, the words that were marked, and `"to_name"`, the column of their text.
"""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from entities_mtsbert import OUTSIDE
from mtsbert.formats.options import AS_USUAL, FileOptions, Refuse, raise_error


def plain_row(row: Any) -> Any:
    """
    Returns a row of JSON with columns that a recipe can map. Rows that are in none of these forms stay as they are.

    | written by | form | becomes |
    |---|---|---|
    | doccano, spaCy 2 | `"label": [[0, 4, "ORG"]]` in any column | entities |
    | spaCy 2 | `["the text", {"entities": [[0, 4, "ORG"]]}]` | columns `text`, `entities` |
    | Label Studio, JSON | `"data"` and `"annotations"`; the first annotation that was not cancelled counts | the columns of `data`, and one for each control of the interface, called by its name; choices for a part of a text are left out |
    | Label Studio, JSON-MIN | entities with `"labels": ["ORG"]` | entities |
    | Prodigy | `"answer": "reject"` or `"ignore"` | a row without labels |
    | GLiNER | `"tokenized_text"` and `"ner": [[0, 1, "ORG"]]`, with numbers of words and the last one included | words and BIO tags, in the same columns |

    Raises:
        `ValueError`: for such a row that contradicts itself.
    """  # noqa: E501
    if _is_spacy_pair(row):
        row = {"text": row[0], **row[1]}
    if not isinstance(row, dict):
        return row
    if isinstance(row.get("data"), dict) and isinstance(row.get("annotations"), list):
        return _of_label_studio(row)
    if isinstance(row.get("tokenized_text"), list) and isinstance(row.get("ner"), list):
        return row | {"ner": _tags(row["ner"], len(row["tokenized_text"]))}
    row = {column: _entities(value) for column, value in row.items()}
    if row.get("answer") in ("reject", "ignore") and ("_task_hash" in row or "_input_hash" in row):
        row |= {column: None for column in ("spans", "label", "accept", "cats") if column in row}
    return row


def _is_spacy_pair(row: Any) -> bool:
    is_pair = isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) and isinstance(row[1], dict)
    return is_pair and isinstance(row[1].get("entities"), list)


def _is_triple(value: Any) -> bool:
    """Whether a value is `[start, end, label]`."""
    return (
        isinstance(value, list)
        and len(value) == 3
        and type(value[0]) is int
        and type(value[1]) is int
        and isinstance(value[2], str | None)
    )


def _entities(value: Any) -> Any:
    """Turns a list of entities in the form of a tool into ours, in order; returns anything else as it is."""
    if not isinstance(value, list) or not value:
        return value
    if all(map(_is_triple, value)):
        spans = [{"start": start, "end": end, "label": label} for start, end, label in value]
    elif all(isinstance(span, dict) and {"start", "end", "labels"} <= set(span) for span in value):
        spans = [_with_one_label(span) for span in value]
    else:
        return value
    return sorted(spans, key=lambda span: span["start"])


def _with_one_label(span: dict) -> dict:
    labels = span["labels"]
    if not isinstance(labels, list) or len(labels) != 1:
        raise ValueError(f"an entity has one label; this one has {labels!r}: {span}.")
    kept = {key: span[key] for key in ("start", "end", "text", "to_name") if key in span}
    return {**kept, "label": labels[0]}


def _of_label_studio(row: dict) -> dict:
    """Each control of the labelling interface becomes a column: entities, or a list of choices."""
    columns = dict(row["data"])
    kept = [one for one in row["annotations"] if isinstance(one, dict) and not one.get("was_cancelled")]
    for result in kept[0].get("result", []) if kept else []:
        value, name = result.get("value"), result.get("from_name")
        if not isinstance(value, dict) or not isinstance(name, str):
            continue
        if name in row["data"]:
            raise ValueError(f"its data and its labelling interface both have {name!r}; rename one.")
        if "labels" in value and "start" in value:
            of_text = {"to_name": result["to_name"]} if result.get("to_name") in list(row["data"]) else {}
            columns.setdefault(name, []).append(value | of_text)
        elif isinstance(value.get("choices"), list) and "start" not in value:
            if columns.setdefault(name, value["choices"]) != value["choices"]:
                raise ValueError(f"{name!r} has two answers, {columns[name]!r} and {value['choices']!r}.")
    return {column: _entities(value) for column, value in columns.items()}


def _tags(entities: list, num_words: int) -> list[str | None]:
    """GLiNER's entities, `[first word, last word, label]`, as BIO tags; None where the label is."""
    tags: list[str | None] = [OUTSIDE] * num_words
    for entity in entities:
        if not _is_triple(entity) or not 0 <= entity[0] <= entity[1] < num_words:
            raise ValueError(f"entity {entity!r} is not [first word, last word, label] of {num_words} words.")
        first, last, label = entity
        if any(tag != OUTSIDE for tag in tags[first : last + 1]):
            raise ValueError(f"entity {entity!r} overlaps another one.")
        in_bio = [f"B-{label}", *[f"I-{label}"] * (last - first)]
        tags[first : last + 1] = [None] * len(in_bio) if label is None else in_bio
    return tags


def docbin_rows(path: Path, options: FileOptions = AS_USUAL, refuse: Refuse = raise_error) -> Iterator[dict]:
    """
    Yields the texts of a spaCy `DocBin` as the columns `text`, `entities` and `cats`, the categories with a score of
    at least 0.5. Entities are None where the file says of no token whether it is part of one; where it does not say so
    of some, these are spans without a label.
    """
    import spacy
    from spacy.tokens import DocBin

    try:
        docs = list(DocBin().from_disk(path).get_docs(spacy.blank("xx").vocab))
    except Exception as error:  # msgpack, zlib and spaCy raise different errors for broken files
        raise ValueError(f"{path} is not a DocBin of spaCy ({type(error).__name__}: {error}).") from None
    for doc in docs:
        yield {
            "text": doc.text,
            "entities": _spans_of(doc) if doc.has_annotation("ENT_IOB") else None,
            "cats": [label for label, score in doc.cats.items() if score >= 0.5] if doc.cats else None,
        }


def _spans_of(doc: Any) -> list[dict]:
    """The entities of a `Doc`, and every run of tokens of which it is unknown whether they are entities."""
    spans = [{"start": span.start_char, "end": span.end_char, "label": span.label_} for span in doc.ents]
    for is_unknown, tokens in groupby(doc, key=lambda token: token.ent_iob == 0):
        visible = [token for token in tokens if not token.is_space]
        if is_unknown and visible:
            end = visible[-1].idx + len(visible[-1])
            spans.append({"start": visible[0].idx, "end": end, "label": None})
    return sorted(spans, key=lambda span: span["start"])
