"""Chooses the texts that people should label, and writes them with the model's answers for them to correct.

    mtsbert annotate --model runs/news --input texts.csv --output tasks.json --number 200

The texts of which the model is least sure and that are least like each other come first. `tasks.json` is imported into
a Label Studio project whose labelling interface is that of `tasks.xml`. What the project exports as JSON is a dataset:
`files: {train: export.json}` in a recipe, with a column for each task, called by its name.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np

from configuration_mtsbert import SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION
from mtsbert.annotation.label_studio import interface, task_of
from mtsbert.annotation.selection import choose, doubt_of
from mtsbert.data.sources import TEXT
from mtsbert.exports.pipeline import load_pipeline
from mtsbert.formats.files import stream_rows
from mtsbert.machine import add_precision_option, autocast
from mtsbert.results.unfinished import check_is_new, check_new_file, write_json


LABEL_STUDIO = "label-studio"
FORMATS = (LABEL_STUDIO,)


def annotate(
    model: str, rows: list[dict], output: Path, *, number: int, tasks: list[str] | None = None, precision: str = "auto"
) -> int:
    """
    Writes tasks of Label Studio and, beside them, the labelling interface.

    Args:
        model (`str`): A checkpoint: a folder or a Hub id.
        rows (`list[dict]`): Rows with `text`; other columns are kept, as `given_TASK` if they are called like a task.
            The same text is chosen once.
        output (`Path`): The file, `.json`.
        number (`int`): How many texts to choose.
        tasks (`list[str]`, *optional*): The tasks to label. Default: all on single texts.
        precision (`str`, *optional*, defaults to `"auto"`): Precision of the model.

    Returns:
        `int`: How many texts were written.

    Raises:
        `ValueError`: if the model has no such tasks, or no row a text.
    """
    pipeline = load_pipeline(model)
    known = pipeline.model.config.select_tasks(tasks)
    asked = {
        name: task for name, task in known.items() if task["type"] in (SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION)
    }
    if not asked or (tasks and set(tasks) - set(asked)):
        raise ValueError(f"Tasks on single texts are labelled here; {sorted(set(known) - set(asked))} are none.")
    rows = [row for row in rows if isinstance(row.get(TEXT), str) and row[TEXT].strip()]
    rows = [_plain(row, set(asked)) for row in {row[TEXT]: row for row in rows}.values()]
    if not rows:
        raise ValueError(f"No row has a text in the column {TEXT!r}.")
    texts = [row[TEXT] for row in rows]
    with autocast(pipeline.device, precision):
        answers = pipeline(texts, tasks=list(asked), threshold=0.0, return_embeddings="numpy")
    doubts = np.array([doubt_of(asked, answer) for answer in answers])
    embeddings = np.stack([answer["embedding"] for answer in answers])
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    chosen = choose(doubts, embeddings, number)
    with autocast(pipeline.device, precision):  # again, as the thresholds of the checkpoint would have it
        sure = pipeline([texts[row] for row in chosen], tasks=list(asked), return_embeddings=False)
    written = [
        task_of(rows[row], answer, asked, model=Path(model).name, doubt=float(doubts[row]))
        for row, answer in zip(chosen, sure, strict=True)
    ]
    write_json(output, written)
    output.with_suffix(".xml").write_text(interface(asked), encoding="utf-8")
    return len(written)


def _plain(row: dict, tasks: set[str]) -> dict:
    """A row as JSON can hold it. A column that is called like a task would be taken for its labels; it is renamed."""
    plain = {}
    for column, value in row.items():
        if isinstance(value, float) and not math.isfinite(value):
            value = None
        is_json = isinstance(value, str | int | float | bool | None)
        name = column
        while name in tasks or (name != column and name in row):  # an earlier export has `given_topic` already
            name = f"given_{name}"
        plain[name] = value if is_json else str(value)
    return plain


def main(argv: list[str] | None = None, *, prog: str = "mtsbert annotate") -> None:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", required=True, help="mtsbert checkpoint: a folder or a Hub id.")
    parser.add_argument(
        "--input", required=True, type=Path, help="File with a column text: .csv, .tsv, .jsonl, .parquet, or .txt."
    )
    parser.add_argument("--output", required=True, type=Path, help="File to write, .json.")
    parser.add_argument("--number", type=int, default=200, help="How many texts to choose. Default: %(default)s")
    parser.add_argument("--tasks", nargs="+", help="The tasks to label. Default: all on single texts.")
    parser.add_argument("--format", choices=FORMATS, default=LABEL_STUDIO, help="Default: %(default)s")
    add_precision_option(parser)
    args = parser.parse_args(argv)
    if args.number < 1:
        raise ValueError(f"--number is {args.number}; it must be at least 1.")
    if args.output.suffix != ".json":
        raise ValueError(f"--output {args.output}: Label Studio imports .json.")
    if not args.input.is_file():
        raise ValueError(f"{args.input}: no such file.")
    check_new_file(args.output)
    check_is_new(args.output.with_suffix(".xml"))
    rows = list(stream_rows(args.input))
    written = annotate(args.model, rows, args.output, number=args.number, tasks=args.tasks, precision=args.precision)
    sys.stdout.write(
        f"{args.output}: {written:,} of {len(rows):,} texts, those first that should teach the model most. The "
        f"labelling interface is in {args.output.with_suffix('.xml')}.\n"
    )
