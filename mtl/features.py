"""Examples → what the model reads: word pieces, and labels as ids."""

import logging
import math
from dataclasses import dataclass

from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerBase

from configuration_mtsbert import PAIR_SIMILARITY, TOKEN_CLASSIFICATION
from entities_mtsbert import IGNORE_INDEX, spans_to_tags, visible_offsets
from mtl.datasets import TEXT, TEXT_PAIR


logger = logging.getLogger(__name__)

DATASET = "dataset"  # the column that says which dataset of the recipe a row is from
ROWS_PER_CALL = 1_000  # texts tokenized at once


@dataclass
class TokenizationReport:
    """What did not survive tokenization, over one split."""

    num_texts: int = 0
    num_cut_texts: int = 0
    num_entities: int = 0
    num_unaligned: int = 0
    num_truncated: int = 0

    def log(self, split: str) -> None:
        if self.num_cut_texts:
            logger.warning(
                f"{split}: {self.num_cut_texts:,} of {self.num_texts:,} texts are longer than `max_length` and were "
                f"cut, {self.num_truncated:,} of {self.num_entities:,} entities with them."
            )
        if self.num_unaligned:
            logger.warning(
                f"{split}: {self.num_unaligned:,} of {self.num_entities:,} entities begin or end inside a word piece; "
                "their pieces are not learned from."
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
            report.num_texts += 1 + (pair is not None)
            report.num_cut_texts += bool(encoding.overflowing) + bool(pair and pair.overflowing)
            columns["input_ids"].append(encoding.ids)
            columns["pair_input_ids"].append(pair.ids if pair else [])
            columns["length"].append(len(encoding.ids) + (len(pair.ids) if pair else 0))
            columns[DATASET].append(example.get(DATASET, 0))
            for name, task in tasks.items():
                columns[name].append(_label(example.get(name), task, label2id[name], example[TEXT], encoding, report))
    report.log(split)
    features = {"input_ids": List(Value("int32")), "pair_input_ids": List(Value("int32")), "length": Value("int32")}
    features[DATASET] = Value("int32")
    features |= {name: _label_feature(task) for name, task in tasks.items()}
    return Dataset.from_dict(columns, features=Features(features)), report


def _tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int) -> list:
    return tokenizer(texts, truncation=True, max_length=max_length, return_offsets_mapping=True).encodings


def _label(value, task: dict, label2id: dict[str, int], text: str, encoding, report: TokenizationReport):
    """The label of one example as the model reads it."""
    if task["type"] == PAIR_SIMILARITY:
        return math.nan if value is None else value
    if task["type"] == TOKEN_CLASSIFICATION:
        if value is None:
            return [IGNORE_INDEX] * len(encoding.ids)
        offsets = visible_offsets(encoding.offsets, text)
        tagged = spans_to_tags(value, offsets, label2id, truncated=bool(encoding.overflowing))
        report.num_entities += len(value)
        report.num_unaligned += tagged.num_unaligned
        report.num_truncated += tagged.num_truncated
        return tagged.tags
    if task.get("multi_label"):
        return [IGNORE_INDEX if value is None else int(label in value) for label in label2id]
    return IGNORE_INDEX if value is None else label2id[value]


def _label_feature(task: dict) -> Value | List:
    if task["type"] == PAIR_SIMILARITY:
        return Value("float32")
    return List(Value("int64")) if task["type"] == TOKEN_CLASSIFICATION or task.get("multi_label") else Value("int64")
