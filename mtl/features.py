"""Examples → what the model reads: word pieces, and labels as ids."""

import logging
import math
from dataclasses import dataclass, field

from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerBase

from .datasets import TEXT, TEXT_PAIR
from .model_files import IGNORE_INDEX, PAIR_SIMILARITY, TOKEN_CLASSIFICATION, spans_to_tags, visible_offsets


logger = logging.getLogger(__name__)

DATASET = "dataset"  # the column that says which dataset of the recipe a row is from
ROWS_PER_CALL = 1_000  # texts tokenized at once


@dataclass
class EntityCounts:
    """What became of the entities of one token task."""

    total: int = 0
    unaligned: int = 0
    truncated: int = 0


@dataclass
class TokenizationReport:
    """What did not survive tokenization, over one split."""

    cut: list[bool] = field(default_factory=list)
    """For every row, whether a text of it was longer than `max_length`."""
    entities: dict[str, EntityCounts] = field(default_factory=dict)
    """By token task."""

    def log(self, split: str) -> None:
        if any(self.cut):
            logger.warning(f"{split}: {sum(self.cut):,} of {len(self.cut):,} rows are longer than `max_length`: cut.")
        for task, counts in self.entities.items():
            if counts.truncated or counts.unaligned:
                logger.warning(
                    f"{split}: of {counts.total:,} {task} entities, {counts.truncated:,} were cut off and "
                    f"{counts.unaligned:,} begin or end inside a word piece; they are neither learned nor scored."
                )


def build_features(
    examples: list[dict], tasks: dict[str, dict], tokenizer: PreTrainedTokenizerBase, *, max_length: int, split: str
) -> tuple[Dataset, TokenizationReport]:
    """
    Tokenizes raw texts and turns labels into ids; says once what was cut or could not be aligned.

    Returns:
        A dataset with `input_ids`, `pair_input_ids` (empty where there is no second text), `length`, `dataset` (the
        number of the dataset that the example names, 0 without), and a column per task: a class id, zeros and
        ones for each label of a multi-label task, a score, or for a token task a list of tag ids as long as
        `input_ids`. `IGNORE_INDEX`, and NaN for a score, where a label is missing. Beside it, what was cut.
    """
    report = TokenizationReport()
    report.entities = {name: EntityCounts() for name, task in tasks.items() if task["type"] == TOKEN_CLASSIFICATION}
    columns: dict[str, list] = {"input_ids": [], "pair_input_ids": [], "length": [], DATASET: []}
    columns |= {name: [] for name in tasks}
    label2id = {name: {label: i for i, label in enumerate(task.get("labels", []))} for name, task in tasks.items()}
    for first in range(0, len(examples), ROWS_PER_CALL):
        batch = examples[first : first + ROWS_PER_CALL]
        encodings = _tokenize(tokenizer, [example[TEXT] for example in batch], max_length)
        paired = [example[TEXT_PAIR] for example in batch if example.get(TEXT_PAIR) is not None]
        pair_encodings = iter(_tokenize(tokenizer, paired, max_length) if paired else [])
        for example, encoding in zip(batch, encodings, strict=True):
            pair = next(pair_encodings) if example.get(TEXT_PAIR) is not None else None
            report.cut.append(bool(encoding.overflowing or (pair and pair.overflowing)))
            columns["input_ids"].append(encoding.ids)
            columns["pair_input_ids"].append(pair.ids if pair else [])
            columns["length"].append(len(encoding.ids) + (len(pair.ids) if pair else 0))
            columns[DATASET].append(example.get(DATASET, 0))
            for name, task in tasks.items():
                value = example.get(name)
                if task["type"] == TOKEN_CLASSIFICATION:
                    label = _tags(value, label2id[name], example[TEXT], encoding, report.entities[name])
                else:
                    label = _label(value, task, label2id[name])
                columns[name].append(label)
    report.log(split)
    features = {"input_ids": List(Value("int32")), "pair_input_ids": List(Value("int32")), "length": Value("int32")}
    features[DATASET] = Value("int32")
    features |= {name: _label_feature(task) for name, task in tasks.items()}
    return Dataset.from_dict(columns, features=Features(features)), report


def _tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int) -> list:
    return tokenizer(texts, truncation=True, max_length=max_length, return_offsets_mapping=True).encodings


def _tags(value: list[dict] | None, label2id: dict[str, int], text: str, encoding, counts: EntityCounts) -> list[int]:
    """The tag ids of one text, one a word piece."""
    if value is None:
        return [IGNORE_INDEX] * len(encoding.ids)
    offsets = visible_offsets(encoding.offsets, text)
    tagged = spans_to_tags(value, offsets, label2id, truncated=bool(encoding.overflowing))
    counts.total += len(value)
    counts.unaligned += tagged.num_unaligned
    counts.truncated += tagged.num_truncated
    return tagged.tags


def _label(value: str | list[str] | float | None, task: dict, label2id: dict[str, int]) -> int | list[int] | float:
    """The label of a whole text, or of a pair, as the model reads it."""
    if task["type"] == PAIR_SIMILARITY:
        return math.nan if value is None else value
    if task.get("multi_label"):
        return [IGNORE_INDEX if value is None else int(label in value) for label in label2id]
    return IGNORE_INDEX if value is None else label2id[value]


def _label_feature(task: dict) -> Value | List:
    if task["type"] == PAIR_SIMILARITY:
        return Value("float32")
    return List(Value("int64")) if task["type"] == TOKEN_CLASSIFICATION or task.get("multi_label") else Value("int64")
