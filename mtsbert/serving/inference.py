"""Answers batches of inputs that want different things, with as few calls of the pipeline as possible."""

import copy
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from pipeline_mtsbert import TOKENS_PER_GPU, TOKENS_PER_THREAD, MTSBertPipeline


WARM_UP = "The first text takes longer than others."
EMBEDDINGS = EMBEDDING, PAIR_EMBEDDING = "embedding", "pair_embedding"  # in an answer of the pipeline

Row = str | tuple[str, str]  # a text, or a pair of texts


@dataclass(frozen=True)
class Options:
    """
    What is asked about an input, in the words of the pipeline's parameters.

    Args:
        tasks (`tuple[str, ...]`, *optional*): The tasks to answer. Default: all.
        top_k (`int`, *optional*): Number of labels in `"scores"`.
        threshold (`float` or `tuple[tuple[str, float], ...]`, *optional*):
            For all tasks, or pairs of a task and its threshold.
        embeddings (`bool`, *optional*, defaults to `False`): Whether to return embeddings, as float32 arrays.
    """

    tasks: tuple[str, ...] | None = None
    top_k: int | None = None
    threshold: float | tuple[tuple[str, float], ...] | None = None
    embeddings: bool = False


class Inference:
    """
    A pipeline for batches of inputs with different options.

    Args:
        pipeline ([`MTSBertPipeline`]): The model, or an export of it.
        autocast (context manager, *optional*): Entered around every call of the pipeline.
    """

    def __init__(self, pipeline: MTSBertPipeline, autocast: AbstractContextManager | None = None):
        self.pipeline = pipeline
        self._autocast = nullcontext() if autocast is None else autocast
        # A copy, since the pipeline sets truncation in its own while this one counts.
        self._counter = copy.deepcopy(pipeline.tokenizer.backend_tokenizer)
        self._counter.no_truncation()
        self._counter.no_padding()

    @property
    def default_batch_tokens(self) -> int:
        """The tokens that keep the machine busy."""
        is_on_cpu = self.pipeline.device.type == "cpu"
        return TOKENS_PER_THREAD * torch.get_num_threads() if is_on_cpu else TOKENS_PER_GPU

    def check(self, options: Options) -> None:
        """Raises `ValueError` if the pipeline would refuse the options."""
        self.pipeline._sanitize_parameters(**_parameters(options))

    def count_tokens(self, row: Row) -> int:
        """The number of tokens of a text or a pair, special tokens included."""
        texts = [row] if isinstance(row, str) else row
        return sum(len(self._counter.encode(text)) for text in texts)

    def warm_up(self) -> None:
        """Answers a pair, and then enough for two passes in parallel, for which an export has a session of its own."""
        pair = (WARM_UP, WARM_UP)
        for num_pairs in (1, TOKENS_PER_THREAD // self.count_tokens(pair) + 1):
            self([pair] * num_pairs, [Options(embeddings=True)] * num_pairs)

    def __call__(self, rows: list[Row], options: list[Options]) -> list[dict]:
        """Answers inputs, each by its own options, in their order."""
        groups: dict[tuple, list[int]] = {}
        for index, wanted in enumerate(options):
            groups.setdefault((wanted.top_k, wanted.threshold), []).append(index)
        answers: list[dict] = [{} for _ in rows]
        for indices in groups.values():
            shared = _union([options[index] for index in indices], self.pipeline.model.config.tasks)
            with self._autocast:
                found = self.pipeline([rows[index] for index in indices], **_parameters(shared))
            for index, answer in zip(indices, found, strict=True):
                answers[index] = _chosen(answer, options[index])
        return answers


def _parameters(options: Options) -> dict[str, Any]:
    threshold = options.threshold
    return {
        "tasks": options.tasks,
        "top_k": options.top_k,
        "threshold": dict(threshold) if isinstance(threshold, tuple) else threshold,
        "return_embeddings": "numpy" if options.embeddings else False,
    }


def _union(options: list[Options], tasks: Iterable[str]) -> Options:
    """Options that ask for all that any of these ask for. Their `top_k` and `threshold` must be the same."""
    wanted = {task for option in options for task in (tasks if option.tasks is None else option.tasks)}
    return Options(tuple(wanted), options[0].top_k, options[0].threshold, any(option.embeddings for option in options))


def _chosen(answer: dict, options: Options) -> dict:
    """The parts of an answer that its own options ask for."""

    def is_wanted(name: str) -> bool:
        if name in EMBEDDINGS:
            return options.embeddings
        return options.tasks is None or name in options.tasks

    return {name: part for name, part in answer.items() if is_wanted(name)}
