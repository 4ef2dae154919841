"""Determines the labels of each task: from the recipe, from ClassLabel columns, or from the data."""

import numpy as np
from datasets import ClassLabel, Dataset

from configuration_mtsbert import (
    COSINE_TYPES,
    TOKEN_CLASSIFICATION,
    check_rankings,
    check_task_settings,
    check_tasks,
)
from entities_mtsbert import OUTSIDE, bio_labels, entity_types
from mtsbert.data.examples import ROW
from mtsbert.data.skipped_rows import SkippedRow
from mtsbert.data.sources import SourceDataset


def check_recipe_tasks(tasks: dict[str, dict]) -> None:
    """Checks a recipe's tasks before any data is read. Labels may still be missing. Raises `ValueError`."""
    for name, task in tasks.items():
        try:
            check_task_settings(name, task)
        except ValueError as error:
            raise ValueError(f"Task {name!r}: {error}") from None
    check_rankings(tasks)


def merge_tasks(recipe: dict[str, dict], checkpoint: dict[str, dict]) -> dict[str, dict]:
    """
    Merges the tasks of a recipe into those of the checkpoint that training continues from. A task that both have keeps
    the type, labels, score range and head of the checkpoint. What only concerns the loss (`class_weights`,
    `label_smoothing`, `loss` and `scale`) comes from the recipe, and `min_score` does if it is set there. New tasks of
    the recipe follow at the end.

    Raises:
        `ValueError`: if recipe and checkpoint contradict each other.
    """
    merged = {name: dict(task) for name, task in checkpoint.items()}
    for name, task in recipe.items():
        if name not in checkpoint:
            merged[name] = task
            continue
        for key in ("type", "labels", "score_range", "hidden_size", "multi_label"):
            given, kept = task.get(key), checkpoint[name].get(key)
            if key == "labels" and given and task["type"] == TOKEN_CLASSIFICATION and OUTSIDE not in given:
                given = bio_labels(given)
            if given is not None and list_or_value(given) != list_or_value(kept):
                raise ValueError(
                    f"Task {name!r}: the recipe says {key}: {given}, and the checkpoint was trained with {kept}."
                )
        for key in ("class_weights", "label_smoothing", "loss", "scale"):
            merged[name].pop(key, None)
            if key in task:
                merged[name][key] = task[key]
        if "min_score" in task:
            merged[name]["min_score"] = task["min_score"]
    return merged


def list_or_value(setting):
    return list(setting) if isinstance(setting, tuple) else setting


def complete_tasks(
    tasks: dict[str, dict],
    sources: list[SourceDataset],
    examples: dict[str, dict[str, Dataset]],
    skipped: list[SkippedRow] | None = None,
) -> dict[str, dict]:
    """
    Fills in the labels that a recipe leaves out, and checks that all rows have only known labels.

    Args:
        tasks (`dict[str, dict]`): Task name → `{"type", "labels", ...}`, where labels are optional. Entity types may
            be given instead of BIO tags.
        sources (`list[SourceDataset]`): The datasets of the recipe.
        examples (`dict[str, dict[str, Dataset]]`): Dataset name → split → examples.
        skipped (`list[SkippedRow]`, *optional*): If given, rows with an unknown label are removed from `examples` and
            appended here. Otherwise the first such row is an error.

    Returns:
        `dict[str, dict]`: The tasks with complete labels, as [`MTSBertConfig`] expects them.
    """
    completed = {}
    for name, task in tasks.items():
        completed[name] = dict(task)
        if task["type"] in COSINE_TYPES:
            continue
        labels = task.get("labels") or _declared_labels(name, task, sources) or _found_labels(name, task, examples)
        if task["type"] == TOKEN_CLASSIFICATION and OUTSIDE not in labels:
            labels = bio_labels(labels)
        completed[name]["labels"] = list(labels)
    check_tasks(completed)
    for dataset, splits in examples.items():
        for split, rows in splits.items():
            if not (wrong := _unknown_labels(completed, rows)):
                continue
            places = sorted(wrong)
            found = [SkippedRow(dataset, split, rows[place][ROW], wrong[place]) for place in places]
            if skipped is None:
                raise ValueError(f"Row {found[0].row} of dataset {dataset!r}, split {split!r}: {found[0].reason}")
            skipped += found
            left = rows.select(np.setdiff1d(np.arange(len(rows)), places))
            splits[split] = left.flatten_indices()  # `num_labelled` counts in the table, without its indices
    return completed


def _declared_labels(task: str, settings: dict, sources: list[SourceDataset]) -> list[str] | None:
    """Returns the names of the ClassLabel columns of a text or pair task. They must be the same in all datasets."""
    if settings["type"] == TOKEN_CLASSIFICATION:
        return None  # for tags, the entity types that occur in the data are used
    declared: dict[str, list[str]] = {}
    for source in sources:
        if (column := source.columns.get(task)) is None:
            continue
        feature = next(iter(source.splits.values())).features[column]
        feature = getattr(feature, "feature", feature)  # a list of labels, for a multi-label task
        if isinstance(feature, ClassLabel):
            declared[source.name] = list(feature.names)
    lists = list(declared.values())
    if any(names != lists[0] for names in lists):
        raise ValueError(
            f"The datasets declare different labels for task {task!r}: {declared}. Name them in the recipe."
        )
    return lists[0] if lists else None


def _labels_of(value: str | list | None, settings: dict) -> set[str]:
    """Returns the labels (for a token task: the entity types) in the value of an example."""
    if value is None:
        return set()
    if settings["type"] == TOKEN_CLASSIFICATION:
        return {span["label"] for span in value} - {None}
    return set(value) if settings.get("multi_label") else {value}


def _found_labels(task: str, settings: dict, examples: dict[str, dict[str, Dataset]]) -> list[str]:
    found: set[str] = set()
    for splits in examples.values():
        for rows in splits.values():
            for value in rows[task]:
                found |= _labels_of(value, settings)
    if not found:
        raise ValueError(f"Task {task!r} has no label in any row, and the recipe names none.")
    return sorted(found)


def _unknown_labels(tasks: dict[str, dict], rows: Dataset) -> dict[int, str]:
    """Maps the index of each example with an unknown label to the reason."""
    wrong: dict[int, str] = {}
    for name, settings in tasks.items():
        if settings["type"] in COSINE_TYPES:
            continue
        of_tokens = settings["type"] == TOKEN_CLASSIFICATION
        allowed = set(entity_types(settings["labels"])) if of_tokens else set(settings["labels"])
        for place, value in enumerate(rows[name]):
            if unknown := _labels_of(value, settings) - allowed:
                reason = f"label {sorted(unknown)[0]!r} is not one of task {name!r}, which has {sorted(allowed)}."
                wrong.setdefault(place, reason)
    return wrong
