"""Examples → what the model reads: word pieces, and labels as ids."""

import logging
from dataclasses import dataclass

from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerBase

from configuration_mtsbert import TOKEN_CLASSIFICATION
from entities_mtsbert import IGNORE_INDEX, spans_to_tags


logger = logging.getLogger(__name__)

ROWS_PER_CALL = 1_000  # texts tokenized at once


@dataclass
class Losses:
    """What did not survive tokenization, over one split."""

    num_texts: int = 0
    num_cut_texts: int = 0
    num_entities: int = 0
    num_unaligned: int = 0
    num_truncated: int = 0

    def report(self, split: str) -> None:
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
) -> Dataset:
    """
    Tokenizes raw texts and turns labels into ids; says once what was cut or could not be aligned.

    Returns:
        A dataset with `input_ids`, `length`, and a column per task: a class id for a sequence task, a list of tag ids
        as long as `input_ids` for a token task. `IGNORE_INDEX` where a label is missing.
    """
    label2id = {name: {label: i for i, label in enumerate(task["labels"])} for name, task in tasks.items()}
    losses = Losses()

    def rows():
        for first in range(0, len(examples), ROWS_PER_CALL):
            batch = examples[first : first + ROWS_PER_CALL]
            encoded = tokenizer(
                [example["text"] for example in batch],
                truncation=True,
                max_length=max_length,
                return_offsets_mapping=True,
            )
            for example, encoding in zip(batch, encoded.encodings, strict=True):
                yield _row(example, encoding)

    def _row(example: dict, encoding) -> dict:
        truncated = bool(encoding.overflowing)
        losses.num_texts += 1
        losses.num_cut_texts += truncated
        row = {"input_ids": encoding.ids, "length": len(encoding.ids)}
        for name, task in tasks.items():
            value = example.get(name)
            if task["type"] != TOKEN_CLASSIFICATION:
                row[name] = IGNORE_INDEX if value is None else label2id[name][value]
            elif value is None:
                row[name] = [IGNORE_INDEX] * len(encoding.ids)
            else:
                tagged = spans_to_tags(value, encoding.offsets, label2id[name], truncated=truncated)
                losses.num_entities += len(value)
                losses.num_unaligned += tagged.num_unaligned
                losses.num_truncated += tagged.num_truncated
                row[name] = tagged.tags
        return row

    columns: dict[str, list] = {"input_ids": [], "length": [], **{name: [] for name in tasks}}
    for row in rows():
        for name, value in row.items():
            columns[name].append(value)
    losses.report(split)
    labels = {
        name: List(Value("int64")) if task["type"] == TOKEN_CLASSIFICATION else Value("int64")
        for name, task in tasks.items()
    }
    features = Features({"input_ids": List(Value("int32")), "length": Value("int32"), **labels})
    return Dataset.from_dict(columns, features=features)
