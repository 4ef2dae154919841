"""Turns examples into features: token ids, and labels as ids."""

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import PreTrainedTokenizerBase

from configuration_mtsbert import NUMBER_TYPES, PAIR_RANKING, TOKEN_CLASSIFICATION
from entities_mtsbert import IGNORE_INDEX, spans_to_tags, visible_offsets
from mtsbert.data.examples import DATASET, ROW, fingerprint_of
from mtsbert.data.sources import TEXT, TEXT_NEGATIVE, TEXT_PAIR


logger = logging.getLogger(__name__)

NEGATIVE_IDS = "negative_input_ids"  # column with the token ids of hard negatives, for a ranking
NO_ROW = -1  # row number of a filler row
ROWS_AT_ONCE = 5_000
# Temporary columns for the report; the second one exists for each token task. Task names contain no space.
CUT, COUNTS = "is cut", "{} entities"
MADE_FOR = "made_for"  # what a note in the description of features begins with: the model that they were made for
OF_LABELS = ("type", "labels", "multi_label", "soft_labels")  # the settings of a task that decide about its ids


@dataclass
class EntityCounts:
    """Number of entities of one token task."""

    total: int
    unaligned: int
    """Entities that begin or end inside a token."""
    truncated: int
    """Entities that lie beyond `max_length`."""


@dataclass
class TokenizationReport:
    """Reports what was lost when a split was tokenized."""

    cut: np.ndarray
    """`(N,)`: for each row, whether one of its texts was truncated."""
    entities: dict[str, EntityCounts]
    """By token task."""

    def log(self, split: str) -> None:
        if self.cut.any():
            logger.warning(f"{split}: {self.cut.sum():,} of {len(self.cut):,} rows are longer than `max_length`: cut.")
        for task, counts in self.entities.items():
            if counts.truncated or counts.unaligned:
                logger.warning(
                    f"{split}: of {counts.total:,} {task} entities, {counts.truncated:,} were cut off and "
                    f"{counts.unaligned:,} begin or end inside a word piece; they are neither learned nor scored."
                )


def build_features(
    examples: Dataset,
    tasks: dict[str, dict],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    split: str,
    dataset_names: Sequence[str] = ("train",),
) -> tuple[Dataset, TokenizationReport]:
    """
    Tokenizes the texts of examples and turns their labels into ids. Truncated texts and entities that do not align
    with tokens are logged once. Features are cached by `datasets` and read from the cache the next time.

    Args:
        examples (`Dataset`): Checked rows, see `examples.py`.
        tasks (`dict[str, dict]`): The tasks of the model, with their labels.
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer.
        max_length (`int`): Longer texts are truncated to this many tokens, special tokens included.
        split (`str`): Name of the split in messages.
        dataset_names (`Sequence[str]`, *optional*, defaults to `("train",)`): The names of the datasets that the
            examples' `dataset` column refers to by number.

    Returns:
        A dataset and a [`TokenizationReport`]. The dataset has the columns `input_ids`, `pair_input_ids` (empty if
        there is no second text), with a ranking task also `negative_input_ids` (empty if there is no hard negative),
        `length` (tokens of all texts), `dataset` (a `ClassLabel` of `dataset_names`), `row`
        (row number in that dataset), and one column per task: a class id, zeros and ones for the labels of a
        multi-label task, the probabilities of all labels for soft ones, a score, or for a token task one tag id per
        token. Missing labels are `IGNORE_INDEX`, or NaN for scores and probabilities.

    Raises:
        `ValueError`: for a `max_length` that is no whole number, or leaves no room for text.
    """
    _check_max_length(max_length, tokenizer)
    token_tasks = [name for name, task in tasks.items() if task["type"] == TOKEN_CLASSIFICATION]
    other_texts = {"pair_input_ids": TEXT_PAIR}
    if any(task["type"] == PAIR_RANKING for task in tasks.values()):
        other_texts[NEGATIVE_IDS] = TEXT_NEGATIVE
    columns: dict[str, Value | List] = {name: List(Value("int32")) for name in ("input_ids", *other_texts)}
    columns |= {"length": Value("int32"), DATASET: ClassLabel(names=list(dataset_names)), ROW: Value("int64")}
    columns |= {name: _label_feature(task) for name, task in tasks.items()}
    columns |= {CUT: Value("bool"), **{COUNTS.format(name): List(Value("int32"), length=3) for name in token_tasks}}
    label2id = {name: {label: i for i, label in enumerate(task.get("labels", []))} for name, task in tasks.items()}

    def encode(batch: dict[str, list]) -> dict[str, list]:
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        encodings = _tokenize(tokenizer, batch[TEXT], max_length)
        others = {
            name: _tokenize_present(tokenizer, batch[column], max_length) for name, column in other_texts.items()
        }
        features: dict[str, list] = {name: [] for name in columns}
        for place, (row, encoding) in enumerate(zip(rows, encodings, strict=True)):
            found = {"input_ids": encoding, **{name: encoded[place] for name, encoded in others.items()}}
            for name, of_text in found.items():
                features[name].append(of_text.ids if of_text else [])
            present = [of_text for of_text in found.values() if of_text]
            features["length"].append(sum(len(of_text.ids) for of_text in present))
            features[DATASET].append(row[DATASET])
            features[ROW].append(row[ROW])
            features[CUT].append(any(of_text.overflowing for of_text in present))
            for name, task in tasks.items():
                if name in token_tasks:
                    tags, counts = _tags(row[name], label2id[name], row[TEXT], encoding)
                    features[name].append(tags)
                    features[COUNTS.format(name)].append(counts)
                else:
                    features[name].append(_label(row[name], task, label2id[name]))
        return features

    encoded = examples.map(
        encode,
        batched=True,
        remove_columns=examples.column_names,
        features=Features(columns),
        new_fingerprint=fingerprint_of(examples, tasks, _digest(tokenizer), max_length, list(dataset_names)),
        desc=f"Tokenizing {split}",
    )
    counts = {
        name: sum(np.sum(values, axis=0) for values in values_of(encoded, COUNTS.format(name))) for name in token_tasks
    }
    report = TokenizationReport(
        np.array(encoded[CUT][:], dtype=bool), {name: EntityCounts(*map(int, sums)) for name, sums in counts.items()}
    )
    report.log(split)
    features = encoded.remove_columns([CUT, *map(COUNTS.format, token_tasks)])
    features.info.description = json.dumps({MADE_FOR: _made_for(tasks, tokenizer) | {"max_length": max_length}})
    return features, report


def check_features(
    features: Dataset, tasks: dict[str, dict], tokenizer: PreTrainedTokenizerBase, *, longest: int, argument: str
) -> None:
    """
    Compares features with the model that is to read them: the ids of labels and of tokens mean nothing to another one.

    Args:
        features (`Dataset`): What `build_features` returned, or some of its rows. Those of another origin pass.
        tasks (`dict[str, dict]`), tokenizer (`PreTrainedTokenizerBase`): Those of the model.
        longest (`int`): Number of tokens that the model reads.
        argument (`str`): What error messages call the features.

    Raises:
        `ValueError`: if they were made for other labels, by another tokenizer, or of more tokens.
    """
    for note in features.info.description.split("\n\n"):  # several where datasets were concatenated
        if not note.startswith(f'{{"{MADE_FOR}"'):
            continue
        there, here = json.loads(note)[MADE_FOR], _made_for(tasks, tokenizer)
        for task, settings in here["tasks"].items():  # where labels may be soft, ids are taken as well
            other = there["tasks"].get(task)
            if other not in (settings, {key: settings[key] for key in settings if key != "soft_labels"}):
                raise ValueError(
                    f"`{argument}` has ids of task {task!r} that stand for {other}, and in the model "
                    f"for {settings}. Tell `load_data` the tasks of the model (`checkpoint_tasks=model.config.tasks`)."
                )
        if there["tokens"] != here["tokens"]:
            raise ValueError(
                f"`{argument}` was tokenized by another tokenizer than the model's (with `letter_case`, that has "
                "capital letters). Give the Trainer the rows as they are, which it tokenizes itself."
            )
        if (there["max_length"] or math.inf) > longest and max(features["length"], default=0) > longest:
            raise ValueError(
                f"`{argument}` has texts of more tokens than the {longest} that the encoder reads: give `load_data` a "
                f"`max_length` of {longest}."
            )


def num_labelled_rows(features: Dataset, task: str) -> int:
    """Counts the rows of features that have a label for a task."""
    return sum(
        not np.all(np.isnan(value) | (np.asarray(value) == IGNORE_INDEX))
        for values in values_of(features, task)
        for value in values
    )


def values_of(rows: Dataset, column: str) -> Iterator[np.ndarray]:
    """Yields the values of a column, some thousand at a time: as arrays, those of many rows are gigabytes."""
    for batch in rows.select_columns(column).with_format("numpy").iter(ROWS_AT_ONCE):
        yield batch[column]


def unlabelled_row(features: Dataset, tasks: dict[str, dict]) -> Dataset:
    """Returns the first row without its labels and row number. It fills up a batch and adds nothing to the loss."""
    row = features[0]
    filler = unlabelled(row, tasks) | {ROW: NO_ROW}
    return Dataset.from_list([filler], features=features.features)


def unlabelled(row: dict, tasks: dict[str, dict], num_tokens: int | None = None) -> dict:
    """Returns a row of features without its labels, and with `num_tokens` tags where its text is another one."""
    labels = {}
    for name, task in tasks.items():
        missing = math.nan if task["type"] in NUMBER_TYPES or task.get("soft_labels") else IGNORE_INDEX
        if task["type"] == TOKEN_CLASSIFICATION and num_tokens is not None:
            labels[name] = [missing] * num_tokens
        else:
            labels[name] = [missing] * len(row[name]) if isinstance(row[name], list) else missing
    return row | labels


def _made_for(tasks: dict[str, dict], tokenizer: PreTrainedTokenizerBase) -> dict:
    """What the ids in features depend on: of every task what decides about its ids, and a digest of the tokenizer."""
    of_tasks = {name: {key: task[key] for key in OF_LABELS if task.get(key)} for name, task in tasks.items()}
    return {"tasks": of_tasks, "tokens": _digest(tokenizer)}


def _digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """
    Returns a digest of everything that determines the tokens, which excludes truncation and padding of the last call.

    The JSON is cut, not parsed: with the 250,000 tokens of XLM-R, parsing takes seconds. Its keys are always in the
    same order, and these two come first.
    """
    *_, rules = tokenizer.backend_tokenizer.to_str().partition('"added_tokens":')
    return hashlib.sha256(rules.encode()).hexdigest()


def _check_max_length(max_length: int | None, tokenizer: PreTrainedTokenizerBase) -> None:
    if max_length is None:  # what the tokenizer reads
        return
    special = tokenizer.num_special_tokens_to_add()
    if type(max_length) is not int or max_length <= special:
        raise ValueError(
            f"`max_length` is {max_length!r}; it must be a whole number of tokens from {special + 1}, of which "
            f"{special} are special."
        )


def _tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int) -> list:
    return tokenizer(texts, truncation=True, max_length=max_length, return_offsets_mapping=True).encodings


def _tokenize_present(tokenizer: PreTrainedTokenizerBase, texts: list[str | None], max_length: int) -> list:
    """Returns the encodings of the texts, and None for those that are missing."""
    present = [text for text in texts if text is not None]
    encodings = iter(_tokenize(tokenizer, present, max_length) if present else [])
    return [None if text is None else next(encodings) for text in texts]


def _tags(
    value: list[dict] | None, label2id: dict[str, int], text: str, encoding
) -> tuple[list[int], tuple[int, int, int]]:
    """Returns one tag id per token of a text, and its number of entities: in total, unaligned and truncated."""
    if value is None:
        return [IGNORE_INDEX] * len(encoding.ids), (0, 0, 0)
    offsets = visible_offsets(encoding.offsets, text)
    tagged = spans_to_tags(value, offsets, label2id, truncated=bool(encoding.overflowing))
    return tagged.tags, (sum(span["label"] is not None for span in value), tagged.num_unaligned, tagged.num_truncated)


def _label(
    value: str | list[str] | list[dict] | float | None, task: dict, label2id: dict[str, int]
) -> int | list[int] | list[float] | float:
    """Converts the label of a whole text, or of a pair, to an id, a list of numbers for the labels, a score, or 1."""
    if task["type"] in NUMBER_TYPES:
        return math.nan if value is None else value
    if task["type"] == PAIR_RANKING:
        return IGNORE_INDEX if value is None else value
    if task.get("multi_label"):
        return [IGNORE_INDEX if value is None else int(label in value) for label in label2id]
    if task.get("soft_labels"):
        shares = dict.fromkeys(label2id, math.nan if value is None else 0.0)
        shares.update({of_label["label"]: of_label["probability"] for of_label in value or ()})
        return list(shares.values())
    return IGNORE_INDEX if value is None else label2id[value]


def _label_feature(task: dict) -> Value | List:
    if task["type"] in NUMBER_TYPES:
        return Value("float32")
    if task.get("soft_labels"):
        return List(Value("float32"))
    return List(Value("int64")) if task["type"] == TOKEN_CLASSIFICATION or task.get("multi_label") else Value("int64")
