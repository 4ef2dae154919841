"""Exports a checkpoint to ONNX, as one graph with all outputs for any batch size and length; or only its encoder.

    mtsbert export --model runs/quickstart --output exports/quickstart [--int8]
    mtsbert export --model runs/quickstart --output exports/encoder --encoder

`mtsbert.OnnxPipeline(folder)` runs the exported model like the multi-task pipeline. The export needs onnx, onnxscript
and onnxruntime (requirements-onnx.txt).
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import nn

from configuration_mtsbert import PAIR_TYPES, save_sentence_transformers_files
from modeling_mtsbert import MTSBertModel
from mtsbert.network.onnx_pipeline import EMBEDDING, LOGITS, PAIRS_FILE, TEXTS_FILE, open_session, run_session
from mtsbert.network.starting_point import load_pipeline
from mtsbert.results.unfinished import new_folder
from mtsbert.settings import import_extra
from pipeline_mtsbert import MTSBertPipeline


OPSET = 23  # the first with attention as a single operator, which is faster
LONGEST_COMPARED = 160  # tokens: beyond what local attention sees at once
MOST_DIFFERENCE = 1e-3  # in fp32, relative to the largest number
# All operators would include opset 23's attention, which onnxruntime confuses with an older operator of its own.
QUANTIZED = ["MatMul", "Gemm", "Gather"]


class TextGraph(nn.Module):
    """
    Computes the embedding `(B, H)` and the logits of all tasks about single texts from `input_ids` and
    `attention_mask`, both `(B, T)`.
    """

    def __init__(self, model: MTSBertModel):
        super().__init__()
        self.model = model
        self.tasks = [task for task, settings in model.config.tasks.items() if settings["type"] not in PAIR_TYPES]

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output = self.model(input_ids=input_ids, attention_mask=attention_mask)
        return (output.pooler_output, *(output.logits[task] for task in self.tasks))


class PairGraph(nn.Module):
    """Computes the logits of all pair tasks from two embeddings, both `(B, H)`."""

    def __init__(self, model: MTSBertModel):
        super().__init__()
        self.model = model
        self.tasks = [task for task, settings in model.config.tasks.items() if settings["type"] in PAIR_TYPES]

    def forward(self, u: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.model.pair_logits(task, u, v) for task in self.tasks)


def export(model_name_or_path: str, output: Path, *, int8: bool = False) -> None:
    """
    Exports a checkpoint to ONNX, with config and tokenizer, in a new folder.

    Args:
        model_name_or_path (`str`): The checkpoint: a folder or a Hub id.
        output (`Path`): The folder to create.
        int8 (`bool`, *optional*, defaults to `False`): Whether to quantize the weights of matrix products and
            embeddings (onnxruntime's dynamic quantization).

    Raises:
        `ValueError`: if the output already exists, or the model is not an mtsbert checkpoint, or its graph does not
            answer as the model does: it is compared for several numbers and lengths of texts.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        import_extra(package, extra="onnx")
    with new_folder(output) as folder:
        pipeline = load_pipeline(model_name_or_path)
        model = pipeline.model.to("cpu", torch.float32)
        model.config.save_pretrained(folder)
        pipeline.tokenizer.model_max_length = pipeline.max_length  # which the graph does not say
        pipeline.tokenizer.save_pretrained(folder)
        texts = TextGraph(model).eval()
        ids = torch.full((2, 7), pipeline.tokenizer.pad_token_id or 0)
        _write(
            texts,
            {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
            {0: "batch", 1: "sequence"},
            [EMBEDDING, *(LOGITS + task for task in texts.tasks)],
            folder / TEXTS_FILE,
        )
        _check_texts(texts, folder / TEXTS_FILE, pipeline)
        if int8:
            _quantize(folder / TEXTS_FILE)
        pairs = PairGraph(model).eval()
        if pairs.tasks:
            u, v = torch.rand(2, 2, model.config.embedding_size)
            names = [LOGITS + task for task in pairs.tasks]
            _write(pairs, {"u": u, "v": v}, {0: "batch"}, names, folder / PAIRS_FILE)
            both = [torch.rand(2, number, model.config.embedding_size) for number in (1, 3)]
            _check(pairs, folder / PAIRS_FILE, [{"u": u, "v": v} for u, v in both])


def export_encoder(model_name_or_path: str, output: Path) -> None:
    """
    Saves the plain encoder with its tokenizer and pooling to a new folder, without heads and without custom code.
    `SentenceTransformer`, text-embeddings-inference and converters can load it.

    Raises:
        `ValueError`: if the output already exists, or the model is not an mtsbert checkpoint.
    """
    with new_folder(output) as folder:
        pipeline = load_pipeline(model_name_or_path)
        pipeline.model.encoder.save_pretrained(folder)
        pipeline.tokenizer.save_pretrained(folder)
        save_sentence_transformers_files(pipeline.model.config, folder)


def _write(
    graph: nn.Module, inputs: dict[str, torch.Tensor], axes: dict[int, str], output_names: list[str], path: Path
) -> None:
    # Without a warning, the older exporter (`dynamo=False`) writes a graph that is wrong for other lengths.
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


def _check_texts(texts: TextGraph, path: Path, pipeline: MTSBertPipeline) -> None:
    """Compares a graph with its model for texts of several lengths, alone and padded to the longest."""
    longest = min(pipeline.max_length, LONGEST_COMPARED)
    draw = torch.Generator().manual_seed(0)
    batches = []
    for lengths in ([1], [5], [longest], [3, longest, 9], [2] * 8):
        ids = torch.randint(len(pipeline.tokenizer), (len(lengths), max(lengths)), generator=draw)
        mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()
        batches.append({"input_ids": ids, "attention_mask": mask})
    _check(texts, path, batches)


def _check(graph: nn.Module, path: Path, batches: list[dict[str, torch.Tensor]]) -> None:
    """Raises `ValueError` if a graph that was written does not answer as its model does."""
    session = None
    for inputs in batches:
        shape = tuple(next(iter(inputs.values())).shape)
        with torch.inference_mode():
            expected = graph(**inputs)
        try:
            session = session or open_session(path)
            found = run_session(session, [output.name for output in session.get_outputs()], **inputs)
        except Exception as error:  # the errors of onnxruntime share no public base class
            raise ValueError(
                f"This model cannot be exported: its graph fails on inputs of shape {shape} ({error})."
            ) from None
        mask = inputs.get("attention_mask")
        for one, other in zip(expected, found.values(), strict=True):
            difference = (one - other).abs()
            if difference.dim() == 3 and mask is not None:  # the tags of padding mean nothing
                difference = difference * mask.unsqueeze(-1)
            if not difference.max() <= MOST_DIFFERENCE * one.abs().max().clamp(min=1.0):
                raise ValueError(
                    f"This model cannot be exported: for inputs of shape {shape}, its graph gives other numbers (by "
                    f"up to {difference.max():.2g})."
                )


def _quantize(path: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(path)
    del graph.graph.value_info[:]  # outdated once the quantizer transposes the weights
    whole = path.with_suffix(".fp32.onnx")
    onnx.save(graph, whole)
    quantize_dynamic(whole, path, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=QUANTIZED)
    whole.unlink()


def main(argv: list[str] | None = None, *, prog: str = "mtsbert export") -> None:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", required=True, help="mtsbert checkpoint: a folder or a Hub id.")
    parser.add_argument("--output", required=True, type=Path, help="Folder to create.")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--int8", action="store_true", help="Quantize the weights: a quarter of the size.")
    kind.add_argument(
        "--encoder",
        action="store_true",
        help="Instead of ONNX, save the plain encoder with its pooling, without heads. SentenceTransformer and other "
        "tools load it without trust_remote_code.",
    )
    args = parser.parse_args(argv)
    if args.encoder:
        export_encoder(args.model, args.output)
        sys.stdout.write(f"{args.output}: the encoder, its pooling and its tokenizer\n")
        return
    export(args.model, args.output, int8=args.int8)
    size = (args.output / TEXTS_FILE).stat().st_size / 1e6
    sys.stdout.write(f"{args.output}: {TEXTS_FILE} ({size:.1f} MB), config and tokenizer\n")
