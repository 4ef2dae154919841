"""Turns logits into answers: calibrated probabilities, and the labels that are sure enough.

Letters used below: `C` classes.
"""

from typing import Any

import torch


try:  # part of a package: how `trust_remote_code=True` loads this file
    from .configuration_mtsbert import SCORE_TYPES, SEQUENCE_REGRESSION
except ImportError:  # run from a clone, with the repository root on `sys.path`
    from configuration_mtsbert import SCORE_TYPES, SEQUENCE_REGRESSION


MULTI_LABEL_THRESHOLD = 0.5
LEAST_SHARE = 0.01  # of a probability, that is left of it where smoothing alone would account for all of it


def calibrated(settings: dict, logits: torch.Tensor) -> torch.Tensor:
    """
    Calibrates the logits `(…, C)` of a sequence or pair classification. They are returned unchanged if the task
    has no `temperature`.

    A network that is trained with label smoothing ε learns (1 - ε) p + ε / C instead of the probabilities p. This is
    undone first, by `smoothing`. The logarithms of the result are then divided by the temperature (arXiv 1706.04599).
    Neither step changes the order of the classes.
    """
    if (temperature := settings.get("temperature")) is None:
        return logits
    logits, smoothing = logits.float(), settings.get("smoothing", 0.0)
    if settings.get("multi_label"):  # each label is a choice between two classes
        of_two = torch.stack([logits, torch.zeros_like(logits)], dim=-1)
        yes, no = _without_smoothing(of_two, smoothing).unbind(dim=-1)
        return (yes - no) / temperature
    return _without_smoothing(logits, smoothing) / temperature


def _without_smoothing(logits: torch.Tensor, smoothing: float) -> torch.Tensor:
    if not smoothing:
        return logits
    learned = logits.softmax(dim=-1)
    true = (learned - smoothing / logits.shape[-1]) / (1.0 - smoothing)
    return torch.maximum(true, LEAST_SHARE * learned).clamp(min=torch.finfo(torch.float32).tiny).log()


def probabilities_of(settings: dict, logits: torch.Tensor) -> torch.Tensor:
    """
    Turns logits `(…, C)` into calibrated probabilities, which add up to 1 unless the task is multi-label. Numbers of a
    regression `(…, 1)` are returned as they are.
    """
    logits = calibrated(settings, logits).float()
    if settings["type"] == SEQUENCE_REGRESSION:
        return logits
    return logits.sigmoid() if settings.get("multi_label") else logits.softmax(dim=-1)


def labels_of(
    settings: dict, probabilities: torch.Tensor, *, top_k: int | None = None, threshold: float | None = None
) -> dict:
    """
    The answer of a sequence or pair classification, or of a regression.

    Args:
        settings (`dict`): Settings of the task.
        probabilities (`torch.Tensor` of shape `(C,)`): Of its labels; the number `(1,)` of a regression.
        top_k, threshold (*optional*): See [`~MTSBertPipeline.__call__`].
    """
    if settings["type"] == SEQUENCE_REGRESSION:
        return {"score": probabilities.item()}
    scores = dict(zip(settings["labels"], probabilities.tolist(), strict=True))
    best = scores if top_k is None else dict(sorted(scores.items(), key=lambda item: item[1], reverse=True)[:top_k])
    cuts = settings.get("thresholds", {}) if threshold is None else dict.fromkeys(scores, threshold)
    if settings.get("multi_label"):
        chosen = [label for label, score in scores.items() if score > cuts.get(label, MULTI_LABEL_THRESHOLD)]
        return {"labels": chosen, "scores": best}
    label = max(scores, key=scores.__getitem__)
    is_sure = scores[label] >= cuts.get(label, 0.0) < 1.0  # at 1 never, also if the score is rounded to 1
    return {"label": label if is_sure else None, "score": scores[label], "scores": best}


def check_threshold(threshold: Any, tasks: dict[str, dict]) -> None:
    """Raises `ValueError` unless the threshold is None, a number in [0, 1], or a dictionary of these by task."""
    for task, cut in threshold.items() if isinstance(threshold, dict) else [(None, threshold)]:
        where = "" if task is None else f" for task {task!r}"
        if task is not None and task not in tasks:
            raise ValueError(f"`threshold` names the task {task!r}; the model has {list(tasks)}.")
        if task is not None and tasks[task]["type"] in SCORE_TYPES:
            raise ValueError(f"`threshold` names the task {task!r}, a number, which has no labels to leave out.")
        if cut is None and task is None:
            continue
        if not isinstance(cut, int | float) or isinstance(cut, bool) or not 0.0 <= cut <= 1.0:
            raise ValueError(f"`threshold`{where} is {cut!r}; it must be a probability in [0, 1].")


def threshold_of(task: str, threshold: float | dict[str, float] | None) -> float | None:
    return threshold.get(task) if isinstance(threshold, dict) else threshold
