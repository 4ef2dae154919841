"""Determines the labels of each task: from the recipe, from ClassLabel columns, or from the data."""

import logging
import math
from collections.abc import Collection

import numpy as np
from datasets import ClassLabel, Dataset

from configuration_mtsbert import (
    PAIR_CLASSIFICATION,
    PAIR_RANKING,
    PAIR_SIMILARITY,
    SCORE_TYPES,
    SEQUENCE_CLASSIFICATION,
    SEQUENCE_REGRESSION,
    TOKEN_CLASSIFICATION,
    check_rankings,
    check_task_settings,
    check_tasks,
)
from entities_mtsbert import OUTSIDE, bio_labels, entity_types
from mtsbert.data.examples import FLAGS, ROW, fingerprint_of, renamed
from mtsbert.data.skipped_rows import SkippedRow
from mtsbert.data.sources import SourceDataset
from mtsbert.formats.spelling import one_of_each, sorted_labels, spellings


logger = logging.getLogger(__name__)


def check_recipe_tasks(tasks: dict[str, dict]) -> None:
    """Checks a recipe's tasks before any data is read. Labels may still be missing. Raises `ValueError`."""
    for name, task in tasks.items():
        try:
            check_task_settings(name, task)
            _check_named_labels(task.get("labels"))
        except ValueError as error:
            raise ValueError(f"Task {name!r}: {error}") from None
    check_rankings(tasks)
    check_metric_names(tasks)


def _check_named_labels(labels: object) -> None:
    """Raises `ValueError` for labels of a recipe that are no texts, as `[1, 2]` and `[yes, no]` are in YAML."""
    if labels is None:
        return
    if not isinstance(labels, list | tuple) or not all(isinstance(label, str) and label for label in labels):
        raise ValueError(
            f"'labels' is {labels!r}; it is a list of texts. In YAML, put numbers, true, false, yes, no and null in "
            'quotation marks: ["1", "2"].'
        )


METRIC_NAMES = {  # what follows the name of a task in the names of results and in the log
    SEQUENCE_CLASSIFICATION: ("accuracy", "macro_f1"),
    PAIR_CLASSIFICATION: ("accuracy", "macro_f1"),
    TOKEN_CLASSIFICATION: ("precision", "recall", "f1"),
    SEQUENCE_REGRESSION: ("spearman", "mae", "r2"),
    PAIR_SIMILARITY: ("spearman", "pearson"),
    PAIR_RANKING: ("mrr", "recall_at_10"),
}
OF_HEADS = ("type", "labels", "score_range", "hidden_size", "multi_label", "feature_scale")
OF_THE_LOSS = ("soft_labels", "class_weights", "pos_weight", "label_smoothing", "loss", "focal_gamma", "scale")
WEIGHTS = ("class_weights", "pos_weight")
BALANCED = "balanced"
UNLABELLED = (-1, -100)  # what datasets and libraries write where a row has no label
FOR_EVERY_TASK = ("loss", "weight", "examples", "grad_norm")


def check_metric_names(tasks: dict[str, dict]) -> None:
    """Raises `ValueError` if results of two tasks would have the same name, as `a_macro_f1` of `a` and `a_macro`."""
    owners: dict[str, str] = {}
    for task, settings in tasks.items():
        for metric in (*METRIC_NAMES[settings["type"]], *FOR_EVERY_TASK):
            other = owners.setdefault(f"{task}_{metric}", task)
            if other != task:
                raise ValueError(f"Tasks {other!r} and {task!r} would both report '{task}_{metric}'; rename one.")


def names_of_results(tasks: dict[str, dict]) -> list[str]:
    """Returns the names of the results that an evaluation has for every task, without their prefix."""
    return [f"{name}_{metric}" for name, task in tasks.items() for metric in (*METRIC_NAMES[task["type"]], "loss")]


def merge_tasks(recipe: dict[str, dict], checkpoint: dict[str, dict]) -> dict[str, dict]:
    """
    Merges the tasks of a recipe into those of the checkpoint that training continues from. A task that both have keeps
    the type, labels, score range and head of the checkpoint. What only concerns the loss (`OF_THE_LOSS`) comes from
    the recipe, and `min_score` and `thresholds` do if they are set there. New tasks of the recipe follow at the end.

    Raises:
        `ValueError`: if recipe and checkpoint contradict each other.
    """
    merged = {name: dict(task) for name, task in checkpoint.items()}
    for name, task in recipe.items():
        if name not in checkpoint:
            merged[name] = task
            continue
        for key in OF_HEADS:
            given, kept = task.get(key), setting_of_head(checkpoint[name], key)
            if key == "labels" and given and task["type"] == TOKEN_CLASSIFICATION and OUTSIDE not in given:
                given = bio_labels(given)
            if given is not None and list_or_value(given) != list_or_value(kept):
                raise ValueError(
                    f"Task {name!r}: the recipe says {key}: {given}, and the checkpoint was trained with {kept}."
                )
        for key in OF_THE_LOSS:
            merged[name].pop(key, None)
            if key in task:
                merged[name][key] = task[key]
        for key in ("min_score", "thresholds"):
            if key in task:
                merged[name][key] = task[key]
    return merged


def setting_of_head(task: dict, key: str):
    """One of `OF_HEADS`. Older heads on pairs have no `feature_scale`, which is then 1."""
    return float(task.get(key, 1.0)) if key == "feature_scale" else task.get(key)


def list_or_value(setting):
    return list(setting) if isinstance(setting, tuple) else setting


def complete_tasks(
    tasks: dict[str, dict],
    sources: list[SourceDataset],
    examples: dict[str, dict[str, Dataset]],
    skipped: list[SkippedRow] | None = None,
    *,
    trains_on_sample: bool = False,
) -> dict[str, dict]:
    """
    Fills in the labels that a recipe leaves out, and checks that all rows have only known labels. In `examples`,
    labels get the names that `label_map` has for them, and those that differ only in how they are written become one
    (see `meaning_of`).

    Args:
        tasks (`dict[str, dict]`): Task name → `{"type", "labels", ...}`, where labels are optional. Entity types may
            be given instead of BIO tags, and `class_weights` and `pos_weight` may be mappings from labels, or
            `"balanced"`.
        sources (`list[SourceDataset]`): The datasets of the recipe.
        examples (`dict[str, dict[str, Dataset]]`): Dataset name → split → examples.
        skipped (`list[SkippedRow]`, *optional*): If given, rows with an unknown label are removed from `examples` and
            appended here. Otherwise the first such row is an error.
        trains_on_sample (`bool`, *optional*, defaults to `False`):
            Whether the training rows are only some of those that there are. Labels that only other splits have are
            allowed then.

    Returns:
        `dict[str, dict]`: The tasks with complete labels, as [`MTSBertConfig`] expects them.
    """
    completed = {}
    trains = any("train" in splits for splits in examples.values()) and not trains_on_sample
    reasons: dict[str, dict[str, str]] = {}  # task → label that no row may have → why
    for source in sources:
        if source.label_map and source.name in examples:
            _apply_label_map(source, tasks, {source.name: examples[source.name]})
    for name, task in tasks.items():
        completed[name] = dict(task)
        if task["type"] in SCORE_TYPES:
            continue
        try:
            declared = None if task.get("labels") else _declared_labels(name, task, sources)
            completed[name]["labels"], reasons[name] = _complete_labels(name, task, declared, examples, trains=trains)
            for key in WEIGHTS:
                if task.get(key) == BALANCED:
                    completed[name] |= _balanced(name, key, completed[name], examples, is_sample=trains_on_sample)
                elif task.get(key) is not None:
                    is_ordered = bool(task.get("labels") or declared)
                    completed[name][key] = _weights(key, completed[name], is_ordered=is_ordered)
        except ValueError as error:
            raise ValueError(f"Task {name!r}: {error}") from None
    check_tasks(completed)
    for dataset, splits in examples.items():
        for split, rows in splits.items():
            if not (wrong := _wrong_rows(tasks, rows, reasons)):
                continue
            places = sorted(wrong)
            found = [SkippedRow(dataset, split, rows[place][ROW], wrong[place]) for place in places]
            if skipped is None:
                alike = [str(one.row) for one in found if one.reason == found[0].reason]
                others = f" So are rows {', '.join(alike[1:6])}{' …' if len(alike) > 6 else ''}." if alike[1:] else ""
                raise ValueError(
                    f"Row {found[0].row} of dataset {dataset!r}, split {split!r}: {found[0].reason}{others}"
                )
            skipped += found
            left = rows.select(np.setdiff1d(np.arange(len(rows)), places))
            splits[split] = left.flatten_indices()  # `num_labelled` counts in the table, without its indices
    return completed


def _apply_label_map(source: SourceDataset, tasks: dict[str, dict], examples: dict[str, dict[str, Dataset]]) -> None:
    """Renames the labels of a dataset, however they are written. Warns of names in `label_map` that no label has."""
    for task, names in source.label_map.items():
        labels = set().union(*_labels_by_split(task, tasks[task], examples).values())
        if tasks[task]["type"] != TOKEN_CLASSIFICATION:  # whose columns declare tags
            labels |= set(_declared_by(source, task) or ())
        try:
            new_names = _new_names(labels, names)
            without = sorted(set(names) - set(spellings(labels, names).values()))
        except ValueError as error:
            raise ValueError(f"Dataset {source.name!r}, 'label_map' of {task!r}: {error}") from None
        if without:
            logger.warning(
                f"Dataset {source.name!r}: 'label_map' of {task!r} names {without}, which are no labels of the rows "
                f"that were read; they have {sorted(labels)[:20]}."
            )
        if new_names:
            _rename(task, new_names, examples)


def _new_names(labels: Collection[str], names: dict[str, str | None]) -> dict[str, str | None]:
    """Maps the labels that a `label_map` names, however they are written, to their new names."""
    return {label: names[name] for label, name in spellings(labels, names).items()}


def _complete_labels(
    name: str, task: dict, declared: list[str] | None, examples: dict[str, dict[str, Dataset]], *, trains: bool
) -> tuple[list[str], dict[str, str]]:
    """Returns the labels of a task, and those in the data that it does not have, with the reason."""
    of_splits = _labels_by_split(name, task, examples)
    everywhere = set().union(*of_splits.values())
    in_training = of_splits.get("train", set()) if trains else everywhere
    labels = list(task.get("labels") or declared or sorted_labels(one_of_each(in_training)))
    of_tokens = task["type"] == TOKEN_CLASSIFICATION
    if of_tokens and not task.get("labels"):
        labels = [label for label in labels if label != OUTSIDE]  # a row that has it is refused
    if not labels and not everywhere:
        raise ValueError("no row has a label, and the recipe names none.")
    if not task.get("labels") and not declared:
        _check_are_labels(labels, task)
    types = entity_types(labels) if of_tokens and OUTSIDE in labels else labels
    meant = spellings(everywhere, types)
    reasons = {
        label: f"label {label!r} is not one of task {name!r}, which has {sorted(types)}."
        for label in everywhere - set(meant)
    }
    if not task.get("labels"):
        learned = {meant.get(label) for label in in_training}
        for label in everywhere:
            if meant.get(label) not in learned:
                reasons[meant.get(label, label)] = (  # as it is written once spellings are joined
                    f"label {label!r} of task {name!r} is in no training row, so it cannot be learned. If that is "
                    "meant, name all labels of the task in the recipe (`labels`)."
                )
    if of_tokens and OUTSIDE in everywhere:
        reasons[OUTSIDE] = (
            f"an entity has the type {OUTSIDE!r}, which stands for no entity in tags. Rename that type, or leave such "
            "entities out."
        )
        if not labels:
            raise ValueError(reasons[OUTSIDE])
    _join(name, meant, examples)
    if of_tokens and OUTSIDE not in labels:
        labels = bio_labels(labels)
    return labels, reasons


def join_spellings(task: str, settings: dict, examples: dict[str, dict[str, Dataset]]) -> None:
    """Makes labels one that differ only in how they are written, as `complete_tasks` does with labels of the data."""
    labels = set().union(*_labels_by_split(task, settings, examples).values())
    _join(task, spellings(labels, one_of_each(labels)), examples)


def _join(task: str, meant: dict[str, str], examples: dict[str, dict[str, Dataset]]) -> None:
    if names := {old: new for old, new in meant.items() if old != new}:
        _rename(task, names, examples)
        logger.warning(f"Task {task!r}: labels that differ only in how they are written are one: {names}.")


def _check_are_labels(labels: list[str], task: dict) -> None:
    """
    Raises `ValueError` for labels from data that mean something else: prices are no classes, zeros and ones for each
    label are not the labels, and a code for "not labelled" is none.
    """
    if task.get("multi_label") and labels and all(label.lower() in FLAGS for label in labels):
        raise ValueError(
            f"its labels are {labels}: do the lists say yes or no for every label? They name the labels that a text "
            "has: [name for name, flag in zip(names, row) if flag]."
        )
    try:
        numbers = [number for label in labels if math.isfinite(number := float(label))]
    except ValueError:
        return
    if any(not number.is_integer() for number in numbers):
        raise ValueError(
            f"its labels are numbers ({', '.join(labels[:5])}{' …' if len(labels) > 5 else ''}), which a task of type "
            f"{SEQUENCE_REGRESSION!r} learns. If each is a class of its own, name them in the recipe (`labels`)."
        )
    codes = [number for number in numbers if number in UNLABELLED]
    ids = sorted(set(numbers) - set(codes))
    if len(codes) != 1 or not ids or ids != list(range(len(ids))):
        return
    code = f"{codes[0]:.0f}"
    if code == "-1" and len(ids) < 3:  # as in -1, 0, 1 for how a text sounds
        logger.warning(f"The label {code} is learned as a class. Where it says that there is no label, write null.")
        return
    raise ValueError(
        f"{code} is among its labels ({', '.join(labels[:5])}{' …' if len(labels) > 5 else ''}), and often stands for "
        f'no label. Then write null, or map it in the dataset\'s `label_map` ({{"{code}": null}}). If it is a class, '
        "name all of them in the recipe (`labels`)."
    )


def _labels_by_split(task: str, settings: dict, examples: dict[str, dict[str, Dataset]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for splits in examples.values():
        for split, rows in splits.items():
            for value in rows[task]:
                found.setdefault(split, set()).update(_labels_of(value, settings))
    return found


def _declared_labels(task: str, settings: dict, sources: list[SourceDataset]) -> list[str] | None:
    """
    Returns the names of the ClassLabel columns of a text or pair task, or of the columns that each stand for a label.
    They must be the same in all datasets, in any order.
    """
    if settings["type"] == TOKEN_CLASSIFICATION:
        return None  # for tags, the entity types that occur in the data are used
    declared: dict[str, list[str]] = {}
    for source in sources:
        if (names := _declared_by(source, task)) is not None:
            declared[source.name] = renamed(names, _new_names(names, source.label_map.get(task, {})))
    lists = list(declared.values())
    if any(set(names) != set(lists[0]) for names in lists):
        raise ValueError(f"the datasets declare different labels: {declared}. Name them in the recipe.")
    return lists[0] if lists else None


def _declared_by(source: SourceDataset, task: str) -> list[str] | None:
    """The labels that the columns of one dataset declare, by the names that they have there."""
    if task in source.label_columns:
        return source.label_columns[task]
    column = source.columns.get(task)
    with_column = [rows for rows in source.splits.values() if column in rows.column_names]
    if not with_column:
        return None
    rows = source.splits["train"] if source.splits.get("train") in with_column else with_column[0]
    feature = rows.features[column]
    feature = getattr(feature, "feature", feature)  # a list of labels, for a multi-label task
    return list(feature.names) if isinstance(feature, ClassLabel) else None


def _labels_of(value: str | list | None, settings: dict) -> set[str]:
    """Returns the labels (for a token task: the entity types) in the value of an example."""
    if value is None:
        return set()
    if settings["type"] == TOKEN_CLASSIFICATION or settings.get("soft_labels"):
        return {of_label["label"] for of_label in value} - {None}
    return set(value) if settings.get("multi_label") else {value}


def _rename(task: str, names: dict[str, str | None], examples: dict[str, dict[str, Dataset]]) -> None:
    """Replaces labels in all examples."""
    for splits in examples.values():
        for split, rows in splits.items():
            splits[split] = rows.map(
                lambda batch: {task: [renamed(value, names) for value in batch[task]]},
                batched=True,
                features=rows.features,
                new_fingerprint=fingerprint_of(rows, task, names),
            )


def _balanced(
    name: str, key: str, task: dict, examples: dict[str, dict[str, Dataset]], *, is_sample: bool
) -> dict[str, list | None]:
    """
    The weights of a task from its training rows, as scikit-learn's "balanced": N / (C n) for a label that n of N rows
    have, and (N - n) / n as `pos_weight`, with at least one text that does not have it. None without training rows.
    """
    has_several = task.get("multi_label", False)
    if task["type"] == TOKEN_CLASSIFICATION or task.get("soft_labels") or (key == "class_weights") == has_several:
        kinds = "texts of one label each" if key == "class_weights" else "texts with any number of labels"
        raise ValueError(f"'{key}: {BALANCED}' counts {kinds}; here, give a mapping from labels to weights.")
    counts, num_rows = dict.fromkeys(task["labels"], 0), 0
    for splits in examples.values():
        for value in splits["train"][name] if "train" in splits else ():
            labels = _labels_of(value, task)
            if value is None or not labels <= counts.keys():  # rows with other labels are reported later
                continue
            num_rows += 1
            for label in labels:
                counts[label] += 1
    if not num_rows:
        return {key: None}
    missing = [label for label, count in counts.items() if not count]
    if missing and not is_sample:
        raise ValueError(f"'{key}: {BALANCED}' has no weight for {missing}, which no training row has.")
    if missing:
        logger.warning(f"Task {name!r}: {missing} are in none of the sampled training rows, and weigh 1.")
    if key == "class_weights":
        weights = [num_rows / (len(counts) * count) if count else 1.0 for count in counts.values()]
    else:
        weights = [max(num_rows - count, 1) / count if count else 1.0 for count in counts.values()]
    logger.info(f"Task {name!r}: {key} of {dict(zip(counts, (round(weight, 3) for weight in weights), strict=True))}.")
    return {key: weights}


def _weights(key: str, task: dict, *, is_ordered: bool) -> list[float]:
    """
    Returns the weights in the order of the labels.

    Args:
        key (`str`): `"class_weights"` or `"pos_weight"`.
        task (`dict`): A task with complete labels, whose weights may be a mapping from labels, or entity types, to
            numbers; those that are not named weigh 1.
        is_ordered (`bool`): Whether the order of the labels is known, as by a recipe.
    """
    weights, labels = task[key], task["labels"]
    if isinstance(weights, dict):
        names = {str(name): weight for name, weight in weights.items()}
        of_tokens = task["type"] == TOKEN_CLASSIFICATION
        of_label = {label: [label, label[2:]] if of_tokens and label != OUTSIDE else [label] for label in labels}
        known = {name for of_one in of_label.values() for name in of_one}
        if unknown := sorted(set(names) - known):
            raise ValueError(f"{key!r} names {unknown}; the labels are {labels}.")
        return [next((names[one] for one in of_one if one in names), 1.0) for of_one in of_label.values()]
    if not is_ordered:
        raise ValueError(
            f"{key!r} is a list, and the order of the labels comes from the data ({labels}). Give a mapping "
            "from labels to weights, or name the labels in the recipe (`labels`)."
        )
    return list(weights) if isinstance(weights, tuple) else weights


def _wrong_rows(tasks: dict[str, dict], rows: Dataset, reasons: dict[str, dict[str, str]]) -> dict[int, str]:
    """Maps the index of each example with a label that it may not have to the reason."""
    wrong: dict[int, str] = {}
    for name, of_task in reasons.items():
        if not of_task:
            continue
        for place, value in enumerate(rows[name]):
            if unknown := sorted(_labels_of(value, tasks[name]) & set(of_task)):
                wrong.setdefault(place, of_task[unknown[0]])
    return wrong
