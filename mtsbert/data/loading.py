"""From the recipe's data arguments to features per split: open, read, check, complete the labels, tokenize."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from mtsbert.arguments import SKIP, DataArguments, MTLTrainingArguments
from mtsbert.data.examples import read_examples
from mtsbert.data.features import TokenizationReport, build_features
from mtsbert.data.labels import check_recipe_tasks, complete_tasks, merge_tasks
from mtsbert.data.skipped_rows import SkippedRow
from mtsbert.data.sources import TEXT, TEXT_PAIR, open_datasets


logger = logging.getLogger(__name__)


@dataclass
class TaskData:
    tasks: dict[str, dict]
    """Task name → `{"type", "labels"}`, labels complete."""
    dataset_names: list[str]
    """The datasets that have training rows, in the order of their numbers in the features."""
    examples: dict[str, Dataset]
    """Split → what the rows say (see `data/examples.py`)."""
    features: dict[str, Dataset]
    """Split → what the model reads."""
    tokenization: dict[str, TokenizationReport]
    """Split → what was cut or could not be aligned."""
    skipped: list[SkippedRow] | None = None
    """Rows that were left out, in order; None where a row that cannot be used is an error."""

    def texts(self, split: str) -> Iterator[str | tuple[str, str]]:
        """The texts behind the features, in the same order; pairs as tuples."""
        for row in self.examples[split].select_columns([TEXT, TEXT_PAIR]):
            yield row[TEXT] if row[TEXT_PAIR] is None else (row[TEXT], row[TEXT_PAIR])

    def num_labelled(self, split: str, task: str) -> int:
        return num_labelled(self.examples[split], task)

    def has_labels(self, split: str) -> bool:
        return _any_label(self.examples[split], list(self.tasks))


def needed_splits(args: MTLTrainingArguments) -> list[str]:
    """The splits that a run with these flags reads."""
    needed = {
        "train": args.do_train,
        "validation": args.do_eval or (args.do_train and args.eval_strategy != "no"),
        "test": args.do_predict,
    }
    if not any(needed.values()):
        raise ValueError("Nothing to do: set `do_train`, `do_eval` or `do_predict`.")
    return [split for split, is_needed in needed.items() if is_needed]


def load_data(
    data_args: DataArguments,
    tokenizer: PreTrainedTokenizerBase,
    splits: list[str],
    checkpoint_tasks: dict[str, dict] | None = None,
) -> TaskData:
    """
    Reads and checks everything before the first training step.

    Args:
        splits: The splits to read; each must exist in some dataset.
        checkpoint_tasks: The tasks of the checkpoint that the run goes on from, see `merge_tasks`. One that no dataset
            feeds stays as it is.

    Raises:
        `ValueError`: naming dataset, split, row and column of whatever is wrong.
    """
    check_recipe_tasks(data_args.tasks)
    tasks = merge_tasks(data_args.tasks, checkpoint_tasks or {})
    if not tasks:
        raise ValueError("The recipe names no `tasks`.")
    skipped: list[SkippedRow] | None = [] if data_args.bad_rows == SKIP else None
    sources = open_datasets(
        data_args.datasets, tasks, must_be_fed=list(data_args.tasks), skip_bad_rows=skipped is not None
    )
    sources.sort(key=lambda source: "train" not in splits or "train" not in source.splits)
    examples: dict[str, dict[str, Dataset]] = {}
    for split in splits:
        if not any(split in source.splits for source in sources):
            available = sorted({name for source in sources for name in source.splits})
            raise ValueError(f"This run needs a {split!r} split, and no dataset has one; they have {available}.")
        for number, source in enumerate(sources):
            if split in source.splits:
                rows = read_examples(
                    source, split, tasks, data_args.max_samples[split], number=number, skipped=skipped
                )
                examples.setdefault(source.name, {})[split] = rows
    _check_left(examples, skipped or [])
    tasks = complete_tasks(tasks, sources, examples, skipped)
    _check_left(examples, skipped or [])
    merged = {
        split: concatenate_datasets([examples[source.name][split] for source in sources if split in source.splits])
        for split in splits
    }
    _check_labelled(list(data_args.tasks) or list(tasks), merged)
    features, tokenization = {}, {}
    for split, rows in merged.items():
        features[split], tokenization[split] = build_features(
            rows, tasks, tokenizer, max_length=data_args.max_length, split=split
        )
        mean_length = sum(features[split]["length"]) / len(rows)
        logger.info(f"{split}: {len(rows):,} texts, {mean_length:.0f} word pieces on average.")
    trained = [source.name for source in sources if "train" in examples.get(source.name, {})]
    return TaskData(tasks, trained, merged, features, tokenization, None if skipped is None else sorted(skipped))


def _check_left(examples: dict[str, dict[str, Dataset]], skipped: list[SkippedRow]) -> None:
    """Raises `ValueError` where every row of a split was left out."""
    for dataset, splits in examples.items():
        for split, rows in splits.items():
            if len(rows) == 0:
                first = min(one for one in skipped if (one.dataset, one.split) == (dataset, split))
                raise ValueError(
                    f"No row of dataset {dataset!r}, split {split!r}, can be used. Row {first.row}: {first.reason}"
                )


def num_labelled(examples: Dataset, task: str) -> int:
    return len(examples) - examples.data.column(task).null_count


def _check_labelled(tasks: list[str], examples: dict[str, Dataset]) -> None:
    """Raises `ValueError` for a task without a training label, and for validation rows that say nothing."""
    for task in tasks:
        if "train" in examples and not _any_label(examples["train"], [task]):
            raise ValueError(f"No training row has a label for task {task!r}. Give it some, or drop the task.")
    if "validation" in examples and not _any_label(examples["validation"], tasks):
        raise ValueError(f"No row of split 'validation' has a label for any task of {tasks}.")


def _any_label(examples: Dataset, tasks: list[str]) -> bool:
    return any(num_labelled(examples, task) for task in tasks)
