"""The multi-task pipeline on onnxruntime: the same texts in, the same answers out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from .model_files import MTSBertConfig, MTSBertPipeline


TEXTS_FILE, PAIRS_FILE = "model.onnx", "pairs.onnx"
# Outputs of the graphs: names that no operation inside them has.
EMBEDDING = "sentence_embedding"
LOGITS = "logits."  # and the task's name


@dataclass
class OnnxOutput:
    """The fields of `MTSBertOutput` that the pipeline reads."""

    pooler_output: torch.Tensor
    logits: dict[str, torch.Tensor]


class OnnxModel:
    """An exported checkpoint that is called like the model."""

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, folder: Path):
        self.config = MTSBertConfig.from_pretrained(folder)
        self.texts = _session(folder / TEXTS_FILE)
        self.pairs = _session(folder / PAIRS_FILE) if (folder / PAIRS_FILE).is_file() else None

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **unused) -> OnnxOutput:
        answers = _run(self.texts, input_ids=input_ids, attention_mask=attention_mask)
        embedding = answers.pop(EMBEDDING)
        return OnnxOutput(embedding, {name.removeprefix(LOGITS): logits for name, logits in answers.items()})

    def pair_logits(self, task: str, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return _run(self.pairs, u=u, v=v)[LOGITS + task]


class OnnxPipeline(MTSBertPipeline):
    """
    Answers like [`MTSBertPipeline`], from a folder that `mtl.export` wrote.

    Raises:
        `ValueError`: where the folder is no export, or onnxruntime is not installed.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        if not (folder / TEXTS_FILE).is_file():
            raise ValueError(f"{folder} has no {TEXTS_FILE}; `python -m mtl.export` writes such a folder.")
        self.model = OnnxModel(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, config=self.model.config.encoder_config)
        self.device = self.model.device
        self._batch_size = None


def _session(path: Path):
    try:
        import onnxruntime
    except ImportError:
        raise ValueError("ONNX needs onnxruntime: `pip install -r requirements-onnx.txt`.") from None
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def _run(session, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    names = [output.name for output in session.get_outputs()]
    answers = session.run(names, {name: np.ascontiguousarray(value.numpy()) for name, value in inputs.items()})
    return dict(zip(names, map(torch.from_numpy, answers), strict=True))
