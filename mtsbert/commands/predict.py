"""Predicts all tasks for the texts of a file or folder, with constant memory.

    mtsbert predict --model runs/quickstart --input texts.csv --output answers.jsonl

Reads .txt (one text per line), .csv and .tsv (with a header), .jsonl and .parquet, or a folder of such files. Writes
.jsonl or .parquet, with one row per text in the same order. If it is interrupted, run the same command to continue.
"""

import argparse
import copy
import hashlib
import json
import logging
import math
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from configuration_mtsbert import PAIR_TYPES, SCORE_TYPES, TOKEN_CLASSIFICATION
from mtsbert.data.sources import TEXT, TEXT_PAIR
from mtsbert.exports.openvino import is_installed
from mtsbert.exports.pipeline import ExportedPipeline, load_pipeline, on_openvino
from mtsbert.formats.files import DATASETS, STREAMS, stream_rows
from mtsbert.formats.folders import visible
from mtsbert.formats.options import AS_USUAL, FileOptions
from mtsbert.machine import add_precision_option, has_only_avx2, uses_bf16
from mtsbert.preparation import data_prep
from mtsbert.results.answers import ROWS_PER_CALL, Answerer, blocks_of
from mtsbert.results.unfinished import SUFFIX, Unfinished, check_is_new
from pipeline_mtsbert import MTSBertPipeline


workers = data_prep("ray_workers")
OUTPUT_SUFFIXES = (".jsonl", ".parquet")
AUTO, TORCH, OPENVINO = "auto", "torch", "openvino"
ROWS_TO_TELL = 100  # of a file, whether it has answers
WORTH_CONVERTING = 5_000  # texts: with more, OpenVINO saves more time than the conversion of the model takes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InputTexts:
    """The texts of one or several files, in order."""

    files: list[Path]
    text_column: str
    pair_column: str | None
    keep: tuple[str, ...]
    options: FileOptions = AS_USUAL

    @classmethod
    def of(
        cls,
        path: Path,
        text_column: str,
        pair_column: str | None,
        keep: Iterable[str],
        *,
        output: Path,
        options: FileOptions = AS_USUAL,
    ) -> "InputTexts":
        """
        Finds the texts of a file, or of all files in a folder except the output.

        Args:
            path (`Path`): A file or a folder.
            text_column (`str`): The column with the texts.
            pair_column (`str`, *optional*): The column with the second texts of pairs.
            keep (`Iterable[str]`): Columns to copy to the output.
            output (`Path`): The output file, which may be in the same folder.
            options ([`FileOptions`], *optional*): How the files are written, where their format leaves that open.
        """
        files = [path]
        if path.is_dir():
            found = sorted(
                file
                for file in visible(path, "**/*")
                if file.is_file() and file.resolve() != output.resolve() and not file.parent.name.endswith(SUFFIX)
            )
            files = [file for file in found if file.suffix in STREAMS]
            if left := [file for file in found if file.suffix not in STREAMS and _ends_like_data(file)]:
                logger.warning(
                    f"{len(left):,} files of {path} are not read, {left[0]} among them: texts are read from "
                    f"{', '.join(STREAMS)}."
                )
        if not files or not files[0].is_file():
            raise ValueError(f"{path}: no such file, nor a folder with {', '.join(STREAMS)} files in it.")
        return cls(files, text_column, pair_column, tuple(dict.fromkeys(keep)), options)

    def check(self, tasks: Collection[str]) -> int:
        """Reads all rows once, so that errors show before prediction starts. Returns the number of rows."""
        answered = [file for file in self.files if len(self.files) > 1 and _has_answers(file, self.options, tasks)]
        if 0 < len(answered) < len(self.files):
            raise ValueError(
                f"{answered[0]} has answers of this command, and would be read as texts beside {self.files[0]} and "
                "others. Write answers to another folder, or name a file as --input."
            )
        columns: set[str] = set()
        number = sum(1 for _ in self.rows(columns))
        if number and (missing := [column for column in self.keep if column not in columns]):
            raise ValueError(f"--keep {missing}: no row has such a column; the columns are {sorted(columns)}.")
        return number

    def rows(self, columns: set[str] | None = None) -> Iterator[dict]:
        """
        Yields each row as a dict with `text`, `text_pair` (if there is a pair column) and the columns to keep. A
        missing text becomes an empty string, and a missing second text `None`. If `columns` is given, the names of all
        columns are added to it, and the rows are checked for invalid characters and the files for the pair column.
        """
        for file in self.files:
            of_file: set[str] = set()
            for number, row in enumerate(stream_rows(file, self.options), start=1):
                if self.text_column not in row:
                    raise ValueError(
                        f"Row {number} of {file} has no column {self.text_column!r}, only {list(row)}. Name it with "
                        "--text_column, and the second text of a pair with --pair_column."
                    )
                answered = {column: _without_nan(row.get(column)) for column in self.keep}
                answered[TEXT] = _text(row, self.text_column, file, number) or ""
                if self.pair_column is not None:
                    answered[TEXT_PAIR] = _text(row, self.pair_column, file, number)
                if columns is not None:
                    of_file.update(row)
                    _check_characters(answered, file, number)
                yield answered
            if columns is not None:
                columns |= of_file
                if of_file and self.pair_column is not None and self.pair_column not in of_file:
                    raise ValueError(
                        f"--pair_column {self.pair_column}: no row of {file} has such a column; the columns are "
                        f"{sorted(of_file)}."
                    )


def _ends_like_data(file: Path) -> bool:
    return bool({suffix.lower() for suffix in file.suffixes} & {*STREAMS, *DATASETS})


def _has_answers(file: Path, options: FileOptions, tasks: Collection[str]) -> bool:
    """Whether the first rows of a file have scores where this command writes those of its tasks."""
    cells = (row.get(task) for row in islice(stream_rows(file, options), ROWS_TO_TELL) for task in tasks)
    parts = chain.from_iterable(cell if isinstance(cell, list) else [cell] for cell in cells)
    return any(isinstance(part, dict) and not {"score", "scores"}.isdisjoint(part) for part in parts)


def _text(row: dict, column: str, file: Path, number: int) -> str | None:
    text = row.get(column)
    if text is not None and not isinstance(text, str):
        raise ValueError(f"Row {number} of {file}: the column {column!r} holds {text!r}, which is no text.")
    return text


def _without_nan(value: Any) -> Any:
    """Replaces numbers that JSON does not have by None, as pandas writes them, also within lists and objects."""
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_characters(row: dict, file: Path, number: int) -> None:
    try:
        json.dumps(row, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"Row {number} of {file} holds half a character ({error}).") from None


def predict(
    pipeline: MTSBertPipeline,
    texts: InputTexts,
    output: Path,
    *,
    embeddings: bool = False,
    batch_size: int | None = None,
    use_bf16: bool = False,
    engine: str = workers.LOCAL,
    num_workers: int = 1,
    backend: str = AUTO,
) -> int:
    """
    Writes the predictions for all texts to a file, and returns the number of texts.

    Finished rows are kept in a folder next to `output` until the file is complete. A later call with the same model,
    input and options continues from there, with any engine.

    Args:
        pipeline ([`MTSBertPipeline`]): The model.
        texts (`InputTexts`): The texts.
        output (`Path`): The file to write, `.jsonl` or `.parquet`.
        embeddings (`bool`, *optional*, defaults to `False`): Whether to write the sentence embeddings as well.
        batch_size (`int`, *optional*): Texts per forward pass. Default: chosen for the machine.
        use_bf16 (`bool`, *optional*, defaults to `False`): Whether to run the model under bf16 autocast.
        engine (`str`, *optional*, defaults to `"local"`): `"local"` for this process, or `"ray"` for workers on a Ray
            cluster (see `data_prep/ray_workers.py`). The model is sent to the workers; files are read and written in
            this process.
        num_workers (`int`, *optional*, defaults to 1): The number of Ray workers. Each uses one thread and, if the
            cluster has any, one GPU.
        backend (`str`, *optional*, defaults to `"auto"`): What runs a checkpoint: `"torch"`, `"openvino"` (on the
            CPU; the checkpoint is converted first, in seconds), or `"auto"`, which takes OpenVINO if it is installed,
            there is no GPU, and there are many texts. An export runs on its own runtime.

    Raises:
        `ValueError`: before the first prediction, if the input cannot be read, the output already exists, or the
            cluster does not respond.
    """
    workers.check_engine(engine, num_workers, "--num_workers")
    if engine == workers.LOCAL and num_workers > 1:
        raise ValueError(f"--num_workers {num_workers} needs --engine ray; without it one process uses all cores.")
    if output.suffix not in OUTPUT_SUFFIXES:
        raise ValueError(f"{output}: answers are written as {' or '.join(OUTPUT_SUFFIXES)}.")
    check_is_new(output)
    tasks = pipeline.model.config.tasks
    if clashes := sorted({*texts.keep} & {TEXT, TEXT_PAIR, "embedding", "pair_embedding", *tasks}):
        raise ValueError(f"--keep {clashes}: the answers have columns of these names.")
    num_rows = texts.check(tasks)
    chosen = _choose_backend(backend, pipeline, num_rows, engine)
    converted = None
    if chosen == OPENVINO:
        try:
            converted = on_openvino(pipeline, precision="bf16" if use_bf16 else "fp32")
        except ValueError as error:
            if backend == OPENVINO:
                raise
            logger.warning(f"{error} Going on with torch.")
            chosen = TORCH
    unfinished = Unfinished(output, _description(pipeline, texts, embeddings, use_bf16, chosen))
    pipeline = converted or pipeline
    options = {"embeddings": embeddings, "batch_size": batch_size, "use_bf16": use_bf16}
    with _answering(pipeline, options, engine, num_workers) as answer, unfinished.opened() as done:
        with (
            unfinished.lines.open("a", encoding="utf-8") as lines,
            tqdm(total=num_rows, initial=done, desc="Predicting", unit="text") as progress,
        ):
            for answered in answer(blocks_of(islice(texts.rows(), done, None))):
                lines.writelines(answered)
                progress.update(len(answered))
        finished = unfinished.lines
        if output.suffix == ".parquet":
            finished = unfinished.folder / "answers.parquet"
            _write_parquet(unfinished.lines, finished, _schema(tasks, texts, embeddings), texts.keep)
        unfinished.finish(finished)
    return num_rows


def _choose_backend(backend: str, pipeline: MTSBertPipeline, num_rows: int, engine: str) -> str:
    """Turns `"auto"` into what is fastest here. Raises `ValueError` for a backend that cannot run the model."""
    if isinstance(pipeline, ExportedPipeline):
        if engine != workers.LOCAL:
            raise ValueError(f"--engine {engine} sends a checkpoint to its workers; name one instead of an export.")
        if backend != AUTO:
            raise ValueError(f"--backend {backend} is for checkpoints; an export runs on its own runtime.")
        return AUTO
    if backend == OPENVINO and engine != workers.LOCAL:
        raise ValueError(f"--backend openvino runs in this process; drop --engine {engine}.")
    if backend != AUTO:
        return backend
    is_worth_it = num_rows >= WORTH_CONVERTING and pipeline.device.type == "cpu" and engine == workers.LOCAL
    chosen = OPENVINO if is_worth_it and not has_only_avx2() and is_installed() else TORCH
    logger.info(f"Backend: {chosen} ({num_rows:,} texts; --backend decides otherwise).")
    return chosen


@contextmanager
def _answering(
    pipeline: MTSBertPipeline, options: dict, engine: str, num_workers: int
) -> Iterator[Callable[[Iterable[list[dict]]], Iterator[list[str]]]]:
    """Yields a function from blocks of rows to blocks of output lines, which runs in this process or on Ray."""
    if engine == workers.LOCAL:
        yield partial(map, Answerer(pipeline, **options))
        return
    load = partial(Answerer.load, copy.deepcopy(pipeline.model).cpu(), pipeline.tokenizer, **options)
    with workers.ray_workers(load, num_workers, use_gpu=True) as answer:
        yield answer


def _description(pipeline: MTSBertPipeline, texts: InputTexts, embeddings: bool, use_bf16: bool, backend: str) -> dict:
    """Describes the model, input files and options that determine the predictions."""
    weights = hashlib.sha256(pipeline.model.config.to_json_string().encode())
    if isinstance(pipeline, ExportedPipeline):
        for file in pipeline.model.graphs.files:
            weights.update(file.read_bytes())
    else:
        for weight in pipeline.model.state_dict().values():
            weights.update(weight.cpu().contiguous().flatten().view(torch.uint8).numpy())
    files = [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in texts.files]
    columns = [texts.text_column, texts.pair_column, list(texts.keep)]
    options = [*columns, embeddings, use_bf16, repr(texts.options), backend]
    return {"model": weights.hexdigest(), "files": files, "options": options}


def _write_parquet(lines_file: Path, path: Path, schema: pa.Schema, keep: tuple[str, ...]) -> None:
    """Kept columns become text, whatever they were."""
    with lines_file.open(encoding="utf-8") as lines, pq.ParquetWriter(path, schema) as writer:
        while chunk := [json.loads(line) for line in islice(lines, ROWS_PER_CALL)]:
            for row, column in product(chunk, keep):
                if row[column] is not None and not isinstance(row[column], str):
                    row[column] = json.dumps(row[column], ensure_ascii=False)
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))


def _schema(tasks: dict[str, dict], texts: InputTexts, embeddings: bool) -> pa.Schema:
    fields = [(column, pa.string()) for column in [*texts.keep, TEXT]]
    if texts.pair_column is not None:
        fields.append((TEXT_PAIR, pa.string()))
    if embeddings:
        names = ["embedding"] + (["pair_embedding"] if texts.pair_column is not None else [])
        fields += [(name, pa.list_(pa.float32())) for name in names]
    for task, settings in tasks.items():
        if settings["type"] not in PAIR_TYPES or texts.pair_column is not None:
            fields.append((task, _answer_type(settings)))
    return pa.schema(fields)


def _answer_type(settings: dict) -> pa.DataType:
    number, text = pa.float64(), pa.string()
    if settings["type"] in SCORE_TYPES:
        return pa.struct([("score", number)])
    if settings["type"] == TOKEN_CLASSIFICATION:
        place = [("start", pa.int64()), ("end", pa.int64())]
        return pa.list_(pa.struct([("label", text), *place, ("text", text), ("score", number)]))
    scores = ("scores", pa.struct([(label, number) for label in settings["labels"]]))
    if settings.get("multi_label"):
        return pa.struct([("labels", pa.list_(text)), scores])
    return pa.struct([("label", text), ("score", number), scores])


def main(argv: list[str] | None = None, *, prog: str = "mtsbert predict") -> None:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--model", required=True, help="mtsbert checkpoint: a folder or a Hub id; or an export's folder."
    )
    parser.add_argument("--revision", help="Branch, tag or commit of a Hub id.")
    parser.add_argument("--input", required=True, type=Path, help="File, or folder of files, with the texts.")
    parser.add_argument("--output", required=True, type=Path, help="File to write: .jsonl or .parquet.")
    parser.add_argument("--text_column", default=TEXT, help="Input column with the texts. Default: %(default)s")
    parser.add_argument(
        "--pair_column",
        help="Input column with the second texts, for tasks about pairs; where it is empty, a text is answered alone.",
    )
    parser.add_argument("--keep", nargs="+", default=[], metavar="COLUMN", help="Input columns to copy to the output.")
    parser.add_argument(
        "--quoting",
        action="store_true",
        help="Cells of .tsv files are in quotation marks where they need it, as in CSV.",
    )
    parser.add_argument("--embeddings", action="store_true", help="Also write the sentence embeddings.")
    parser.add_argument("--batch_size", type=int, help="Texts per forward pass. Default: chosen for the machine")
    add_precision_option(parser)
    parser.add_argument(
        "--backend",
        choices=(AUTO, TORCH, OPENVINO),
        default=AUTO,
        help="What runs a checkpoint on a CPU: openvino converts it first, which takes some seconds, and is then "
        "faster on a CPU with AVX-512 (extra 'openvino'). auto takes it there if it is installed and there are at "
        f"least {WORTH_CONVERTING:,} texts. Default: %(default)s",
    )
    parser.add_argument(
        "--engine",
        choices=workers.ENGINES,
        default=workers.LOCAL,
        help="Where the model runs: local is this process; ray is a set of workers on the Ray cluster at RAY_ADDRESS "
        "(if it is not set, on this machine), which are restarted if they die. Default: %(default)s",
    )
    parser.add_argument(
        "--num_workers",
        type=int,
        default=1,
        help="Number of workers for --engine ray, with one core or one GPU each. Default: %(default)s",
    )
    args = parser.parse_args(argv)
    if args.batch_size is not None and args.batch_size < 1:
        raise ValueError(f"--batch_size is {args.batch_size}; it must be at least 1.")
    options = FileOptions(quoting=True) if args.quoting else AS_USUAL
    columns = (args.text_column, args.pair_column, args.keep)
    texts = InputTexts.of(args.input, *columns, output=args.output, options=options)
    pipeline = load_pipeline(args.model, revision=args.revision, precision=args.precision)
    device = torch.device("cpu") if args.backend == OPENVINO else pipeline.device
    try:
        number = predict(
            pipeline,
            texts,
            args.output,
            embeddings=args.embeddings,
            batch_size=args.batch_size,
            use_bf16=uses_bf16(device, args.precision),
            engine=args.engine,
            num_workers=args.num_workers,
            backend=args.backend,
        )
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted: the same command goes on from here.\n")
        sys.exit(130)
    sys.stdout.write(f"{args.output}: {number:,} texts\n")
