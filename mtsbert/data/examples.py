"""Reads the rows of a dataset as examples, with a uniform format whatever the columns of the dataset are called.

An example is `{"text": str, "text_pair": str or None, "dataset": number, "row": number, <task>: …}`. Depending on the
type of the task, its value is a label name (a list of names for a multi-label task, of `{"label", "probability"}` for
soft labels), a list of spans, a score, or 1 (a pair of a ranking). None means that the row has no label for the task.
With a ranking, there is also `"text_negative"`.
"""

import hashlib
import inspect
import json
import math
import random
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, List, Value

from configuration_mtsbert import NUMBER_TYPES, PAIR_RANKING, PAIR_TYPES, TOKEN_CLASSIFICATION
from entities_mtsbert import OUTSIDE, check_spans, spans_to_tags, tags_to_spans
from mtsbert.data.skipped_rows import SkippedRow
from mtsbert.data.sources import TEXT, TEXT_NEGATIVE, TEXT_PAIR, SourceDataset
from mtsbert.formats.marked_spans import in_characters
from mtsbert.formats.parquet import name_of
from mtsbert.formats.tag_schemes import TAG_SCHEMES, join_words, to_bio
from mtsbert.settings import unique_keys


DATASET = "dataset"  # column with the number of the dataset that the row comes from
FLAGS = {"1": True, "1.0": True, "true": True, "yes": True, "0": False, "0.0": False, "false": False, "no": False}
MOST_LOST = 0.01  # of probabilities, by rounding them
ROW = "row"  # column with the number of the row in its split, counted from 0

FOLDER = Path(__file__).parent


def fingerprint_of(rows: Dataset, *settings) -> str:
    """
    Returns a cache fingerprint for what this code computes from `rows` with `settings` (JSON values). It changes when
    the code changes.
    """
    digest = hashlib.sha256(rows._fingerprint.encode())
    digest.update(json.dumps(settings, sort_keys=True).encode())
    ours = (FOLDER / "examples.py", FOLDER / "features.py", FOLDER / "swapping.py")
    others = (spans_to_tags, to_bio, in_characters, name_of)
    for file in (*ours, *(Path(inspect.getfile(function)) for function in others)):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def example_features(tasks: dict[str, dict]) -> Features:
    """Returns the columns of examples and their types."""
    has_negatives = any(task["type"] == PAIR_RANKING for task in tasks.values())
    return Features(
        {
            TEXT: Value("string"),
            TEXT_PAIR: Value("string"),
            **({TEXT_NEGATIVE: Value("string")} if has_negatives else {}),
            DATASET: Value("int32"),
            ROW: Value("int64"),
            **{name: _feature(task) for name, task in tasks.items()},
        }
    )


def _feature(task: dict) -> Value | List:
    if task["type"] == TOKEN_CLASSIFICATION:
        return List({"start": Value("int64"), "end": Value("int64"), "label": Value("string")})
    if task["type"] in NUMBER_TYPES:
        return Value("float64")
    if task["type"] == PAIR_RANKING:
        return Value("int64")
    if task.get("soft_labels"):
        return List({"label": Value("string"), "probability": Value("float64")})
    return List(Value("string")) if task.get("multi_label") else Value("string")


def read_examples(
    source: SourceDataset,
    split: str,
    tasks: dict[str, dict],
    max_rows: int | None = None,
    *,
    number: int = 0,
    skipped: list[SkippedRow] | None = None,
) -> Dataset:
    """
    Reads and checks the rows of one split. Labels keep the names that they have there, whatever `label_map` says.

    Args:
        source ([`SourceDataset`]): The dataset.
        split (`str`): The split to read.
        tasks (`dict[str, dict]`): Task name → settings.
        max_rows (`int`, *optional*): Read at most this many rows, drawn at random from the whole split.
        number (`int`, *optional*, defaults to 0): The value of the `dataset` column.
        skipped (`list[SkippedRow]`, *optional*): If given, rows that cannot be used are left out and appended here
            with the reason. Otherwise the first such row is an error.

    Raises:
        `ValueError`: naming dataset, split, row (counted from 0) and column.
    """
    rows = source.splits[split]
    chosen = range(len(rows))
    if max_rows is not None and max_rows < len(rows):
        chosen = sorted(random.Random(0).sample(chosen, max_rows))  # not the first rows: files are often sorted
        rows = rows.select(chosen)
    broken = source.broken.get(split, {})
    present = set(rows.column_names)
    flags = [column for column in chain(*source.label_columns.values()) if column in present]

    def read_each(table: pa.Table, places: Iterable[int]) -> Iterator[tuple[int, dict | ValueError]]:
        """Yields the number of each row, and its example or the error."""
        columns = {role: _values_of(table[column]) for role, column in source.columns.items() if column in present}
        columns |= {column: _values_of(table[column]) for column in flags}
        for place, values in zip(places, zip(*columns.values(), strict=True), strict=True):
            row = chosen[place]
            try:
                if row in broken:
                    raise ValueError(broken[row])
                example = _read_example(dict(zip(columns, values, strict=True)), source, rows.features, tasks)
                yield row, example | {DATASET: number, ROW: row}
            except ValueError as error:
                yield row, error

    def read(table: pa.Table, places: list[int]) -> dict[str, list]:
        examples = []
        for row, example in read_each(table, places):
            if not isinstance(example, ValueError):
                examples.append(example)
            elif skipped is None:
                raise ValueError(f"{source.where(split, row)}: {example}")
        return {name: [example.get(name) for example in examples] for name in features}

    features = example_features(tasks)
    settings = [source.columns, source.ranking, source.tag_scheme, tasks, number, skipped is not None, sorted(broken)]
    settings += [source.label_columns, source.separator, source.label_map]
    examples = (
        rows.with_format("arrow")
        .map(
            read,
            with_indices=True,
            batched=True,
            remove_columns=rows.column_names,
            features=features,
            new_fingerprint=fingerprint_of(rows, *settings),
            desc=f"Reading {source.name}, {split}",
        )
        .with_format(None)
    )
    if skipped is not None and len(examples) < len(chosen):  # read again: the cache does not contain the reasons
        left_out = np.setdiff1d(np.arange(len(chosen)), np.searchsorted(chosen, examples.data[ROW].to_numpy()))
        table = rows.select(left_out).with_format("arrow")[:]
        for row, reason in read_each(table, left_out.tolist()):
            skipped.append(SkippedRow(source.name, split, row, str(reason)))
    return examples


def _values_of(column: pa.ChunkedArray) -> list:
    """Returns the values of a column. A value that cannot be converted is replaced by a `ValueError`."""
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):  # e.g. text that is not UTF-8, or an invalid date
        return [_value_of(scalar) for scalar in column]


def _value_of(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError) as error:
        return ValueError(f"cannot be read ({error})")


def _read_example(row: dict[str, Any], source: SourceDataset, features: Any, tasks: dict[str, dict]) -> dict[str, Any]:
    for role, value in row.items():
        if isinstance(value, ValueError):
            raise ValueError(f"column {source.columns.get(role, role)!r} {value}.")
    text, words = row[TEXT], None
    if isinstance(text, list):
        if not all(isinstance(word, str) for word in text):
            raise ValueError(f"column {source.columns[TEXT]!r} holds {text!r}; it needs a text or a list of words.")
        text, words = join_words(text)
    example: dict[str, Any] = {TEXT: _check_text(text, source.columns[TEXT])}
    if (pair := row.get(TEXT_PAIR)) is not None:
        example[TEXT_PAIR] = _check_text(pair, source.columns[TEXT_PAIR])
    if row.get(TEXT_NEGATIVE) not in (None, ""):  # not every pair has a hard negative
        example[TEXT_NEGATIVE] = _check_text(row[TEXT_NEGATIVE], source.columns[TEXT_NEGATIVE])
        if pair is None:
            raise ValueError(
                f"column {source.columns[TEXT_NEGATIVE]!r} has a text, but {source.columns[TEXT_PAIR]!r} is empty."
            )
    if source.ranking is not None:
        example[source.ranking] = None if pair is None else 1
    for task, flags in source.label_columns.items():
        is_there = set(flags) <= set(row)  # a split that lacks one of the columns is unlabelled
        example[task] = _read_flags({label: row[label] for label in flags}, features) if is_there else None
    for role, value in row.items():
        if role in (TEXT, TEXT_PAIR, TEXT_NEGATIVE) or role not in source.columns:
            continue
        column = source.columns[role]
        try:
            example[role] = _read_value(value, tasks[role], features[column], text, words, source)
        except ValueError as error:
            raise ValueError(f"column {column!r}: {error}") from None
        is_labelled = renamed(example[role], source.label_map.get(role, {})) is not None
        if is_labelled and tasks[role]["type"] in PAIR_TYPES and pair is None:
            raise ValueError(f"column {column!r} compares two texts, but {source.columns[TEXT_PAIR]!r} is empty.")
    return example


def renamed(value: Any, names: dict[str, str | None]) -> Any:
    """
    Renames the labels in the value of an example: a label, a list of labels, or spans or probabilities with labels.

    Args:
        value (`Any`): The value. Spans without a label stay without one.
        names (`dict[str, str | None]`): Label → its new name, or None for what is left out. Others stay as they are.
    """
    if not names or not isinstance(value, str | list):
        return value
    if isinstance(value, str):
        return names.get(value, value)
    if value and isinstance(value[0], dict) and "probability" in value[0]:
        shares: dict[str, float] = {}
        for of_label in value:
            if (name := names.get(of_label["label"], of_label["label"])) is not None:
                shares[name] = shares.get(name, 0.0) + of_label["probability"]
        return _scaled(shares)
    if value and isinstance(value[0], dict):
        left = [span for span in value if names.get(span["label"], "") is not None]
        return [span | {"label": names.get(span["label"], span["label"])} for span in left]
    found = dict.fromkeys(names.get(label, label) for label in value)  # two labels may become one
    return [label for label in found if label is not None]


def _check_text(text: Any, column: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"column {column!r} has no text in it: {text!r}.")
    return text


def _read_value(
    value: Any, task: dict, feature: Any, text: str, words: list[tuple[int, int]] | None, source: SourceDataset
) -> Any:
    if value is None:
        return None
    if task["type"] == TOKEN_CLASSIFICATION:
        if not isinstance(value, list):
            raise ValueError(f"{value!r} is neither a list of {{start, end, label}} nor a list of tags.")
        if words is None:
            return _read_spans(value, text, feature, source.columns[TEXT])
        return _read_tags(value, text, words, feature, source.tag_scheme)
    if task["type"] in NUMBER_TYPES:
        return _read_score(name_of(value, feature), task.get("score_range", (-math.inf, math.inf)))
    if task.get("multi_label"):
        if isinstance(value, str):
            value = _labels_in_cell(value, source.separator)
        if not isinstance(value, list):
            raise ValueError(
                f"{value!r} is not a list of labels, which a multi-label task needs. For several labels in a cell, "
                "set the dataset's 'separator'; for a column of zeros and ones for each, its 'label_columns'."
            )
        if len(set(map(str, value))) < len(value) and all(str(flag).lower() in FLAGS for flag in value):
            raise ValueError(
                f"{value!r} says yes or no for every label; a list of the labels' names is wanted: "
                "[name for name, flag in zip(names, row) if flag]."
            )
        labels = [None if label is None else _read_label(label, getattr(feature, "feature", None)) for label in value]
        if None in labels:
            raise ValueError(f"{value!r} has a missing label in it; None instead of the list is an unlabelled text.")
        return [*dict.fromkeys(labels)]  # one that is named twice counts once
    if task.get("soft_labels"):
        return _read_probabilities(value, feature)
    if isinstance(value, dict):
        raise ValueError(
            f"{value!r} is not a label. With `soft_labels: true`, a task of a recipe learns from probabilities."
        )
    return _read_label(value, feature)


def _labels_in_cell(value: str, separator: str | None) -> str | list:
    """Reads several labels from a cell: a list in JSON, or what `separator` separates; else the text itself."""
    if re.fullmatch(r"\s*\[.*\]\s*", value, re.DOTALL):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            if re.match(r"\s*\[\s*'", value):
                raise ValueError(
                    f"{value!r} is a list as Python prints it; write JSON, or labels with a 'separator' between them."
                ) from None
    return value if separator is None else [label.strip() for label in value.split(separator)]


def _read_probabilities(value: Any, feature: Any) -> list[dict] | None:
    """
    Reads the probabilities of labels, as a mapping or as JSON in a cell of text, or a label, which is sure. They are
    scaled to add up to exactly 1.
    """
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value, object_pairs_hook=unique_keys)
        except json.JSONDecodeError as error:
            raise ValueError(f"{value!r} is not JSON ({error}).") from None
    if not isinstance(value, dict):
        label = _read_label(value, feature)
        return None if label is None else [{"label": label, "probability": 1.0}]
    found = {str(label): share for label, share in value.items() if share is not None and share == share}
    for share in found.values():
        if not isinstance(share, int | float) or isinstance(share, bool) or not 0.0 <= share <= 1.0:
            raise ValueError(f"{value!r} has {share!r} in it, which is no probability.")
    if found and abs((total := sum(found.values())) - 1.0) > MOST_LOST:
        raise ValueError(f"{value!r} adds up to {total:.4g}; probabilities of labels add up to 1.")
    return _scaled(found)


def _scaled(shares: dict[str, float]) -> list[dict] | None:
    """The probabilities of labels as the value of an example: those above 0, with a sum of 1; None without any."""
    total = sum(shares.values())
    return [{"label": label, "probability": share / total} for label, share in shares.items() if share > 0.0] or None


def _read_label(value: Any, feature: Any) -> str | None:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):  # as Label Studio writes a choice
        (value,) = value
    if value == []:  # nothing was chosen
        return None
    if isinstance(feature, ClassLabel):
        return name_of(value, feature)
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, list | dict | bytes) or value == "":
        raise ValueError(f"{value!r} is not a label.")
    return str(value)


def _read_flags(values: dict[str, Any], features: Any) -> list[str] | None:
    """Returns the labels whose column says yes; None if all columns are empty."""
    named = {}
    for label, value in values.items():
        try:
            named[label] = name_of(value, features.get(label))
        except ValueError as error:
            raise ValueError(f"column {label!r}: {error}") from None
    flags = {label: FLAGS.get(str(value).strip().lower()) for label, value in named.items()}
    if all(value is None or value != value for value in named.values()):
        return None
    if unclear := [label for label, flag in flags.items() if flag is None]:
        raise ValueError(f"column {unclear[0]!r} holds {named[unclear[0]]!r}; it needs 0 or 1 for its label.")
    return [label for label, flag in flags.items() if flag]


def _read_score(value: Any, score_range: tuple[float, float]) -> float | None:
    if value is None:
        return None
    try:
        score = math.inf if isinstance(value, bool) or "_" in str(value) else float(value)
    except (TypeError, ValueError):
        score = math.inf
    if math.isinf(score):
        raise ValueError(f"{value!r} is not a score.")
    if math.isnan(score):
        return None
    lowest, highest = score_range
    if not lowest <= score <= highest:
        raise ValueError(f"score {score} lies outside 'score_range' [{lowest}, {highest}].")
    return score


def _read_spans(value: list, text: str, feature: Any, column: str) -> list[dict[str, Any]]:
    names = _feature_of_labels(feature)
    for span in value:
        has_borders = isinstance(span, dict) and span.get("start") is not None and span.get("end") is not None
        if not has_borders or "label" not in span:
            raise ValueError(f"entity {span!r} needs 'start', 'end' and 'label'; tags need a 'text' of words.")
        if isinstance(span["label"], list | dict | bytes) or span["label"] == "":
            raise ValueError(f"entity {span!r} has a label that is none.")
    value = in_characters(value, text, column)
    check_spans(value, text)
    labels = [None if span["label"] is None else _read_label(span["label"], names) for span in value]
    return [
        {"start": span["start"], "end": span["end"], "label": label} for span, label in zip(value, labels, strict=True)
    ]


def _feature_of_labels(feature: Any) -> Any:
    """The feature of the labels in a column of spans, which may be a `ClassLabel`."""
    inner = getattr(feature, "feature", feature)
    inner = inner[0] if isinstance(inner, list) else inner
    return inner.get("label") if isinstance(inner, dict) else None


def _read_tags(
    value: list, text: str, words: list[tuple[int, int]], feature: Any, tag_scheme: str
) -> list[dict[str, Any]]:
    if len(value) != len(words):
        raise ValueError(f"{len(value)} tags for {len(words)} words.")
    names = getattr(feature, "feature", None)
    tags = [name_of(tag, names) for tag in value]
    unknown = [word for word, tag in zip(words, tags, strict=True) if tag is None]
    tags = [OUTSIDE if tag is None else tag for tag in tags]
    if not all(isinstance(tag, str) for tag in tags):
        raise ValueError(f"tags are strings, or a list of a ClassLabel; got {value!r}.")
    try:
        spans = tags_to_spans(to_bio(tags, tag_scheme), words)
    except ValueError as error:
        raise ValueError(
            f"{error} The dataset's 'tag_scheme' is {tag_scheme}; {list(TAG_SCHEMES)} are known."
        ) from None
    spans = [{key: span[key] for key in ("start", "end", "label")} for span in spans]
    spans += [{"start": start, "end": end, "label": None} for start, end in unknown]
    spans.sort(key=lambda span: span["start"])
    check_spans(spans, text)  # raises for words that are only whitespace
    return spans
