"""Runs exported checkpoints with onnxruntime, with the same inputs and outputs as the multi-task pipeline."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import BatchEncoding

from configuration_mtsbert import PAIR_TYPES, MTSBertConfig
from mtsbert.network.starting_point import open_tokenizer
from mtsbert.settings import import_extra
from pipeline_mtsbert import MTSBertPipeline


if TYPE_CHECKING:
    from onnxruntime import InferenceSession


TEXTS_FILE, PAIRS_FILE = "model.onnx", "pairs.onnx"
# Names of the graphs' outputs, which must differ from those of all operations.
EMBEDDING = "sentence_embedding"
LOGITS = "logits."  # followed by the name of the task


@dataclass
class OnnxOutput:
    """The fields of `MTSBertOutput` that the pipeline reads."""

    pooler_output: torch.Tensor
    logits: dict[str, torch.Tensor]


class OnnxModel:
    """An exported checkpoint with the interface of the model."""

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, folder: Path):
        self.config = MTSBertConfig.from_pretrained(folder)
        self._folder = folder
        self._opening = Lock()
        import_extra("onnxruntime", extra="onnx")

    @cached_property
    def alone(self) -> "InferenceSession":
        """The session for a single caller, which uses all cores."""
        return open_session(self._folder / TEXTS_FILE)

    @cached_property
    def beside_others(self) -> "InferenceSession":
        """The session for several concurrent callers, which uses only the thread that calls it."""
        return open_session(self._folder / TEXTS_FILE, num_threads=1)

    @cached_property
    def pairs(self) -> "InferenceSession":
        return open_session(self._folder / PAIRS_FILE)

    def __call__(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        *,
        is_alone: bool = True,
        tasks: list[str] | None = None,
        **unused,
    ) -> OnnxOutput:
        chosen = self.config.select_tasks(tasks)
        names = [EMBEDDING, *(LOGITS + task for task in chosen if chosen[task]["type"] not in PAIR_TYPES)]
        with self._opening:  # otherwise `cached_property` would open a session in each of several threads
            session = self.alone if is_alone else self.beside_others
        answers = run_session(session, names, input_ids=input_ids, attention_mask=attention_mask)
        embedding = answers.pop(EMBEDDING)
        return OnnxOutput(embedding, {name.removeprefix(LOGITS): logits for name, logits in answers.items()})

    def pair_logits(self, task: str, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return run_session(self.pairs, [LOGITS + task], u=u, v=v)[LOGITS + task]


class OnnxPipeline(MTSBertPipeline):
    """
    Answers like [`MTSBertPipeline`], from a folder that `mtsbert.commands.export` wrote. onnxruntime always computes
    the whole graph; `tasks` only saves the steps after it.

    Args:
        folder (`str` or `Path`): The exported model.
        parameters: Defaults for every call; see [`~MTSBertPipeline.__call__`].

    Raises:
        `ValueError`: where the folder is no export, or onnxruntime is not installed.
    """

    def __init__(self, folder: str | Path, **parameters):
        folder = Path(folder)
        if not (folder / TEXTS_FILE).is_file():
            raise ValueError(f"{folder} has no {TEXTS_FILE}; `mtsbert export` writes such a folder.")
        self.model = OnnxModel(folder)
        self.tokenizer = open_tokenizer(folder, self.model.config.encoder_config)
        self.device = self.model.device
        self._batch_size = None
        _, self._forward_params, self._postprocess_params = self._sanitize_parameters(**parameters)

    @property
    def num_positions(self) -> int | None:
        return self.model.config.max_position_embeddings

    def _outputs(self, inputs: BatchEncoding, *, is_alone: bool, tasks: list[str] | None) -> OnnxOutput:
        return self.model(**inputs, is_alone=is_alone, tasks=tasks)


def open_session(path: Path, *, num_threads: int = 0) -> "InferenceSession":
    """Opens a graph. With `num_threads=0`, onnxruntime uses one thread per core."""
    onnxruntime = import_extra("onnxruntime", extra="onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_session(session: "InferenceSession", names: list[str], **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    answers = session.run(names, {name: np.ascontiguousarray(value.numpy()) for name, value in inputs.items()})
    return dict(zip(names, map(torch.from_numpy, answers), strict=True))
