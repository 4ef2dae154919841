"""Writes graphs as ONNX, and runs them with onnxruntime."""

from pathlib import Path

import torch

from mtsbert.exports.graphs import PAIRS, TEXTS, PairGraph, RuntimeGraphs, Session, TextGraph, without_warnings
from mtsbert.network.starting_point import ONNX_GRAPH
from mtsbert.settings import import_extra


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
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # where the code of each operation lies on this machine
    program.save(str(path), external_data=False)


def quantize(path: Path) -> None:
    """
    Quantizes a graph in place: matrix products and embeddings to int8 (onnxruntime's dynamic quantization). Weights
    use 7 of the 8 bits: on a CPU without VNNI, sums of two products of 8 bits overflow.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(path)
    del graph.graph.value_info[:]  # outdated once the quantizer transposes the weights
    whole = path.with_suffix(".fp32.onnx")
    onnx.save(graph, whole)
    how = {"weight_type": QuantType.QInt8, "per_channel": True, "reduce_range": True}
    with without_warnings():
        quantize_dynamic(whole, path, **how, op_types_to_quantize=QUANTIZED)
    whole.unlink()
