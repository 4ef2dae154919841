"""Loads datasets, in memory or from a recipe, and turns them into features: read, check, fill in labels, tokenize."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from configuration_mtsbert import TOKEN_CLASSIFICATION
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.data.examples import fingerprint_of, read_examples
from mtsbert.data.features import TokenizationReport, build_features, check_features
from mtsbert.data.in_memory import as_datasets, columns_of_rows, is_features, specs_of
from mtsbert.data.labels import check_recipe_tasks, complete_tasks, merge_tasks
from mtsbert.data.skipped_rows import SkippedRow
from mtsbert.data.sources import SPLITS, TEXT, TEXT_PAIR, SourceDataset, open_datasets
from mtsbert.data.swapping import with_swapped_copies
from mtsbert.input_arguments import BAD_ROWS, ERROR, MAX_LENGTH, SKIP, DataArguments
from mtsbert.settings import spelled_out


logger = logging.getLogger(__name__)


@dataclass
class TaskData:
    """Datasets that were read and checked. `data["train"]` is what the Trainer takes as its `train_dataset`."""

    tasks: dict[str, dict]
    """Task name → `{"type", "labels", ...}`, labels complete: the `tasks` of a model."""
    dataset_names: list[str]
    """What the numbers in the `dataset` column stand for; those that have training rows come first."""
    examples: dict[str, Dataset]
    """Split → what the rows say (see `examples.py`)."""
    features: dict[str, Dataset] = field(default_factory=dict)
    """Split → what the model reads, once it is tokenized."""
    tokenization: dict[str, TokenizationReport] = field(default_factory=dict)
    """Split → what was cut or could not be aligned."""
    skipped: list[SkippedRow] | None = None
    """Rows that were left out, in order; None where a row that cannot be used is an error."""
    of_gold: list[str] = field(default_factory=list)
    """The tasks whose validation labels are those of gold datasets alone."""

    def __getitem__(self, split: str) -> Dataset:
        if split not in self.features:
            raise KeyError(
                f"{split!r} was not tokenized; there are {list(self.features)}. Give `load_data` a tokenizer."
            )
        return self.features[split]

    def tokenize(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> "TaskData":
        """Makes the features of every split."""
        for split, rows in self.examples.items():
            self.features[split], self.tokenization[split] = build_features(
                rows, self.tasks, tokenizer, max_length=max_length, split=split, dataset_names=self.dataset_names
            )
            mean_length = sum(self.features[split]["length"]) / len(rows)
            logger.info(f"{split}: {len(rows):,} texts, {mean_length:.0f} tokens on average.")
        return self

    def texts(self, split: str) -> Iterator[str | tuple[str, str]]:
        """The texts behind the features, in the same order; pairs as tuples."""
        for row in self.examples[split].select_columns([TEXT, TEXT_PAIR]):
            yield row[TEXT] if row[TEXT_PAIR] is None else (row[TEXT], row[TEXT_PAIR])

    def num_labelled(self, split: str, task: str) -> int:
        return num_labelled(self.examples[split], task)

    def has_labels(self, split: str) -> bool:
        return _any_label(self.examples[split], list(self.tasks))


def needed_splits(args: MTLTrainingArguments) -> list[str]:
    """Returns the splits that a run with these arguments reads."""
    needed = {
        "train": args.do_train,
        "validation": args.do_eval or (args.do_train and args.eval_strategy != "no"),
        "test": args.do_predict,
    }
    if not any(needed.values()):
        raise ValueError("Nothing to do: set `do_train`, `do_eval` or `do_predict`.")
    return [split for split, is_needed in needed.items() if is_needed]


def load_recipe_data(
    data_args: DataArguments,
    tokenizer: PreTrainedTokenizerBase,
    splits: list[str],
    checkpoint_tasks: dict[str, dict] | None = None,
    *,
    texts_alone: bool = False,
) -> TaskData:
    """
    Loads the data of a recipe, see [`~mtsbert.load_data`].

    Args:
        data_args ([`DataArguments`]): The data arguments of the recipe.
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer.
        splits (`list[str]`): The splits to read.
        checkpoint_tasks (`dict[str, dict]`, *optional*): The tasks of the checkpoint that training continues from.
        texts_alone (`bool`, *optional*, defaults to `False`): Whether a dataset may have no labels for any task.
    """
    return load_data(
        data_args.datasets,
        data_args.tasks,
        tokenizer,
        splits=splits,
        checkpoint_tasks=checkpoint_tasks,
        max_length=data_args.max_length or min(MAX_LENGTH, tokenizer.model_max_length),
        max_samples=data_args.max_samples,
        bad_rows=data_args.bad_rows,
        texts_alone=texts_alone,
    )


def load_data(
    data: Dataset | Mapping,
    tasks: Mapping[str, str | dict],
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    columns: Mapping | None = None,
    splits: Sequence[str] | None = None,
    checkpoint_tasks: dict[str, dict] | None = None,
    max_length: int = MAX_LENGTH,
    max_samples: Mapping[str, int | None] | None = None,
    bad_rows: str = ERROR,
    texts_alone: bool = False,
) -> TaskData:
    """
    Reads and checks datasets, completes the tasks' labels from them, and tokenizes them.

    Args:
        data (`Dataset`, `DatasetDict` or `dict`):
            A `datasets.Dataset` (training rows), a mapping of splits (`train`, `validation`, `test`) to datasets, a
            mapping of names of your choice to either of them, or the `datasets` of a recipe.
        tasks (`dict[str, str | dict]`):
            Task name → its type, or `{"type": ..., "labels": [...], ...}` as in a recipe. Labels that are left out are
            those of the data.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): A fast tokenizer. Without one nothing is tokenized.
        columns (`dict`, *optional*):
            Column → `"text"`, `"text_pair"`, `"text_negative"` or a task; for several datasets also dataset name →
            such a mapping. By default columns are found by those names.
        splits (`Sequence[str]`, *optional*): The splits to read; each must exist in some dataset. Default: all.
        checkpoint_tasks (`dict[str, dict]`, *optional*):
            The tasks of the checkpoint that training goes on from (see `merge_tasks`). One that no dataset feeds stays
            as it is.
        max_length (`int`, *optional*, defaults to 128): Tokens of a text that are read; the rest is cut.
        max_samples (`dict[str, int]`, *optional*): Split → the most rows of each dataset, drawn from all of it.
        bad_rows (`str`, *optional*, defaults to `"error"`):
            `"error"` raises for the first row that cannot be used; `"skip"` leaves such rows out and lists them in
            `TaskData.skipped`.
        texts_alone (`bool`, *optional*, defaults to `False`):
            Whether a dataset may have texts and no labels at all, for `teacher` and `embedding_distillation`.

    Returns:
        [`TaskData`]

    Raises:
        `ValueError`: naming dataset, split, row (counted from 0) and column of whatever is wrong.

    Example:

        >>> data = load_data(news, {"topic": "sequence_classification", "ner": "token_classification"}, tokenizer)
        >>> model = MTSBertModel.from_encoder(encoder, tasks=data.tasks)
        >>> trainer = MTSBertTrainer(model, args, train_dataset=data["train"], eval_dataset=data["validation"])
    """
    asked = spelled_out(tasks)
    check_recipe_tasks(asked)
    tasks = merge_tasks(asked, checkpoint_tasks or {})
    check_recipe_tasks(tasks)
    if not tasks:
        raise ValueError("There are no `tasks`: name some in the recipe, or as a mapping of names to types.")
    if bad_rows not in BAD_ROWS:
        raise ValueError(f"`bad_rows` is {bad_rows!r}; allowed are {list(BAD_ROWS)}.")
    _check_max_samples(max_samples or {})
    skipped: list[SkippedRow] | None = [] if bad_rows == SKIP else None
    sources = open_datasets(
        specs_of(data, columns),
        tasks,
        splits=splits,
        must_be_fed=list(asked),
        skip_bad_rows=skipped is not None,
        texts_alone=texts_alone,
    )
    if splits is None:
        splits = [split for split in SPLITS if any(split in source.splits for source in sources)]
    sources.sort(key=lambda source: "train" not in splits or "train" not in source.splits)
    examples: dict[str, dict[str, Dataset]] = {}
    for split in splits:
        if not any(split in source.splits for source in sources):
            available = sorted({name for source in sources for name in source.splits})
            raise ValueError(f"This run needs a {split!r} split, and no dataset has one; they have {available}.")
        for number, source in enumerate(sources):
            if split in source.splits:
                rows = read_examples(
                    source, split, tasks, (max_samples or {}).get(split), number=number, skipped=skipped
                )
                examples.setdefault(source.name, {})[split] = rows
    _check_left(examples, skipped or [])
    num_train = (max_samples or {}).get("train")
    is_sample = num_train is not None and any(len(rows.splits.get("train", ())) > num_train for rows in sources)
    tasks = complete_tasks(tasks, sources, examples, skipped, trains_on_sample=is_sample)
    _check_left(examples, skipped or [])
    of_gold = _let_gold_decide(tasks, sources, examples) if "validation" in splits else []
    for source in sources:
        if source.swapped_copies and "train" in examples.get(source.name, ()):
            (task,) = (task for task in tasks if tasks[task]["type"] == TOKEN_CLASSIFICATION and source.feeds(task))
            rows = examples[source.name]["train"]
            examples[source.name]["train"] = with_swapped_copies(rows, task, source.swapped_copies)
    merged = {
        split: concatenate_datasets([examples[source.name][split] for source in sources if split in source.splits])
        for split in splits
    }
    fed = [task for task in tasks if any(source.feeds(task) for source in sources)]
    if fed or set(merged) != {"test"}:
        _check_labelled(list(asked) or fed, merged)
    names = [source.name for source in sources]
    read = TaskData(tasks, names, merged, skipped=None if skipped is None else sorted(skipped), of_gold=of_gold)
    return read if tokenizer is None else read.tokenize(tokenizer, max_length)


def infer_tasks(
    data: Dataset | Mapping, tasks: Mapping[str, str | dict], *, columns: Mapping | None = None
) -> dict[str, dict]:
    """
    Completes the labels of tasks from data, as [`~mtsbert.load_data`] does, for a model that is to be trained on it.

    Args:
        data, tasks, columns: As for [`~mtsbert.load_data`]. All splits are read.

    Returns:
        The `tasks` of [`MTSBertModel.from_encoder`].

    Raises:
        `ValueError`: naming dataset, split, row and column of whatever is wrong.

    Example:

        >>> infer_tasks(news, {"topic": "sequence_classification"})
        {'topic': {'type': 'sequence_classification', 'labels': ['Business', 'Sports']}}
    """
    return load_data(data, tasks, columns=columns).tasks


def load_split(
    rows: Dataset | Mapping[str, Dataset],
    split: str,
    tasks: dict[str, dict],
    tokenizer: PreTrainedTokenizerBase,
    *,
    argument: str,
    columns: Mapping | None = None,
    max_length: int,
    longest: int,
    texts_alone: bool = False,
) -> Dataset:
    """
    Builds the features of one split for a model whose tasks are known. Rows that are features for it already are
    returned unchanged.

    Args:
        rows (`Dataset` or `dict[str, Dataset]`): Rows in memory: a dataset, or several by name.
        split (`str`): The split that the rows belong to.
        tasks (`dict[str, dict]`): The tasks of the model.
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer.
        argument (`str`): The name of the argument with these rows, for error messages.
        columns (`dict`, *optional*): See [`~mtsbert.load_data`]. Other rows than those of training may lack labels.
        max_length (`int`): Longer texts are truncated to this many tokens.
        longest (`int`): Number of tokens that the encoder reads.
        texts_alone (`bool`, *optional*, defaults to `False`): Whether the rows may have no labels for any task.

    Raises:
        `ValueError`: naming row and column of whatever is wrong, or saying why features are not for this model.
    """
    if is_features(rows, tasks):
        check_features(rows, tasks, tokenizer, longest=longest, argument=argument)
        return rows
    by_name = as_datasets(rows, argument)
    if columns is not None and split != "train":  # neither every dataset nor every label must be evaluated
        columns = columns_of_rows(columns, by_name) or None
    datasets = {name: {split: of_name} for name, of_name in by_name.items()}
    options = {"columns": columns, "splits": [split], "checkpoint_tasks": tasks, "max_length": max_length}
    options["texts_alone"] = texts_alone
    return load_data(datasets, {}, tokenizer, **options)[split]


def _check_max_samples(max_samples: Mapping[str, int | None]) -> None:
    if not isinstance(max_samples, Mapping) or not set(max_samples) <= set(SPLITS):
        raise ValueError(f"`max_samples` maps some of {list(SPLITS)} to numbers of rows; got {max_samples!r}.")
    for split, number in max_samples.items():
        if number is not None and (type(number) is not int or number < 1):
            raise ValueError(f"`max_samples` of {split!r} is {number!r}; it must be a whole number of at least 1.")


def _let_gold_decide(
    tasks: dict[str, dict], sources: list[SourceDataset], examples: dict[str, dict[str, Dataset]]
) -> list[str]:
    """
    Takes the labels of tasks from the validation rows of datasets that are not gold, if rows of gold datasets have
    labels of these tasks. Metrics, the choice of the best epoch and calibration all follow from what is left.

    Returns:
        The tasks for which gold rows decide.
    """
    of_source = {name: splits["validation"] for name, splits in examples.items() if "validation" in splits}
    gold = [source.name for source in sources if source.is_gold and source.name in of_source]
    decided = {task: [name for name in gold if num_labelled(of_source[name], task)] for task in tasks}
    for source in sources:
        silver = [task for task, names in decided.items() if names and source.feeds(task) and not source.is_gold]
        if not silver or source.name not in of_source:
            continue
        rows = of_source[source.name]
        examples[source.name]["validation"] = rows.map(
            lambda batch, silver=silver: {task: [None] * len(batch[task]) for task in silver},
            batched=True,
            features=rows.features,
            new_fingerprint=fingerprint_of(rows, "gold", silver),
        )
        for task in silver:
            logger.info(f"Validation of {task!r} is on the gold rows of {decided[task]}, not on {source.name!r}.")
    for source in sources:
        if source.is_gold and not any(source.name in names for names in decided.values()):
            logger.warning(
                f"Dataset {source.name!r} is `gold`, and has no labelled validation rows that would decide."
            )
    return [task for task, names in decided.items() if names]


def _check_left(examples: dict[str, dict[str, Dataset]], skipped: list[SkippedRow]) -> None:
    """Raises `ValueError` if all rows of a split were left out."""
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
    """Raises `ValueError` if a task has no training label, or the validation split has no label at all."""
    for task in tasks:
        if "train" in examples and not _any_label(examples["train"], [task]):
            raise ValueError(f"No training row has a label for task {task!r}. Give it some, or drop the task.")
    if "validation" in examples and not _any_label(examples["validation"], tasks):
        raise ValueError(f"No row of split 'validation' has a label for any task of {tasks}.")


def _any_label(examples: Dataset, tasks: list[str]) -> bool:
    return any(num_labelled(examples, task) for task in tasks)
