"""Changes the tasks of a checkpoint, or the size of its embedding, without training, and saves it to a new folder.

    mtsbert edit --model runs/news --output runs/renamed --rename_labels topic Sci/Tech=Science --drop_task mood
    mtsbert edit --model runs/news --output runs/more --add_task mood '{"type": "sequence_classification", ...}'

Changes are applied in the order in which they are given. The head of a new task is randomly initialized: train it
with `mtsbert train --model_name_or_path`.
"""

import argparse
import shutil
import sys
from pathlib import Path

from modeling_mtsbert import MTSBertModel
from mtsbert.network.starting_point import pipeline_of_checkpoint
from mtsbert.results.model_card import CARD_FILE
from mtsbert.results.tables import escape
from mtsbert.results.unfinished import new_folder
from mtsbert.settings import parse_mapping


def edit(model_name_or_path: str, output: Path, edits: list[tuple[str, list[str]]]) -> list[str]:
    """
    Applies changes to the tasks of a checkpoint and saves the result to a new folder.

    Args:
        model_name_or_path (`str`): The checkpoint: a folder or a Hub id.
        output (`Path`): The folder to create.
        edits (`list[tuple[str, list[str]]]`): For each change, the name of a method of [`MTSBertModel`] (`add_task`,
            `drop_task`, `rename_task`, `rename_labels`) or `embedding_size`, and its arguments as in the command.

    Returns:
        `list[str]`: A description of each change.

    Raises:
        `ValueError`: if the output already exists, the model is not an mtsbert checkpoint, or a change is not
            possible. Nothing is written in that case.
    """
    with new_folder(output) as folder:
        pipeline = pipeline_of_checkpoint(model_name_or_path, merges=True)
        changes = [_apply(pipeline.model, kind, words) for kind, words in edits]
        pipeline.model.save_pretrained(folder)
        pipeline.tokenizer.save_pretrained(folder)
        _write_card(Path(model_name_or_path) / CARD_FILE, folder / CARD_FILE, model_name_or_path, changes)
    return changes


def _apply(model: MTSBertModel, kind: str, words: list[str]) -> str:
    if kind == "add_task":
        name, settings = words
        model.add_task(name, parse_mapping(settings, "add_task") if settings.lstrip().startswith("{") else settings)
        return f"task {name!r} is new, and its head is not trained"
    if kind == "drop_task":
        model.drop_task(*words)
        return f"task {words[0]!r} is gone"
    if kind == "rename_task":
        model.rename_task(*words)
        return f"task {words[0]!r} is called {words[1]!r} now"
    if kind == "embedding_size":
        if not words[0].isdecimal():
            raise ValueError(f"--embedding_size {words[0]!r} is not a whole number.")
        return _cut_embedding(model, int(words[0]))
    task, *pairs = words
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise ValueError(f"--rename_labels {wrong[0]!r}: write OLD=NEW, such as Sci/Tech=Science.")
    if not pairs:
        raise ValueError(f"--rename_labels {task}: name the labels as well, OLD=NEW.")
    renamed = dict(pair.split("=", 1) for pair in pairs)
    model.rename_labels(task, renamed)
    return f"labels of task {task!r} are called otherwise: " + ", ".join(f"{a} → {b}" for a, b in renamed.items())


def _cut_embedding(model: MTSBertModel, size: int) -> str:
    """Cuts the embedding, and with it the heads on pairs: their scores change, so what was fitted to them goes."""
    before = model.config.tasks
    model.set_embedding_size(size)
    gone = {
        task: [key for key in settings if key not in model.config.tasks[task]] for task, settings in before.items()
    }
    dropped = ", ".join(f"{' and '.join(keys)} of task {task!r}" for task, keys in gone.items() if keys)
    told = f"the sentence embedding has {size} numbers"
    return f"{told}, and what was fitted to the scores of the whole one is gone: {dropped}" if dropped else told


def _write_card(old: Path, new: Path, name: str, changes: list[str]) -> None:
    """Copies the model card of the old checkpoint, if it has one, and appends the changes."""
    if old.is_file():
        shutil.copy(old, new)
    lines = "\n".join(f"- {escape(change)}" for change in changes)
    with new.open("a", encoding="utf-8") as card:
        card.write(
            f"\n## Edited\n\nThis checkpoint was made from {escape(Path(name).name)} by `mtsbert edit`, without "
            f"training. What is said above is of that one. Since then:\n\n{lines}\n"
        )


class _Edit(argparse.Action):
    """Collects the changes in the order of the command line."""

    def __call__(self, parser, namespace, values, option_string=None):
        words = [values] if isinstance(values, str) else values
        namespace.edits = [*(namespace.edits or []), (self.option_strings[0].removeprefix("--"), words)]


def main(argv: list[str] | None = None, *, prog: str = "mtsbert edit") -> None:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", required=True, help="mtsbert checkpoint: a folder or a Hub id.")
    parser.add_argument("--output", required=True, type=Path, help="Folder to create.")
    options = {"action": _Edit, "dest": "edits", "default": None}
    parser.add_argument(
        "--add_task",
        nargs=2,
        metavar=("NAME", "SETTINGS"),
        help="Add a task with a new, untrained head. Its settings are JSON, as in a recipe.",
        **options,
    )
    parser.add_argument("--drop_task", metavar="NAME", help="Remove a task and its head.", **options)
    parser.add_argument("--rename_task", nargs=2, metavar=("OLD", "NEW"), help="Rename a task.", **options)
    parser.add_argument(
        "--rename_labels",
        nargs="+",
        metavar=("TASK", "OLD=NEW"),
        help="Rename labels of a task; for a token task, its entity types.",
        **options,
    )
    parser.add_argument(
        "--embedding_size", metavar="SIZE", help="Cut the sentence embedding to its first numbers.", **options
    )
    args = parser.parse_args(argv)
    if not args.edits:
        raise ValueError("Name a change: --add_task, --drop_task, --rename_task, --rename_labels or --embedding_size.")
    changes = edit(args.model, args.output, args.edits)
    sys.stdout.write(f"{args.output}: " + "; ".join(changes) + "\n")
