"""Writes graphs as ONNX, and runs them with onnxruntime."""

from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import torch

from mtsbert.exports.graphs import PairGraph, TextGraph, without_warnings
from mtsbert.settings import import_extra


if TYPE_CHECKING:
    from onnxruntime import InferenceSession


TEXTS_FILE, PAIRS_FILE = "model.onnx", "pairs.onnx"
EXTRA = "onnx"
OPSET = 23  # the first with attention as a single operator, which is faster
# All operators would include opset 23's attention, which onnxruntime confuses with an older operator of its own.
QUANTIZED = ["MatMul", "Gemm", "Gather"]


class OnnxGraphs:
    """The two graphs of a folder, which onnxruntime runs on the CPU."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.files = [path for path in (folder / TEXTS_FILE, folder / PAIRS_FILE) if path.is_file()]
        self._opening = Lock()
        import_extra("onnxruntime", extra=EXTRA)

    @cached_property
    def _alone(self) -> "InferenceSession":
        """The session for a single caller, which uses all cores."""
        return open_session(self._folder / TEXTS_FILE)

    @cached_property
    def _beside_others(self) -> "InferenceSession":
        """The session for several concurrent callers, which uses only the thread that calls it."""
        return open_session(self._folder / TEXTS_FILE, num_threads=1)

    @cached_property
    def _pairs(self) -> "InferenceSession":
        return open_session(self._folder / PAIRS_FILE)

    def texts(self, names: list[str], *, is_alone: bool = True, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Runs the graph for texts. `is_alone` says that no other thread runs it, so that it may use all cores."""
        with self._opening:  # otherwise `cached_property` would open a session in each of several threads
            session = self._alone if is_alone else self._beside_others
        return _run(session, names, inputs)

    def pairs(self, names: list[str], **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return _run(self._pairs, names, inputs)


def write_graph(graph: TextGraph | PairGraph, inputs: dict[str, torch.Tensor], path: Path) -> None:
    for package in ("onnx", "onnxscript"):
        import_extra(package, extra=EXTRA)
    # Without a warning, the older exporter (`dynamo=False`) writes a graph that is wrong for other lengths.
    with without_warnings():
        torch.onnx.export(
            graph,
            kwargs=inputs,
            f=str(path),
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            dynamic_shapes={name: graph.axes for name in inputs},
            input_names=list(inputs),
            output_names=graph.output_names,
            verbose=False,
        )


def quantize(path: Path) -> None:
    """Quantizes a graph in place: matrix products and embeddings to int8 (onnxruntime's dynamic quantization)."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(path)
    del graph.graph.value_info[:]  # outdated once the quantizer transposes the weights
    whole = path.with_suffix(".fp32.onnx")
    onnx.save(graph, whole)
    with without_warnings():
        quantize_dynamic(whole, path, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=QUANTIZED)
    whole.unlink()


def open_session(path: Path, *, num_threads: int = 0) -> "InferenceSession":
    """Opens a graph. With `num_threads=0`, onnxruntime uses one thread per core."""
    onnxruntime = import_extra("onnxruntime", extra=EXTRA)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _run(session: "InferenceSession", names: list[str], inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    answers = session.run(names, {name: np.ascontiguousarray(value.numpy()) for name, value in inputs.items()})
    return dict(zip(names, map(torch.from_numpy, answers), strict=True))
