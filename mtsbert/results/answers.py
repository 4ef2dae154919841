"""Predicts all tasks for rows of texts. Used for bulk prediction, in this process or on a Ray worker."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from transformers import PreTrainedTokenizerBase

from configuration_mtsbert import PAIR_TYPES
from modeling_mtsbert import MTSBertModel
from mtsbert.data.sources import TEXT, TEXT_PAIR
from pipeline_mtsbert import MTSBertPipeline


ROWS_PER_CALL = 1_000  # in memory at a time; they are sorted by length


def answers(
    pipeline: MTSBertPipeline, rows: Iterable[dict], *, embeddings: bool = False, batch_size: int | None = None
) -> Iterator[dict]:
    """
    Yields each row together with the model's predictions for it.

    Args:
        pipeline ([`MTSBertPipeline`]): The model.
        rows (`Iterable[dict]`): Rows with `text`, optionally `text_pair`, and any other columns. Where `text_pair` is
            `None`, the text is answered alone, and what is said about pairs is `None` as well.
        embeddings (`bool`, *optional*, defaults to `False`): Whether to include the sentence embeddings.
        batch_size (`int`, *optional*): Texts per forward pass. Default: chosen for the machine.
    """
    of_pairs = ["pair_embedding"] if embeddings else []
    of_pairs += [task for task, settings in pipeline.model.config.tasks.items() if settings["type"] in PAIR_TYPES]
    for block in blocks_of(rows):
        texts = [row[TEXT] if row.get(TEXT_PAIR) is None else (row[TEXT], row[TEXT_PAIR]) for row in block]
        found = pipeline(texts, batch_size=batch_size, return_embeddings=embeddings)
        for row, answer in zip(block, found, strict=True):
            yield row | answer | (dict.fromkeys(of_pairs) if TEXT_PAIR in row and row[TEXT_PAIR] is None else {})


def blocks_of(rows: Iterable[dict]) -> Iterator[list[dict]]:
    rows = iter(rows)
    while block := list(islice(rows, ROWS_PER_CALL)):
        yield block


class Answerer:
    """Turns blocks of rows into the JSON lines of the output file, under bf16 autocast if `use_bf16` is set."""

    def __init__(self, pipeline: MTSBertPipeline, *, embeddings: bool, batch_size: int | None, use_bf16: bool):
        self._pipeline = pipeline
        self._options = {"embeddings": embeddings, "batch_size": batch_size}
        self._use_bf16 = use_bf16

    @classmethod
    def load(cls, model: MTSBertModel, tokenizer: PreTrainedTokenizerBase, **options) -> "Answerer":
        """Builds the pipeline on a worker from a model that was sent to it, on a GPU if the worker has one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(model.eval().as_pipeline(tokenizer, device=device), **options)

    def __call__(self, rows: list[dict]) -> list[str]:
        with torch.autocast(self._pipeline.device.type, dtype=torch.bfloat16, enabled=self._use_bf16):
            return [
                json.dumps(row, ensure_ascii=False, default=str) + "\n"
                for row in answers(self._pipeline, rows, **self._options)
            ]
