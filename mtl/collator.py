"""Features of several texts → one padded batch."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from configuration_mtsbert import TOKEN_CLASSIFICATION
from entities_mtsbert import IGNORE_INDEX


@dataclass
class MultiTaskCollator:
    """
    Pads texts to the longest of the batch, and gives every task its labels, missing ones as -100.

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
    """

    tokenizer: PreTrainedTokenizerBase
    tasks: dict[str, dict]

    def __call__(self, features: list[dict]) -> dict:
        input_ids = [feature["input_ids"] for feature in features]
        ones = [[1] * len(row) for row in input_ids]
        labels = {}
        for name, task in self.tasks.items():
            values = [feature[name] for feature in features]
            of_tokens = task["type"] == TOKEN_CLASSIFICATION
            labels[name] = self._pad(values, IGNORE_INDEX) if of_tokens else torch.tensor(values)
        return {
            "input_ids": self._pad(input_ids, self.tokenizer.pad_token_id),
            "attention_mask": self._pad(ones, 0),
            "labels": labels,
        }

    def _pad(self, rows: list[list[int]], value: int) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row) for row in rows],
            batch_first=True,
            padding_value=value,
            padding_side=self.tokenizer.padding_side,
        )
