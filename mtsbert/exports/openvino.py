"""Converts graphs to OpenVINO, quantizes them with NNCF, and runs them on the CPU."""

import importlib.util
import os
import sys
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path
from queue import Empty, LifoQueue
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch

from mtsbert.exports.graphs import (
    PAIRS,
    TEXTS,
    PairGraph,
    RuntimeGraphs,
    Session,
    TextGraph,
    check_pairs,
    check_texts,
    without_warnings,
)
from mtsbert.network.starting_point import OPENVINO_GRAPH
from mtsbert.settings import import_extra
from pipeline_mtsbert import MTSBertPipeline


if TYPE_CHECKING:
    from openvino import CompiledModel, Core, Model


TEXTS_FILE, PAIRS_FILE = OPENVINO_GRAPH, "openvino_pairs.xml"  # the weights lie beside them, as .bin
EXTRA = "openvino"
HINTS = {"fp32": "f32", "bf16": "bf16"}  # what OpenVINO calls them


class OpenVinoGraphs(RuntimeGraphs):
    """
    The two graphs of a model, compiled for the CPU.

    Args:
        texts (`Model` or `Path`): The graph for texts, or its file.
        pairs (`Model` or `Path`, *optional*): The graph for pairs of embeddings, if the model has tasks on pairs.
        precision (`str`, *optional*, defaults to `"fp32"`): `"bf16"` computes in bf16. The answers differ a little.

    As many threads are used as torch uses where this is built (`OMP_NUM_THREADS`).
    """

    def __init__(self, texts: "Model | Path", pairs: "Model | Path | None", *, precision: str = "fp32"):
        self._graphs = {TEXTS: texts, PAIRS: pairs}
        self._precision = precision
        self._num_threads = torch.get_num_threads()  # of this thread; those that share the work have one each
        super().__init__([path for graph in (texts, pairs) if isinstance(graph, Path) for path in _files_of(graph)])

    @classmethod
    def of(cls, folder: Path, *, precision: str = "fp32") -> "OpenVinoGraphs":
        return cls(folder / TEXTS_FILE, folder / PAIRS_FILE, precision=precision)

    def open_session(self, graph: str, *, is_alone: bool) -> Session:
        settings = {
            "INFERENCE_PRECISION_HINT": HINTS[self._precision],
            "INFERENCE_NUM_THREADS": self._num_threads,
            "NUM_STREAMS": 1 if is_alone else self._num_threads,  # requests at a time, which share the threads
            "ENABLE_CPU_PINNING": False,  # other programs may run on the same cores
        }
        return _Requests(_core().compile_model(self._graphs[graph], "CPU", settings))


class _Requests:
    """Requests to a compiled graph, of which every thread needs its own."""

    def __init__(self, graph: "CompiledModel"):
        self._graph = graph
        self._idle: LifoQueue = LifoQueue()

    def __call__(self, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        try:
            request = self._idle.get_nowait()
        except Empty:
            request = self._graph.create_infer_request()
        request.infer(inputs)
        answers = [request.get_tensor(name).data.copy() for name in names]
        self._idle.put(request)
        return answers


def import_openvino() -> ModuleType:
    """Imports OpenVINO, whose telemetry would otherwise report every import to its makers."""
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # OpenVINO and NNCF do without it if it is not installed
    return import_extra("openvino", extra=EXTRA)


@cache
def _core() -> "Core":
    """
    Returns the only core of this process, which is never dropped.

    Every core gives the thread that it starts in a stack for signal handlers, and puts back the one before when it
    ends. If an older core has ended in the meantime, that memory is gone, and the next Ctrl-C kills the process.
    """
    return import_openvino().Core()


def is_installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


def _files_of(graph: Path) -> list[Path]:
    """Returns the file of a graph and that of its weights, if there is a graph."""
    return [path for path in (graph, graph.with_suffix(".bin")) if path.is_file()]


def converted(pipeline: MTSBertPipeline) -> tuple["Model", "Model | None"]:
    """
    Converts a model: its graph for texts, and the one for pairs if it has tasks on pairs.

    Args:
        pipeline ([`MTSBertPipeline`]): The model, in fp32 on the CPU and evaluation mode, and its tokenizer.

    Raises:
        `ValueError`: if a graph does not answer as the model does.
    """
    texts, pairs = TextGraph(pipeline.model), PairGraph(pipeline.model)
    of_texts = convert(texts, texts.example_inputs(pipeline.tokenizer.pad_token_id or 0))
    of_pairs = convert(pairs, pairs.example_inputs()) if pairs.tasks else None
    graphs = OpenVinoGraphs(of_texts, of_pairs)
    check_texts(texts, partial(graphs.texts, texts.output_names), pipeline)
    if of_pairs is not None:
        check_pairs(pairs, partial(graphs.pairs, pairs.output_names))
    return of_texts, of_pairs


def convert(graph: TextGraph | PairGraph, inputs: dict[str, torch.Tensor]) -> "Model":
    """
    Converts a graph.

    Args:
        graph (`TextGraph` or `PairGraph`): The graph, in fp32 and evaluation mode.
        inputs (`dict[str, torch.Tensor]`): An example of its inputs, with at least two rows.

    Raises:
        `ValueError`: if torch cannot trace the model, or OpenVINO lacks one of its operations.
    """
    openvino = import_openvino()
    dynamic = {name: dict.fromkeys(graph.axes, torch.export.Dim.DYNAMIC) for name in inputs}
    with without_warnings():
        try:
            model = openvino.convert_model(torch.export.export(graph, (), kwargs=inputs, dynamic_shapes=dynamic))
        except Exception as error:  # the errors of tracing share no public base class
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"This model cannot be converted to OpenVINO ({type(error).__name__}: {reason})."
            ) from error
    for output, name in zip(model.outputs, graph.output_names, strict=True):
        output.get_tensor().set_names({name})
    return model


def write(model: "Model", path: Path) -> None:
    import_openvino().save_model(model, os.fspath(path), compress_to_fp16=False)


def quantize(model: "Model", batches: Iterable[dict[str, torch.Tensor]]) -> "Model":
    """
    Quantizes weights and activations to int8 (NNCF's post-training quantization with SmoothQuant). Weights use 7 of
    the 8 bits: on a CPU without VNNI, sums of two products of 8 bits overflow.

    Args:
        model (`Model`): A converted graph.
        batches (`Iterable[dict[str, torch.Tensor]]`): Inputs that are typical, from which the ranges of activations
            are taken.
    """
    import_openvino()
    nncf = import_extra("nncf", extra=EXTRA)
    rows = [{name: value.numpy() for name, value in batch.items()} for batch in batches]
    with without_warnings():
        return nncf.quantize(
            model,
            nncf.Dataset(rows),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(rows),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
        )
