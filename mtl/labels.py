"""The label list of every task: from the recipe, from ClassLabel columns, or found in the data."""

from datasets import ClassLabel

from configuration_mtsbert import TASK_KEYS, TASK_TYPES, TOKEN_CLASSIFICATION, check_tasks
from entities_mtsbert import OUTSIDE, bio_labels
from mtl.datasets import TEXT, SourceDataset


def check_recipe_tasks(tasks: dict[str, dict]) -> None:
    """Raises `ValueError` for a task of a recipe that is wrong whatever the data say. Labels may still be missing."""
    for name, task in tasks.items():
        if name == TEXT:
            raise ValueError(f"A task cannot be called {TEXT!r}: that is the role of the text in `columns`.")
        if not isinstance(task, dict) or not set(task) <= set(TASK_KEYS) or task.get("type") not in TASK_TYPES:
            raise ValueError(
                f"Task {name!r} must be a mapping of {list(TASK_KEYS)} with a type of {list(TASK_TYPES)}; "
                f"got {task!r}."
            )


def complete_tasks(
    tasks: dict[str, dict], sources: list[SourceDataset], examples: dict[str, dict[str, list[dict]]]
) -> dict[str, dict]:
    """
    Fills in the labels that a recipe left out, and checks all rows against the labels.

    Args:
        tasks: Task name → `{"type", "labels"}`, labels optional; entity types stand for their BIO tags.
        sources: The datasets of the recipe.
        examples: Dataset name → split → examples.

    Returns:
        The tasks with full label lists, as [`MTSBertConfig`] takes them.
    """
    completed = {}
    for name, task in tasks.items():
        of_tokens = task["type"] == TOKEN_CLASSIFICATION
        labels = task.get("labels")
        if not labels:
            labels = _declared_labels(name, sources) or _found_labels(name, of_tokens, examples)
        if of_tokens and OUTSIDE not in labels:
            labels = bio_labels(labels)
        completed[name] = {"type": task["type"], "labels": list(labels)}
    check_tasks(completed)
    for name, task in completed.items():
        _check_rows(name, task, examples)
    return completed


def _declared_labels(task: str, sources: list[SourceDataset]) -> list[str] | None:
    """The names of the ClassLabel columns that feed a sequence task; they must agree."""
    declared: dict[str, list[str]] = {}
    for source in sources:
        if (column := source.columns.get(task)) is None:
            continue
        feature = next(iter(source.splits.values())).features[column]
        if isinstance(feature, ClassLabel):
            declared[source.name] = list(feature.names)
    lists = list(declared.values())
    if any(names != lists[0] for names in lists):
        raise ValueError(
            f"The datasets declare different labels for task {task!r}: {declared}. Name them in the recipe."
        )
    return lists[0] if lists else None


def _values(task: str, of_tokens: bool, example: dict) -> set[str]:
    value = example.get(task)
    if value is None:
        return set()
    return {span["label"] for span in value} if of_tokens else {value}


def _found_labels(task: str, of_tokens: bool, examples: dict[str, dict[str, list[dict]]]) -> list[str]:
    found: set[str] = set()
    for splits in examples.values():
        for rows in splits.values():
            for example in rows:
                found |= _values(task, of_tokens, example)
    if not found:
        raise ValueError(f"Task {task!r} has no label in any row, and the recipe names none.")
    return sorted(found)


def _check_rows(task: str, settings: dict, examples: dict[str, dict[str, list[dict]]]) -> None:
    of_tokens = settings["type"] == TOKEN_CLASSIFICATION
    allowed = {label[2:] for label in settings["labels"][1:]} if of_tokens else set(settings["labels"])
    for dataset, splits in examples.items():
        for split, rows in splits.items():
            for row, example in enumerate(rows):
                if unknown := _values(task, of_tokens, example) - allowed:
                    raise ValueError(
                        f"Row {row} of dataset {dataset!r}, split {split!r}: label {sorted(unknown)[0]!r} is not one "
                        f"of task {task!r}, which has {sorted(allowed)}."
                    )
