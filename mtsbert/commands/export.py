"""Exports a checkpoint to ONNX or OpenVINO, as one graph with all outputs for any batch size and length.

    mtsbert export --model runs/quickstart --output exports/onnx [--int8]
    mtsbert export --model runs/quickstart --output exports/openvino --format openvino [--int8 --calibration texts.csv]
    mtsbert export --model runs/quickstart --output exports/page --format web --int8
    mtsbert export --model runs/quickstart --output exports/encoder --encoder

`mtsbert.load_pipeline(folder)` opens the exported model like a checkpoint, and so does `mtsbert predict --model`. ONNX
and the page need the packages of requirements-onnx.txt, and OpenVINO those of requirements-openvino.txt. To export the
page, npm must be installed, which brings onnxruntime-web. Any file server shows it, as `python -m http.server` in its
folder.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from mtsbert.data.sources import TEXT
from mtsbert.exports import onnx, openvino, web
from mtsbert.exports.graphs import PairGraph, TextGraph, check_pairs, check_texts, make_exportable
from mtsbert.formats.files import stream_rows
from mtsbert.network.starting_point import pipeline_of_checkpoint
from mtsbert.results.unfinished import new_folder
from mtsbert.settings import import_extra
from pipeline_mtsbert import MTSBertPipeline, save_sentence_transformers_files


ONNX, OPENVINO, WEB = "onnx", "openvino", "web"
FILES = {ONNX: onnx.TEXTS_FILE, OPENVINO: openvino.TEXTS_FILE, WEB: onnx.TEXTS_FILE}
MOST_CALIBRATED = 300  # texts, as NNCF takes by default


def export_onnx(model_name_or_path: str, output: Path, *, int8: bool = False) -> None:
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
    _import_onnx()
    with _new_export(model_name_or_path, output) as (folder, pipeline):
        _write_onnx(pipeline, folder, int8=int8)


def export_web(model_name_or_path: str, output: Path, *, int8: bool = False) -> None:
    """
    Exports a checkpoint to a new folder that any file server serves as a page: ONNX, the tokenizer, and
    onnxruntime-web, which npm brings. Texts do not leave the browser. [`load_pipeline`] opens the folder as well.

    Args:
        model_name_or_path, output, int8: As for [`export_onnx`].

    Raises:
        `ValueError`: as [`export_onnx`]; if the runtime cannot be had, or the tokenizer is not of BERT's kind.
    """
    _import_onnx()
    with _new_export(model_name_or_path, output) as (folder, pipeline):
        settings, runtime = web.page_settings(pipeline), web.fetch_runtime()  # before the graphs, which take long
        _write_onnx(pipeline, folder, int8=int8)
        web.write_page(settings, folder, runtime)


def _import_onnx() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        import_extra(package, extra=onnx.EXTRA)


def _write_onnx(pipeline: MTSBertPipeline, folder: Path, *, int8: bool) -> None:
    texts, pairs = TextGraph(pipeline.model), PairGraph(pipeline.model)
    graphs = onnx.OnnxGraphs(folder)
    onnx.write_graph(texts, texts.example_inputs(pipeline.tokenizer.pad_token_id or 0), folder / onnx.TEXTS_FILE)
    check_texts(texts, partial(graphs.texts, texts.output_names), pipeline)
    if int8:
        onnx.quantize(folder / onnx.TEXTS_FILE)
    if pairs.tasks:
        onnx.write_graph(pairs, pairs.example_inputs(), folder / onnx.PAIRS_FILE)
        check_pairs(pairs, partial(graphs.pairs, pairs.output_names))


def export_openvino(model_name_or_path: str, output: Path, *, calibration: list[str] | None = None) -> None:
    """
    Exports a checkpoint to OpenVINO, with config and tokenizer, in a new folder.

    Args:
        model_name_or_path (`str`): The checkpoint: a folder or a Hub id.
        output (`Path`): The folder to create.
        calibration (`list[str]`, *optional*): Typical texts. If given, weights and activations are quantized to int8,
            with the ranges that activations have on these texts.

    Raises:
        `ValueError`: as [`export_onnx`].
    """
    openvino.import_openvino()
    if calibration is not None:
        import_extra("nncf", extra=openvino.EXTRA)
    with _new_export(model_name_or_path, output) as (folder, pipeline):
        of_texts, of_pairs = openvino.converted(pipeline)
        if calibration is not None:
            windows = [pipeline.preprocess([text])[0]["inputs"] for text in calibration]
            inputs = ("input_ids", "attention_mask")
            batches = [{name: torch.tensor([window[name]]) for name in inputs} for window in windows]
            of_texts = openvino.quantize(of_texts, batches)
        openvino.write(of_texts, folder / openvino.TEXTS_FILE)
        if of_pairs is not None:
            openvino.write(of_pairs, folder / openvino.PAIRS_FILE)


@contextmanager
def _new_export(model_name_or_path: str, output: Path) -> Iterator[tuple[Path, MTSBertPipeline]]:
    """A new folder with config and tokenizer in it, and the checkpoint's pipeline in fp32 on the CPU."""
    with new_folder(output) as folder:
        pipeline = pipeline_of_checkpoint(model_name_or_path, merges=True)
        make_exportable(pipeline)
        pipeline.model.config.save_pretrained(folder)
        pipeline.tokenizer.save_pretrained(folder)
        yield folder, pipeline


def calibration_texts(path: Path, column: str = TEXT) -> list[str]:
    """
    Reads the texts that the ranges of activations are taken from, spread evenly over a file.

    Raises:
        `ValueError`: if the file has no such column, or no texts.
    """
    texts = []
    for number, row in enumerate(stream_rows(path), start=1):
        if column not in row:
            raise ValueError(
                f"Row {number} of {path} has no column {column!r}, only {list(row)}. Name it with --text_column."
            )
        if isinstance(row[column], str) and row[column].strip():
            texts.append(row[column])
    if not texts:
        raise ValueError(
            f"{path} has no texts in its column {column!r}, and int8 needs some for the ranges of activations."
        )
    number = min(MOST_CALIBRATED, len(texts))
    return [texts[place * len(texts) // number] for place in range(number)]


def export_encoder(model_name_or_path: str, output: Path) -> None:
    """
    Saves the plain encoder with its tokenizer and pooling to a new folder, without heads and without custom code.
    `SentenceTransformer`, text-embeddings-inference and converters can load it.

    Raises:
        `ValueError`: if the output already exists, or the model is not an mtsbert checkpoint.
    """
    with new_folder(output) as folder:
        pipeline = pipeline_of_checkpoint(model_name_or_path, merges=True)
        pipeline.model.encoder.save_pretrained(folder)
        pipeline.tokenizer.save_pretrained(folder)
        save_sentence_transformers_files(pipeline.model.config, folder)


def main(argv: list[str] | None = None, *, prog: str = "mtsbert export") -> None:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", required=True, help="mtsbert checkpoint: a folder or a Hub id.")
    parser.add_argument("--output", required=True, type=Path, help="Folder to create.")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--format",
        choices=list(FILES),
        help="The runtime: onnx (onnxruntime), openvino, which is faster on most CPUs, or web: a page that answers in "
        "a browser. Default: onnx.",
    )
    kind.add_argument(
        "--encoder",
        action="store_true",
        help="Instead of a graph, save the plain encoder with its pooling, without heads. SentenceTransformer and "
        "other tools load it without trust_remote_code.",
    )
    parser.add_argument("--int8", action="store_true", help="Quantize to 8 bits: a quarter of the size, and faster.")
    parser.add_argument(
        "--calibration",
        type=Path,
        help="For int8 with OpenVINO: a file with typical texts (.txt, .csv, .tsv, .jsonl or .parquet), from which "
        "the ranges of activations are taken. Some hundred texts are enough.",
    )
    parser.add_argument("--text_column", help=f"Column of --calibration. Default: {TEXT}")
    args = parser.parse_args(argv)
    kind_of_graph = args.format or ONNX
    if args.encoder and args.int8:
        raise ValueError("--int8 quantizes a graph, and --encoder saves the plain encoder; drop one.")
    if (args.calibration is not None) != (args.int8 and kind_of_graph == OPENVINO):
        raise ValueError("--calibration goes with `--format openvino --int8`, which needs it; onnx takes none.")
    if args.text_column is not None and args.calibration is None:
        raise ValueError("--text_column names a column of --calibration; give that as well.")
    if args.encoder:
        export_encoder(args.model, args.output)
        sys.stdout.write(f"{args.output}: the encoder, its pooling and its tokenizer\n")
        return
    if kind_of_graph == ONNX:
        export_onnx(args.model, args.output, int8=args.int8)
    elif kind_of_graph == WEB:
        export_web(args.model, args.output, int8=args.int8)
    else:
        column = args.text_column or TEXT
        texts = None if args.calibration is None else calibration_texts(args.calibration, column)
        export_openvino(args.model, args.output, calibration=texts)
    size = sum(file.stat().st_size for file in args.output.glob(f"{Path(FILES[kind_of_graph]).stem}.*")) / 1e6
    sys.stdout.write(f"{args.output}: {FILES[kind_of_graph]} ({size:.1f} MB), config and tokenizer\n")
