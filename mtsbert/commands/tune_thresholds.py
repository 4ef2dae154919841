"""Sets how sure a checkpoint must be to answer: for each label the score from which enough of its answers are right.

    mtsbert tune-thresholds --model runs/news --data held_out.csv --target precision=0.95
    mtsbert tune-thresholds --model runs/news --data data/ag_news --columns text=text label=topic --target f1

Use texts that the model was not trained on. The thresholds are written into the checkpoint's `config.json`, and the
pipeline, `mtsbert predict`, ONNX, and spaCy's entities follow them: an answer that is less sure is left out, or its
label is null. `--output` writes what is expected of them as JSON as well.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

from mtsbert.calibration.thresholds import Threshold, answers_by_label, choose, parse_target, tunable
from mtsbert.data.gold import parse_map
from mtsbert.data.loading import load_data
from mtsbert.data.sources import TEXT_PAIR
from mtsbert.input_arguments import SKIP
from mtsbert.machine import add_precision_option, autocast
from mtsbert.network.starting_point import pipeline_of_checkpoint
from mtsbert.results.tables import markdown_table
from mtsbert.results.unfinished import check_can_write, check_new_file, write_json


CONFIG_FILE = "config.json"
VALIDATION = "validation"

logger = logging.getLogger(__name__)


def tune(
    folder: Path,
    data: str,
    *,
    precision: float | None,
    columns: dict[str, str] | None = None,
    split: str = VALIDATION,
    tasks: list[str] | None = None,
    number_format: str = "auto",
    report: Path | None = None,
) -> dict[str, dict[str, Threshold]]:
    """
    Tunes the thresholds of a checkpoint and writes them into its config.

    Args:
        folder (`Path`): The checkpoint.
        data (`str`): Labelled texts: a file, a folder or a Hub id. Rows that cannot be used, such as those with a
            label that the model does not have, are left out with a warning.
        precision (`float`, *optional*): The share of answers that shall be right. Default: the highest F1.
        columns (`dict[str, str]`, *optional*): Column → `text`, `text_pair` or a task. Default: by these names.
        split (`str`, *optional*, defaults to `"validation"`): The split of a folder or Hub id to read.
        tasks (`list[str]`, *optional*): The tasks to tune. Default: all that have labels there.
        number_format (`str`, *optional*, defaults to `"auto"`): `"fp32"`, `"bf16"`, or what the machine computes fast.

        report (`Path`, *optional*): New JSON file for the result as well.

    Returns:
        Task → label, or entity type → [`Threshold`]. Labels that no answer names have none, and lose the one that they
        had.

    Raises:
        `ValueError`: if model or data cannot be used. The config stays as it was in that case.
    """
    if report is not None:
        check_new_file(report)
    if not (folder / CONFIG_FILE).is_file():
        raise ValueError(f"{folder} is no folder of a checkpoint; thresholds are written into its {CONFIG_FILE}.")
    check_can_write(folder / CONFIG_FILE)
    pipeline = pipeline_of_checkpoint(str(folder))
    config = pipeline.model.config
    spec = {"files": {VALIDATION: data}} if Path(data).is_file() else {"path": data, "splits": {VALIDATION: split}}
    if columns:
        spec["columns"] = columns
    how = {"checkpoint_tasks": config.tasks, "bad_rows": SKIP}
    read = load_data({"data": spec}, {}, splits=[VALIDATION], **how)
    if read.skipped:  # such as those with a label that the model does not have
        logger.warning(f"{len(read.skipped):,} rows of {data} are left out. The first: {read.skipped[0].reason}")
    examples = read.examples[VALIDATION]
    with_pairs = any(text is not None for text in examples[TEXT_PAIR])
    asked = tunable(config.select_tasks(tasks), with_pairs=with_pairs)
    if left := sorted(set(tasks or ()) - set(asked)):
        raise ValueError(f"{left} have no thresholds here: a cosine has none, and other tasks on pairs need pairs.")
    if not asked:
        types = ", ".join(f"{name} ({task['type']})" for name, task in config.tasks.items())
        raise ValueError(
            f"No task of {folder} has thresholds here: numbers and cosines have none, and other tasks on pairs need "
            f"pairs. Its tasks are {types}."
        )
    with autocast(pipeline.device, number_format):
        answers = pipeline(list(read.texts(VALIDATION)), tasks=list(asked), threshold=0.0, return_embeddings=False)
    found = {}
    for task, by_label in answers_by_label(asked, examples, answers).items():
        chosen = {label: choose(scored, precision) for label, scored in sorted(by_label.items())}
        found[task] = {label: threshold for label, threshold in chosen.items() if threshold is not None}
    if not any(found.values()):
        raise ValueError(f"{data} has no label of {list(asked)} that the model answers with.")
    _write(folder / CONFIG_FILE, found)
    if report is not None:
        write_json(report, {"data": data, "precision": precision, "thresholds": _as_json(found)})
    return found


def _write(path: Path, found: dict[str, dict[str, Threshold]]) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    for task, by_label in found.items():
        if by_label:
            settings = config["tasks"][task]
            settings["thresholds"] = {label: one.value for label, one in by_label.items()}
    write_json(path, config)


def _as_json(found: dict[str, dict[str, Threshold]]) -> dict:
    return {
        task: {
            label: {
                "threshold": one.value,
                "answers": one.num_answers,
                "precision": one.precision,
                "recall": one.recall,
                "reached": one.is_reached,
            }
            for label, one in by_label.items()
        }
        for task, by_label in found.items()
    }


def describe(found: dict[str, dict[str, Threshold]]) -> str:
    """A Markdown table of what is expected of the thresholds."""
    cells = [["task", "label", "threshold", "answers", "precision (95 %)", "recall (95 %)"]]
    for task, by_label in found.items():
        for label, one in by_label.items():
            shares = ["{:.3f} ({:.3f} to {:.3f})".format(*values) for values in (one.precision, one.recall)]
            shares[0] += "" if one.is_reached else ", not reached"
            # All digits: 0.99998 is no 1, which means never.
            cells.append([task, label, str(one.value), f"{one.num_answers:,}", *shares])
    return markdown_table(cells)


def main(argv: list[str] | None = None, *, prog: str = "mtsbert tune-thresholds") -> None:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", required=True, type=Path, help="Folder of the checkpoint whose config is changed.")
    parser.add_argument("--data", required=True, help="Labelled texts: a file, a prepared folder or a Hub id.")
    parser.add_argument(
        "--target",
        required=True,
        help="precision=SHARE: the lowest score from which this share of answers is right; f1: the highest F1.",
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="COLUMN=ROLE",
        help="What columns are: text, text_pair or a task. Default: columns of these names.",
    )
    parser.add_argument("--split", default=VALIDATION, help="Split of a folder or Hub id. Default: %(default)s")
    parser.add_argument("--tasks", nargs="+", help="The tasks to tune. Default: all with labels in the data.")
    parser.add_argument("--output", type=Path, help="JSON file for the thresholds and what is expected of them.")
    add_precision_option(parser)
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(levelname)s %(message)s")
    found = tune(
        args.model,
        args.data,
        precision=parse_target(args.target),
        columns=parse_map(args.columns, "--columns", "COLUMN=ROLE, such as label=topic"),
        split=args.split,
        tasks=args.tasks,
        number_format=args.precision,
        report=args.output,
    )
    sys.stdout.write(f"{describe(found)}\n\nWritten to {args.model / CONFIG_FILE}\n")
