"""Opens the datasets of a recipe and maps their columns to texts and tasks."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from configuration_mtsbert import PAIR_RANKING, PAIR_TYPES, SCORE_TYPES, TOKEN_CLASSIFICATION
from mtsbert.formats.files import read_file
from mtsbert.formats.folders import is_saved, of_one_split, read_folder, read_saved
from mtsbert.formats.hub import is_no_hub_id, load_from_hub
from mtsbert.formats.options import OPTION_KEYS, options_of
from mtsbert.formats.tag_schemes import TAG_SCHEMES


TEXT, TEXT_PAIR, TEXT_NEGATIVE = "text", "text_pair", "text_negative"
SPLITS = ("train", "validation", "test")
SOURCE_KEYS = ("path", "files", "dataset")  # each dataset has exactly one
OF_LABELS = ("label_columns", "label_map", "separator", "tag_scheme", "gold", "swapped_copies")
SPEC_KEYS = (*SOURCE_KEYS, "splits", "columns", *OF_LABELS, *OPTION_KEYS)

logger = logging.getLogger(__name__)


@dataclass
class SourceDataset:
    """One dataset of the recipe, with its columns checked against the tasks."""

    name: str
    splits: DatasetDict
    columns: dict[str, str]
    """Role (`text`, `text_pair`, `text_negative` or a task) → column."""
    tag_scheme: str = "bio"
    broken: dict[str, dict[int, str]] = field(default_factory=dict)
    """Split → row that could not be read and was left empty → reason. Only used if bad rows are skipped."""
    ranking: str | None = None
    """The ranking task that learns from the pairs of this dataset, if there is one."""
    label_columns: dict[str, list[str]] = field(default_factory=dict)
    """Multi-label task → columns of zeros and ones, each called by its label."""
    separator: str | None = None
    """What stands between the labels of a multi-label task in a cell of text."""
    label_map: dict[str, dict[str, str | None]] = field(default_factory=dict)
    """Task → label in the files → its name in the task; None for what is no label there."""
    is_gold: bool = False
    """Whether people made its labels: its validation rows then decide for the tasks that they have labels of."""
    swapped_copies: int = 0
    """Copies with other names of each training row, see `swapping.py`."""

    def feeds(self, task: str) -> bool:
        return task in self.columns or task in self.label_columns or task == self.ranking

    def where(self, split: str, row: int) -> str:
        return f"Row {row} of dataset {self.name!r}, split {split!r}"


def open_datasets(
    specs: dict[str, dict],
    tasks: dict[str, dict],
    *,
    splits: Sequence[str] | None = None,
    must_be_fed: list[str] | None = None,
    skip_bad_rows: bool = False,
    texts_alone: bool = False,
) -> list[SourceDataset]:
    """
    Opens all datasets of a recipe.

    Args:
        specs (`dict[str, dict]`): The `datasets` of the recipe: name → `{"path", "columns", ...}`.
        tasks (`dict[str, dict]`): Task name → settings.
        splits (`Sequence[str]`, *optional*): The splits that are needed; files of others are not read. Default: all.
        must_be_fed (`list[str]`, *optional*): The tasks for which a dataset must have a column. Default: all tasks.
        skip_bad_rows (`bool`, *optional*, defaults to `False`): Whether rows that cannot be read are recorded in
            `SourceDataset.broken` instead of raising an error.
        texts_alone (`bool`, *optional*, defaults to `False`): Whether a dataset may have no labels for any task:
            `teacher` and `embedding_distillation` learn from texts alone.

    Raises:
        `ValueError`: if a dataset cannot be found or read, or does not fit the tasks.
    """
    opened = [_open_dataset(name, spec, tasks, splits, skip_bad_rows, texts_alone) for name, spec in specs.items()]
    wanted = tasks if must_be_fed is None else must_be_fed
    if unfed := [task for task in wanted if not any(source.feeds(task) for source in opened)]:
        if any(tasks[task]["type"] == PAIR_RANKING for task in unfed):
            raise ValueError(
                f"No dataset feeds the tasks {unfed}, of which a ranking learns from a dataset with {TEXT!r} and "
                f"{TEXT_PAIR!r} in `columns` and no labels of another task on pairs. Name one, or drop the task."
            )
        raise ValueError(
            f"No dataset feeds the tasks {unfed}. Map a column to each in `columns` of a dataset, or drop the task."
        )
    return opened


def _open_dataset(
    name: str,
    spec: dict,
    tasks: dict[str, dict],
    needed: Sequence[str] | None,
    skip_bad_rows: bool,
    texts_alone: bool,
) -> SourceDataset:
    if not isinstance(spec, dict) or sum(key in spec for key in SOURCE_KEYS) != 1:
        raise ValueError(f"Dataset {name!r} needs either 'path' or 'files'; got {spec!r}.")
    if unknown := sorted(set(spec) - set(SPEC_KEYS)):
        raise ValueError(f"Dataset {name!r} has unknown keys {unknown}; allowed are {list(SPEC_KEYS)}.")
    tag_scheme = spec.get("tag_scheme", "bio")
    if tag_scheme not in TAG_SCHEMES:
        raise ValueError(f"Dataset {name!r} has 'tag_scheme' {tag_scheme!r}; allowed are {list(TAG_SCHEMES)}.")
    broken: dict[str, dict[int, str]] | None = {} if skip_bad_rows else None
    try:
        splits = _read_splits(spec, needed, broken)
        label_columns = _label_columns(spec, splits, tasks)
        separator = _separator(spec, tasks)
        label_map = _label_map(spec, tasks)
        is_gold = spec.get("gold", False)
        if not isinstance(is_gold, bool):
            raise ValueError(f"'gold' is {is_gold!r}; it must be true or false.")
        swapped_copies = spec.get("swapped_copies", 0)
        if type(swapped_copies) is not int or swapped_copies < 0:
            raise ValueError(f"'swapped_copies' is {swapped_copies!r}; it must be a whole number from 0.")
    except ValueError as error:
        raise ValueError(f"Dataset {name!r}: {error}") from None
    for split, rows in splits.items():
        if len(rows) == 0:
            raise ValueError(f"Dataset {name!r}, split {split!r}, is empty.")
    roles = _roles(name, spec, splits, tasks)
    if twice := sorted(set(roles) & set(label_columns)):
        raise ValueError(f"Dataset {name!r}: 'columns' and 'label_columns' both feed {twice}; drop one.")
    _check_splits(name, [*roles.values(), *chain(*label_columns.values())], roles, splits)
    ranking = _ranking_of(roles, tasks)
    fed = [role for role in (*roles, *label_columns, ranking) if role in tasks]
    _check_fed(name, fed, roles, splits, tasks, texts_alone)
    of_tokens = [task for task in fed if tasks[task]["type"] == TOKEN_CLASSIFICATION]
    if swapped_copies and len(of_tokens) != 1:
        raise ValueError(
            f"Dataset {name!r}: 'swapped_copies' swaps the entities of one task, and the dataset feeds "
            f"{of_tokens or 'none'} with entities."
        )
    if unfed := sorted(set(label_map) - set(fed)):
        raise ValueError(f"Dataset {name!r}: 'label_map' names {unfed}, and the dataset feeds {fed}.")
    return SourceDataset(
        name,
        splits,
        roles,
        tag_scheme,
        broken or {},
        ranking,
        label_columns,
        separator,
        label_map,
        is_gold=is_gold,
        swapped_copies=swapped_copies,
    )


def _read_splits(spec: dict, needed: Sequence[str] | None, broken: dict[str, dict[int, str]] | None) -> DatasetDict:
    options = options_of(spec)

    def read(split: str, path: Path) -> Dataset:
        return read_file(path, None if broken is None else broken.setdefault(split, {}), options)

    if "dataset" in spec:  # in memory, see `in_memory.py`
        return DatasetDict({split: _without_transform(split, rows) for split, rows in spec["dataset"].items()})
    if "files" in spec:
        if "splits" in spec:
            raise ValueError("'splits' names what is in a 'path'; 'files' gives the file of each split.")
        files = _check_split_names("files", spec["files"])
        wanted = {split: name for split, name in files.items() if needed is None or split in needed} or files
        return DatasetDict({split: read(split, _path("files", name)) for split, name in wanted.items()})
    path = _path("path", spec["path"])
    splits = _check_split_names("splits", spec.get("splits", dict(zip(SPLITS, SPLITS, strict=True))))
    if path.is_file():
        return DatasetDict({split: read(split, path) for split in of_one_split(path, splits)})
    options.check(path)
    if path.is_dir():
        return read_saved(path, splits) if is_saved(path) else read_folder(path, splits)
    if is_no_hub_id(path.as_posix()):
        raise ValueError(
            f"{path} is neither a file nor a folder. A folder of labelled news is made by "
            f"`python -m data_prep --output {path}`."
        )
    return load_from_hub(str(path), splits)


def _without_transform(split: str, rows: Dataset) -> Dataset:
    """Raises `ValueError` for rows that are changed when they are read, as examples are read beneath that."""
    if rows.format["type"] == "custom":
        raise ValueError(
            f"split {split!r} has a transform (`with_transform`, `set_transform`), which would not be applied here. "
            "Write what it does into the rows with `dataset.map`, or drop it with `dataset.reset_format()`."
        )
    return rows


def _path(key: str, name: Any) -> Path:
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"'{key}' names {name!r}, which is no path.")
    return Path(name)


def _check_split_names(key: str, mapping: dict) -> dict:
    fits = isinstance(mapping, dict) and mapping and set(mapping) <= set(SPLITS)
    if not fits or not all(isinstance(name, str) and name for name in mapping.values()):
        raise ValueError(f"'{key}' maps some of {list(SPLITS)} to {key}; got {mapping!r}.")
    return mapping


def _roles(name: str, spec: dict, splits: DatasetDict, tasks: dict[str, dict]) -> dict[str, str]:
    """Checks the `columns` of a dataset and inverts them: role → column."""
    existing = _columns_of(splits)
    rankings = [task for task in tasks if tasks[task]["type"] == PAIR_RANKING]
    known = [TEXT, TEXT_PAIR, *(task for task in tasks if task not in rankings)]
    if rankings:
        known.append(TEXT_NEGATIVE)
    mapping = spec.get("columns")
    if mapping is None:
        mapping = {role: role for role in known if role in existing}
    if not isinstance(mapping, dict):
        raise ValueError(f"Dataset {name!r}: 'columns' maps columns to 'text' and tasks; got {mapping!r}.")
    roles: dict[str, str] = {}
    for column, role in mapping.items():
        if role in rankings:
            raise ValueError(
                f"Dataset {name!r} maps column {column!r} to the ranking {role!r}, which reads no labels: map columns "
                f"to {TEXT!r}, {TEXT_PAIR!r} and, for hard negatives, {TEXT_NEGATIVE!r}."
            )
        if role == TEXT_NEGATIVE and not rankings:
            raise ValueError(
                f"Dataset {name!r} maps column {column!r} to {TEXT_NEGATIVE!r}, which only a task of type "
                f"{PAIR_RANKING!r} reads, and there is none."
            )
        if not isinstance(role, str) or role not in known:
            raise ValueError(
                f"Dataset {name!r} maps column {column!r} to {role!r}, which is neither 'text' nor 'text_pair' nor a "
                f"task of the recipe ({', '.join(tasks)})."
            )
        if role in roles:
            raise ValueError(f"Dataset {name!r} maps both {roles[role]!r} and {column!r} to {role!r}.")
        roles[role] = column
    if TEXT not in roles:
        raise ValueError(
            f"Dataset {name!r} maps no column to 'text'; its columns are {sorted(existing)}. Say so in `columns`."
        )
    return roles


def _check_splits(name: str, columns: list[str], roles: dict[str, str], splits: DatasetDict) -> None:
    """
    Raises `ValueError` for a column that no split has, or for texts that one of them lacks. Warns of labels that some
    splits lack.
    """
    for column in columns:
        without = [split for split, rows in splits.items() if column not in rows.column_names]
        if len(without) == len(splits) or (without and column in (roles.get(TEXT), roles.get(TEXT_PAIR))):
            raise ValueError(
                f"Dataset {name!r}, split {without[0]!r}, has no column {column!r}; it has "
                f"{splits[without[0]].column_names}."
            )
        if without:
            logger.warning(f"Dataset {name!r} has no column {column!r} in {without}: these rows are unlabelled there.")


def _label_columns(spec: dict, splits: DatasetDict, tasks: dict[str, dict]) -> dict[str, list[str]]:
    """Checks `label_columns`: multi-label task → columns of zeros and ones."""
    given = spec.get("label_columns", {})
    if not isinstance(given, dict):
        raise ValueError(f"'label_columns' maps multi-label tasks to lists of columns; got {given!r}.")
    for task, columns in given.items():
        if not tasks.get(task, {}).get("multi_label"):
            multi = [name for name, settings in tasks.items() if settings.get("multi_label")]
            raise ValueError(f"'label_columns' names {task!r}, which is no multi-label task; those are {multi}.")
        is_list = isinstance(columns, list) and all(isinstance(column, str) for column in columns)
        if not is_list or not columns or len(set(columns)) < len(columns):
            raise ValueError(f"'label_columns' of {task!r} is {columns!r}; it is a list of columns, each once.")
    return {task: list(columns) for task, columns in given.items()}


def _label_map(spec: dict, tasks: dict[str, dict]) -> dict[str, dict[str, str | None]]:
    """Checks `label_map`: task → label in the files → its name in the task, or None."""
    given = spec.get("label_map", {})
    if not isinstance(given, dict):
        raise ValueError(f"'label_map' maps tasks to mappings of labels; got {given!r}.")
    labelled = [name for name, settings in tasks.items() if settings["type"] not in SCORE_TYPES]
    for task, names in given.items():
        if task not in labelled:
            raise ValueError(f"'label_map' names {task!r}; the tasks that have labels are {labelled}.")
        is_mapping = isinstance(names, dict) and all(isinstance(label, str) for label in names)
        if not is_mapping or not all(name is None or (isinstance(name, str) and name) for name in names.values()):
            raise ValueError(
                f"'label_map' of {task!r} is {names!r}; it maps labels of the files to names, or to null for none."
            )
        tags = [name for pair in names.items() for name in pair if name == "O" or str(name)[:2] in ("B-", "I-")]
        if tasks[task]["type"] == TOKEN_CLASSIFICATION and tags:
            raise ValueError(f"'label_map' of {task!r} has the tags {tags}; it maps entity types, to null for none.")
    return given


def _separator(spec: dict, tasks: dict[str, dict]) -> str | None:
    separator = spec.get("separator")
    if separator is None:
        return None
    if not isinstance(separator, str) or not separator:
        raise ValueError(f"'separator' is {separator!r}; it is what stands between labels, such as '|'.")
    if not any(settings.get("multi_label") for settings in tasks.values()):
        raise ValueError("'separator' divides the labels of a task with `multi_label: true`, and there is none.")
    return separator


def _columns_of(splits: DatasetDict) -> set[str]:
    return {column for rows in splits.values() for column in rows.column_names}


def _ranking_of(roles: dict[str, str], tasks: dict[str, dict]) -> str | None:
    """Returns the ranking task that learns from pairs with these roles; None if they have labels of another task."""
    is_labelled = any(role in tasks and tasks[role]["type"] in PAIR_TYPES for role in roles)
    if TEXT_PAIR not in roles or is_labelled:
        return None
    return next((task for task in tasks if tasks[task]["type"] == PAIR_RANKING), None)


def _check_fed(
    name: str, fed: list[str], roles: dict[str, str], splits: DatasetDict, tasks: dict[str, dict], texts_alone: bool
) -> None:
    """Raises `ValueError` unless the dataset has what the tasks that it feeds need."""
    existing = sorted(_columns_of(splits))
    if not fed and not texts_alone and set(splits) != {"test"}:  # texts to predict need no label
        raise ValueError(
            f"Dataset {name!r} feeds no task; its columns are {existing}. Say so in `columns`, or learn from its "
            "texts alone with `teacher` or `embedding_distillation`."
        )
    pair_tasks = [task for task in fed if tasks[task]["type"] in PAIR_TYPES]
    if pair_tasks and TEXT_PAIR not in roles:
        raise ValueError(
            f"Dataset {name!r} feeds {pair_tasks}, which compare two texts, but maps no column to 'text_pair'; its "
            f"columns are {existing}."
        )
    if TEXT_NEGATIVE in roles and not any(tasks[task]["type"] == PAIR_RANKING for task in fed):
        raise ValueError(
            f"Dataset {name!r} maps column {roles[TEXT_NEGATIVE]!r} to {TEXT_NEGATIVE!r}, but feeds no ranking: that "
            f"needs {TEXT_PAIR!r}, and no labels of another task on pairs (it feeds {fed})."
        )
