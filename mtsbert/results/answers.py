"""What a model says of rows of texts: the work of bulk prediction, in whichever process and on whichever machine."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from transformers import PreTrainedTokenizerBase

from modeling_mtsbert import MTSBertModel
from mtsbert.data.sources import TEXT, TEXT_PAIR
from pipeline_mtsbert import MTSBertPipeline


ROWS_PER_CALL = 1_000  # in memory at a time; they are sorted by length


def answers(
    pipeline: MTSBertPipeline, rows: Iterable[dict], *, embeddings: bool = False, batch_size: int | None = None
) -> Iterator[dict]:
    """The rows `{"text", maybe "text_pair", …}` with what the model says of each."""
    for block in blocks_of(rows):
        texts = [(row[TEXT], row[TEXT_PAIR]) if TEXT_PAIR in row else row[TEXT] for row in block]
        for row, answer in zip(block, pipeline(texts, batch_size=batch_size), strict=True):
            kept = answer if embeddings else {k: v for k, v in answer.items() if not k.endswith("embedding")}
            yield row | kept


def blocks_of(rows: Iterable[dict]) -> Iterator[list[dict]]:
    rows = iter(rows)
    while block := list(islice(rows, ROWS_PER_CALL)):
        yield block


class Answerer:
    """Blocks of rows in, the lines of the answers' file out. With `use_bf16` under bf16 autocast."""

    def __init__(self, pipeline: MTSBertPipeline, *, embeddings: bool, batch_size: int | None, use_bf16: bool):
        self._pipeline = pipeline
        self._options = {"embeddings": embeddings, "batch_size": batch_size}
        self._use_bf16 = use_bf16

    @classmethod
    def load(cls, model: MTSBertModel, tokenizer: PreTrainedTokenizerBase, **options) -> "Answerer":
        """On another machine, of a model that was sent there: on its GPU if the worker has one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(model.eval().as_pipeline(tokenizer, device=device), **options)

    def __call__(self, rows: list[dict]) -> list[str]:
        with torch.autocast(self._pipeline.device.type, dtype=torch.bfloat16, enabled=self._use_bf16):
            return [
                json.dumps(row, ensure_ascii=False, default=str) + "\n"
                for row in answers(self._pipeline, rows, **self._options)
            ]
