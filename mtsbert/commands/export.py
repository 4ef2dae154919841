"""A checkpoint as ONNX: one graph with every output, for any number and length of texts.

    mtsbert export --model runs/quickstart --output exports/quickstart [--int8]

`mtsbert.OnnxPipeline(folder)` answers from it like the multi-task pipeline. Needs onnx, onnxscript and onnxruntime
(requirements-onnx.txt).
"""

import argparse
import shutil
import sys
from pathlib import Path

import torch
from torch import nn

from configuration_mtsbert import PAIR_TYPES
from modeling_mtsbert import MTSBertModel
from mtsbert.network.onnx_pipeline import EMBEDDING, LOGITS, PAIRS_FILE, TEXTS_FILE
from mtsbert.network.starting_point import load_pipeline


OPSET = 23  # the first that has attention as one operation, which is faster
QUANTIZED = ["MatMul", "Gemm", "Gather"]  # onnxruntime would take opset 23's attention for an older one of its own


class TextGraph(nn.Module):
    """`input_ids` and `attention_mask` `(B, T)` → the embedding `(B, H)`, then the logits of the tasks about texts."""

    def __init__(self, model: MTSBertModel):
        super().__init__()
        self.model = model
        self.tasks = [task for task, settings in model.config.tasks.items() if settings["type"] not in PAIR_TYPES]

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output = self.model(input_ids=input_ids, attention_mask=attention_mask)
        return (output.pooler_output, *(output.logits[task] for task in self.tasks))


class PairGraph(nn.Module):
    """Two embeddings `(B, H)` → what every pair task says of them."""

    def __init__(self, model: MTSBertModel):
        super().__init__()
        self.model = model
        self.tasks = [task for task, settings in model.config.tasks.items() if settings["type"] in PAIR_TYPES]

    def forward(self, u: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.model.pair_logits(task, u, v) for task in self.tasks)


def export(model_name_or_path: str, output: Path, *, int8: bool = False) -> None:
    """
    Writes the graphs, the config and the tokenizer to a new folder.

    Args:
        int8: Also quantize the weights of the matrix products (dynamic quantization of onnxruntime).

    Raises:
        `ValueError`: where the output is there already, or the checkpoint is none of ours.
    """
    if output.exists():
        raise ValueError(f"{output} exists already; remove it or name another folder.")
    pipeline = load_pipeline(model_name_or_path)
    model, tokenizer = pipeline.model.to("cpu", torch.float32), pipeline.tokenizer
    partial = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        model.config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        texts = TextGraph(model)
        ids = torch.full((2, 7), tokenizer.pad_token_id or 0)
        _write(
            texts,
            {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
            {0: "batch", 1: "sequence"},
            [EMBEDDING, *(LOGITS + task for task in texts.tasks)],
            partial / TEXTS_FILE,
        )
        if int8:
            _quantize(partial / TEXTS_FILE)
        pairs = PairGraph(model)
        if pairs.tasks:
            u, v = torch.rand(2, 2, model.config.hidden_size)
            names = [LOGITS + task for task in pairs.tasks]
            _write(pairs, {"u": u, "v": v}, {0: "batch"}, names, partial / PAIRS_FILE)
        partial.rename(output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write(
    graph: nn.Module, inputs: dict[str, torch.Tensor], axes: dict[int, str], output_names: list[str], path: Path
) -> None:
    # The older exporter (`dynamo=False`) writes a graph without complaint that is wrong at other lengths.
    torch.onnx.export(
        graph,
        kwargs=inputs,
        f=str(path),
        dynamo=True,
        opset_version=OPSET,
        external_data=False,
        dynamic_shapes={name: axes for name in inputs},
        input_names=list(inputs),
        output_names=output_names,
        verbose=False,
    )


def _quantize(path: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(path)
    del graph.graph.value_info[:]  # shapes of weights that the quantizer is about to transpose
    whole = path.with_suffix(".fp32.onnx")
    onnx.save(graph, whole)
    quantize_dynamic(whole, path, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=QUANTIZED)
    whole.unlink()


def main(argv: list[str] | None = None, *, prog: str = "mtsbert export") -> None:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="mtsbert checkpoint: a folder or a Hub id.")
    parser.add_argument("--output", required=True, type=Path, help="Folder to make.")
    parser.add_argument("--int8", action="store_true", help="Quantize the weights: about a quarter of the size.")
    args = parser.parse_args(argv)
    export(args.model, args.output, int8=args.int8)
    size = (args.output / TEXTS_FILE).stat().st_size / 1e6
    sys.stdout.write(f"{args.output}: {TEXTS_FILE} ({size:.1f} MB), config and tokenizer\n")
