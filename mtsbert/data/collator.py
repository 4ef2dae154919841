"""Collates the features of several rows into a padded batch."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from configuration_mtsbert import PAIR_RANKING, PAIR_TYPES, TOKEN_CLASSIFICATION
from entities_mtsbert import IGNORE_INDEX
from mtsbert.data.features import NEGATIVE_IDS


@dataclass
class MultiTaskCollator:
    """
    Pads texts to the longest of the batch, and gives every task its labels, missing ones as -100 (scores as NaN).

    Where a task compares two texts, the batch has `pair_input_ids` and `pair_attention_mask` as well; a row without a
    second text is all padding. With a ranking task, as many rows of hard negatives follow there.

    With the tasks `topic` and `ner`, and a padding id of 0:

        >>> collator([
        ...     {"input_ids": [101, 3000, 102], "topic": 2, "ner": [-100, 1, -100]},
        ...     {"input_ids": [101, 7592, 2088, 102], "topic": -100, "ner": [-100, 0, 0, -100]},
        ... ])
        {
            "input_ids": tensor([[101, 3000, 102, 0], [101, 7592, 2088, 102]]),
            "attention_mask": tensor([[1, 1, 1, 0], [1, 1, 1, 1]]),
            "labels": {
                "topic": tensor([2, -100]),
                "ner": tensor([[-100, 1, -100, -100], [-100, 0, 0, -100]]),
            },
        }

    Raises:
        `ValueError`: for a tokenizer without a pad token.
    """

    tokenizer: PreTrainedTokenizerBase
    tasks: dict[str, dict]

    def __post_init__(self):
        if self.tokenizer.pad_token_id is None:
            raise ValueError(
                "The tokenizer has no pad token, and the texts of a batch are padded to one length. Set "
                "`tokenizer.pad_token = ...` to any token of its vocabulary, as the attention mask hides it, and save "
                "the tokenizer with the encoder."
            )

    def __call__(self, features: list[dict]) -> dict:
        batch = self.texts(features, "")
        if any(task["type"] in PAIR_TYPES for task in self.tasks.values()):
            batch |= self.texts(features, "pair_")
        batch["labels"] = {}
        for name, task in self.tasks.items():
            values = [feature[name] for feature in features]
            of_tokens = task["type"] == TOKEN_CLASSIFICATION
            batch["labels"][name] = self._pad(values, IGNORE_INDEX) if of_tokens else torch.tensor(values)
        return batch

    def texts(self, features: list[dict], prefix: str) -> dict[str, torch.Tensor]:
        """
        Pads the first texts, or with the prefix `"pair_"` the second texts and hard negatives, and builds their
        attention mask.
        """
        rows = [feature[f"{prefix}input_ids"] for feature in features]
        if prefix and any(task["type"] == PAIR_RANKING for task in self.tasks.values()):
            rows += [feature[NEGATIVE_IDS] for feature in features]
        return {
            f"{prefix}input_ids": self._pad(rows, self.tokenizer.pad_token_id),
            f"{prefix}attention_mask": self._pad([[1] * len(row) for row in rows], 0),
        }

    def _pad(self, rows: list[list[int]], value: int) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row, dtype=torch.long) for row in rows],
            batch_first=True,
            padding_value=value,
            padding_side=self.tokenizer.padding_side,
        )
