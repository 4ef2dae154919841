"""Reads the files of annotation tools as plain rows: doccano, Label Studio, Prodigy, GLiNER, spaCy.

Entities become lists of `{"start", "end", "label"}` in characters of the text, `end` exclusive. What a tool says of
their place is kept beside that: `"text"`, the words that were marked, and `"to_name"`, the column of their text.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from entities_mtsbert import OUTSIDE
from mtsbert.formats.options import AS_USUAL, FileOptions, Refuse, raise_error


LABEL_STUDIO, LABEL_STUDIO_MIN, PRODIGY = "Label Studio", "Label Studio, JSON-MIN", "Prodigy"
ANSWERS = ("spans", "accept")  # what was marked and chosen in Prodigy; a view may ask for one of them alone
OF_VIEWS = {
    "ner_manual": ("spans",),
    "spans_manual": ("spans",),
    "choice": ("accept",),
    "ner": (),
    "classification": (),
}


def plain_row(row: Any, asked: Mapping[str, Collection[str]] | None = None) -> Any:
    """
    Returns a row of JSON with columns that a recipe can map. Rows that are in none of these forms stay as they are.
    Where somebody has finished a row and marked or chosen nothing, this is an empty list; a row that nobody has
    finished has no labels.

    | written by | form | becomes |
    |---|---|---|
    | doccano, spaCy 2 | `"label": [[0, 4, "ORG"]]` in any column | entities |
    | spaCy 2 | `["the text", {"entities": [[0, 4, "ORG"]]}]` | columns `text`, `entities` |
    | Label Studio, JSON | `"data"` and `"annotations"`; the first annotation that was not cancelled counts | the columns of `data`, and one for each control of the interface, called by its name; choices for a part of a text are left out |
    | Label Studio, JSON-MIN | `"annotation_id"`, and entities with `"labels": ["ORG"]` | entities |
    | Label Studio, JSON-MIN | `"annotation_id"`, and `{"choices": ["a", "b"]}` in any row | lists of choices |
    | Prodigy | `"answer": "reject"` or `"ignore"` | a row without labels |
    | GLiNER | `"tokenized_text"` and `"ner": [[0, 1, "ORG"]]`, with numbers of words and the last one included | words and BIO tags, in the same columns |

    Args:
        row (`Any`): The row, as JSON.
        asked (`Mapping[str, Collection[str]]`, *optional*): What `asked_in` returns for all rows of the file. Default:
            for this row alone.

    Raises:
        `ValueError`: for such a row that contradicts itself.
    """  # noqa: E501
    if _is_spacy_pair(row):
        row = {"text": row[0], **row[1]}
    if not isinstance(row, dict):
        return row
    form = _form_of(row)
    columns = (asked_in([row]) if asked is None else asked).get(form, ())
    if form == LABEL_STUDIO:
        return _of_label_studio(row, columns)
    if isinstance(row.get("tokenized_text"), list) and isinstance(row.get("ner"), list):
        return row | {"ner": _tags(row["ner"], len(row["tokenized_text"]))}
    row = {column: _entities(value) for column, value in row.items()}
    if form == LABEL_STUDIO_MIN:
        row |= {column: _choices(row[column]) for column in columns if column in row}
    if form == LABEL_STUDIO_MIN or row.get("answer") == "accept":
        row = {column: [] for column in columns} | row
    elif form.startswith(PRODIGY) and row.get("answer") in ("reject", "ignore"):
        row |= {column: None for column in ("spans", "label", "accept", "cats") if column in row}
    return row


def asked_in(rows: Iterable[Any]) -> dict[str, set[str]]:
    """
    Form of a row → the columns with entities or choices that any row of a file has in it. The tools leave them out
    where nothing was marked or chosen.
    """
    asked: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        form = _form_of(row)
        if form == LABEL_STUDIO:
            predictions = row.get("predictions")
            for one in [*row["annotations"], *(predictions if isinstance(predictions, list) else [])]:
                asked[form] |= {name for name, _, _ in _results(one)}
        elif form == LABEL_STUDIO_MIN:
            asked[form] |= {
                name for name, value in row.items() if value and (_are_marks(value) or _are_choices(value))
            }
        elif form:
            columns = OF_VIEWS.get(form.removeprefix(f"{PRODIGY} "), ANSWERS)
            asked[form] |= {column for column in columns if isinstance(row.get(column), list)}
    return dict(asked)


def _form_of(row: Any) -> str:
    """The tool that has written a row, for Prodigy with its view; "" where it is another one or none."""
    if not isinstance(row, dict):
        return ""
    if isinstance(row.get("data"), dict) and isinstance(row.get("annotations"), list):
        return LABEL_STUDIO
    if row.get("annotation_id") is not None:
        return LABEL_STUDIO_MIN
    return f"{PRODIGY} {row.get('_view_id')}" if "_task_hash" in row or "_input_hash" in row else ""


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
    elif _are_marks(value):
        spans = [_with_one_label(span) for span in value]
    else:
        return value
    return sorted(spans, key=lambda span: span["start"])


def _are_marks(value: Any) -> bool:
    """Whether a value is a list of `{"start", "end", "labels"}`, as of Label Studio."""
    return isinstance(value, list) and all(
        isinstance(span, dict) and {"start", "end", "labels"} <= set(span) for span in value
    )


def _are_choices(value: Any) -> bool:
    """Whether a value is several choices in the short form of Label Studio, where one alone is a text."""
    return isinstance(value, dict) and isinstance(value.get("choices"), list)


def _choices(value: Any) -> Any:
    """A choice, or several, of Label Studio's short form as a list; returns anything else as it is."""
    return value["choices"] if _are_choices(value) else [value] if isinstance(value, str) else value


def _with_one_label(span: dict) -> dict:
    labels = span["labels"]
    if not isinstance(labels, list) or len(labels) != 1:
        raise ValueError(f"an entity has one label; this one has {labels!r}: {span}.")
    if not all(type(span[key]) is int for key in ("start", "end")):
        raise ValueError(f"an entity begins and ends at a character, whose number is whole: {span}.")
    kept = {key: span[key] for key in ("start", "end", "text", "to_name") if key in span}
    return {**kept, "label": labels[0]}


def _of_label_studio(row: dict, controls: Collection[str]) -> dict:
    """Each control of the labelling interface becomes a column: entities, or a list of choices."""
    if both := sorted(set(controls) & set(row["data"])):
        raise ValueError(f"its data and its labelling interface both have {both[0]!r}; rename one.")
    kept = [one for one in row["annotations"] if isinstance(one, dict) and not one.get("was_cancelled")]
    results = kept[0].get("result") if kept else []
    if not isinstance(results, list):  # which would be read as an answer without entities
        raise ValueError(f"its annotation has no list as 'result': {results!r}.")
    answers: dict[str, list] = {name: [] for name in controls} if kept else {}
    for name, value, to_name in _results(kept[0]) if kept else ():
        if "start" in value:
            answers[name].append(value | ({"to_name": to_name} if to_name in list(row["data"]) else {}))
        elif answers[name] not in ([], value["choices"]):
            raise ValueError(f"{name!r} has two answers, {answers[name]!r} and {value['choices']!r}.")
        else:
            answers[name] = value["choices"]
    return {column: _entities(value) for column, value in (row["data"] | answers).items()}


def _results(annotation: Any) -> Iterator[tuple[str, dict, Any]]:
    """Yields the entities and the choices for a whole text: name of the control, value, and what it is about."""
    results = annotation.get("result") if isinstance(annotation, dict) else None
    for result in results if isinstance(results, list) else ():
        value, name = (result.get("value"), result.get("from_name")) if isinstance(result, dict) else (None, None)
        if isinstance(value, dict) and isinstance(name, str):
            if "start" in value and ("labels" in value or result.get("type") == "labels"):
                yield name, {"labels": [], **value}, result.get("to_name")
            elif "start" not in value and isinstance(value.get("choices"), list):
                yield name, value, result.get("to_name")


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
