"""What is exported: a graph for texts, one for pairs of embeddings, and the check that each answers as its model.

Letters: `B` texts, `T` tokens, `H` embedding size.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from torch import nn

from configuration_mtsbert import PAIR_TYPES
from modeling_mtsbert import MTSBertModel
from pipeline_mtsbert import MTSBertPipeline


# Names of the graphs' outputs, which must differ from those of all operations.
SENTENCE_EMBEDDING = "sentence_embedding"
LOGITS = "logits."  # followed by the name of the task
LONGEST_COMPARED = 160  # tokens: beyond what local attention sees at once
MOST_DIFFERENCE = 1e-3  # in fp32, relative to the largest number
Run = Callable[..., dict[str, torch.Tensor]]  # runs a graph: inputs by name → all outputs by name
OPENED = ("_opening", "_alone", "_beside_others", "_pairs")  # what `RuntimeGraphs` cannot hand on to a copy
TEXTS, PAIRS = "texts", "pairs"  # the two graphs
Session = Callable[[list[str], dict[str, np.ndarray]], list[np.ndarray]]  # names of outputs, inputs by name → outputs


class TextGraph(nn.Module):
    """
    Computes the embedding `(B, H)` and the logits of all tasks about single texts from `input_ids` and
    `attention_mask`, both `(B, T)`.
    """

    axes = {0: "batch", 1: "sequence"}  # noqa: RUF012

    def __init__(self, model: MTSBertModel):
        super().__init__()
        self.model = model
        self.tasks = [task for task, settings in model.config.tasks.items() if settings["type"] not in PAIR_TYPES]
        self.output_names = [SENTENCE_EMBEDDING, *(LOGITS + task for task in self.tasks)]

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output = self.model(input_ids=input_ids, attention_mask=attention_mask)
        return (output.pooler_output, *(output.logits[task] for task in self.tasks))

    def example_inputs(self, padding_id: int) -> dict[str, torch.Tensor]:
        ids = torch.full((2, 7), padding_id)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class PairGraph(nn.Module):
    """Computes the logits of all pair tasks from two embeddings, both `(B, H)`."""

    axes = {0: "batch"}  # noqa: RUF012

    def __init__(self, model: MTSBertModel):
        super().__init__()
        self.model = model
        self.tasks = [task for task, settings in model.config.tasks.items() if settings["type"] in PAIR_TYPES]
        self.output_names = [LOGITS + task for task in self.tasks]

    def forward(self, u: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.model.pair_logits(task, u, v) for task in self.tasks)

    def example_inputs(self, num_pairs: int = 2) -> dict[str, torch.Tensor]:
        u, v = torch.rand(2, num_pairs, self.model.config.embedding_size)
        return {"u": u, "v": v}


class RuntimeGraphs(ABC):
    """
    The two graphs of a model on a runtime, which are opened when they are first asked for.

    Args:
        files (`list[Path]`): The files of the graphs; none for graphs in memory.
    """

    def __init__(self, files: list[Path]):
        self.files = files
        self._opening = Lock()

    def __getstate__(self) -> dict:
        """Without what is open: a copy opens its own."""
        return {name: value for name, value in vars(self).items() if name not in OPENED}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._opening = Lock()

    @abstractmethod
    def open_session(self, graph: str, *, is_alone: bool) -> Session:
        """Opens the graph `TEXTS` or `PAIRS`. `is_alone` says that no other thread runs it: it may use all cores."""

    @cached_property
    def _alone(self) -> Session:
        return self.open_session(TEXTS, is_alone=True)

    @cached_property
    def _beside_others(self) -> Session:
        return self.open_session(TEXTS, is_alone=False)

    @cached_property
    def _pairs(self) -> Session:
        return self.open_session(PAIRS, is_alone=True)

    def texts(self, names: list[str], *, is_alone: bool = True, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Runs the graph for texts. `is_alone` says that no other thread runs it, so that it may use all cores."""
        with self._opening:  # otherwise `cached_property` would open a session in each of several threads
            session = self._alone if is_alone else self._beside_others
        return _run(session, names, inputs)

    def pairs(self, names: list[str], **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return _run(self._pairs, names, inputs)


def _run(session: Session, names: list[str], inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    answers = session(names, {name: np.ascontiguousarray(value.numpy()) for name, value in inputs.items()})
    return dict(zip(names, map(torch.from_numpy, answers), strict=True))


@contextmanager
def without_warnings() -> Iterator[None]:
    """Hides what torch's exporter and converters warn of in their own code, which users cannot change."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        yield


def make_exportable(pipeline: MTSBertPipeline) -> None:
    """Moves the model of a pipeline to the CPU, in fp32, and notes in its tokenizer how much the model reads."""
    pipeline.model.to("cpu", torch.float32)
    pipeline.device = torch.device("cpu")
    pipeline.tokenizer.model_max_length = pipeline.max_length  # which a graph does not say


def check_texts(graph: TextGraph, run: Run, pipeline: MTSBertPipeline) -> None:
    """Compares a graph with its model for texts of several lengths, alone and padded to the longest."""
    longest = min(pipeline.max_length, LONGEST_COMPARED)
    draw = torch.Generator().manual_seed(0)
    batches = []
    for lengths in ([1], [5], [longest], [3, longest, 9], [2] * 8):
        ids = torch.randint(len(pipeline.tokenizer), (len(lengths), max(lengths)), generator=draw)
        mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()
        batches.append({"input_ids": ids, "attention_mask": mask})
    _check(graph, run, batches)


def check_pairs(graph: PairGraph, run: Run) -> None:
    """Compares a graph with its model for one and for several pairs."""
    _check(graph, run, [graph.example_inputs(number) for number in (1, 3)])


def _check(graph: nn.Module, run: Run, batches: list[dict[str, torch.Tensor]]) -> None:
    """Raises `ValueError` if a graph that was written does not answer as its model does."""
    for inputs in batches:
        shape = tuple(next(iter(inputs.values())).shape)
        with torch.inference_mode():
            expected = graph(**inputs)
        try:
            found = run(**inputs)
        except Exception as error:  # the errors of the runtimes share no public base class
            raise ValueError(
                f"This model cannot be exported: its graph fails on inputs of shape {shape} ({error})."
            ) from None
        mask = inputs.get("attention_mask")
        for name, one in zip(graph.output_names, expected, strict=True):
            difference = (one - found[name]).abs()
            if difference.dim() == 3 and mask is not None:  # the tags of padding mean nothing
                difference = difference * mask.unsqueeze(-1)
            if not difference.max() <= MOST_DIFFERENCE * one.abs().max().clamp(min=1.0):
                raise ValueError(
                    f"This model cannot be exported: for inputs of shape {shape}, its graph gives other numbers (by "
                    f"up to {difference.max():.2g})."
                )
