"""Writes graphs as ONNX, and runs them with onnxruntime."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mtsbert.exports.graphs import PAIRS, TEXTS, PairGraph, RuntimeGraphs, Session, TextGraph, without_warnings
from mtsbert.network.starting_point import ONNX_GRAPH
from mtsbert.settings import import_extra


if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

TEXTS_FILE, PAIRS_FILE = ONNX_GRAPH, "pairs.onnx"
EXTRA = "onnx"
OPSET = 23  # the first with attention as a single operator, which is faster
# All operators would include opset 23's attention, which onnxruntime confuses with an older operator of its own.
QUANTIZED = ["MatMul", "Gemm", "Gather"]


class OnnxGraphs(RuntimeGraphs):
    """The two graphs of a folder, which onnxruntime runs on the CPU."""

    def __init__(self, folder: Path):
        self._paths = {TEXTS: folder / TEXTS_FILE, PAIRS: folder / PAIRS_FILE}
        super().__init__([path for path in self._paths.values() if path.is_file()])
        import_extra("onnxruntime", extra=EXTRA)

    def open_session(self, graph: str, *, is_alone: bool) -> Session:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 0 if is_alone else 1  # one per core; or only the thread that calls it
        providers = ["CPUExecutionProvider"]
        return onnxruntime.InferenceSession(self._paths[graph], options, providers=providers).run


def write_graph(graph: TextGraph | PairGraph, inputs: dict[str, torch.Tensor], path: Path) -> None:
    # Without a warning, the older exporter (`dynamo=False`) writes a graph that is wrong for other lengths.
    with without_warnings():
        try:
            program = torch.onnx.export(
                graph,
                kwargs=inputs,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes={name: graph.axes for name in inputs},
                input_names=list(inputs),
                output_names=graph.output_names,
                verbose=False,
            )
        except Exception as error:  # the errors of tracing share no public base class
            cause = error.__cause__ or error  # of the exporter's own, which are pages long
            raise ValueError(
                f"This model cannot be exported to ONNX ({type(cause).__name__}: {str(cause).partition(chr(10))[0]})."
            ) from error
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # where the code of each operation lies on this machine
    program.save(str(path), external_data=False)


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
    quantized = onnx.load(path)
    _prevent_overflow(quantized, {constant.name: constant for constant in graph.graph.initializer})
    onnx.save(quantized, path)


def _prevent_overflow(graph: "ModelProto", weights: dict[str, "TensorProto"]) -> None:
    """
    Scales the columns of quantized matrices so that two neighbouring weights of one sign add up to at most 128. CPUs
    without VNNI multiply them with bytes and add both products in 16 bits, where more would overflow. It takes about a
    third of a bit, and `reduce_range` of the quantizer a whole one.

    Args:
        graph (`ModelProto`): The quantized graph; changed in place.
        weights (`dict[str, TensorProto]`): The constants before, by name.
    """
    from onnx import numpy_helper

    constants = {constant.name: constant for constant in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type != "MatMulInteger" or node.input[1] not in constants:
            continue
        name = node.input[1].removesuffix("_quantized")
        is_transposed = name not in weights
        matrix = numpy_helper.to_array(weights[name.removesuffix("_Transposed")])
        matrix = matrix.T if is_transposed else matrix
        first, second = matrix[0 : len(matrix) // 2 * 2 : 2], matrix[1::2]
        sums = np.where(first * second > 0, abs(first + second), 0.0)
        scale = np.maximum(abs(matrix).max(axis=0), sums.max(axis=0)).clip(1e-12) / 127
        for suffix, value in (("_quantized", np.rint(matrix / scale).astype(np.int8)), ("_scale", scale)):
            constants[name + suffix].CopyFrom(numpy_helper.from_array(value, name + suffix))
