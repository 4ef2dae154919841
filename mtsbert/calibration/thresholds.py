"""Finds the scores from which answers reach a precision, or the best F1, for every label on its own."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
from scipy.stats import binomtest

from configuration_mtsbert import PAIR_TYPES, SCORE_TYPES, TOKEN_CLASSIFICATION


F1, PRECISION = "f1", "precision"
CONFIDENCE = 0.95  # of the intervals (Wilson's)
DIGITS = 6  # of a threshold, unless scores are nearer to each other


@dataclass
class Scored:
    """All answers that name a label, whatever their score."""

    scores: list[float] = field(default_factory=list)
    is_right: list[bool] = field(default_factory=list)
    num_true: int = 0
    """How often the label is the right answer."""


@dataclass
class Threshold:
    """The answers of one label with at least a certain score."""

    value: float
    num_answers: int
    num_right: int
    num_true: int
    is_reached: bool
    """Whether they have the precision that was asked for. If not, the threshold is that of the highest precision."""

    @property
    def precision(self) -> tuple[float, float, float]:
        """The share of right answers, and its 95 % interval."""
        return share(self.num_right, self.num_answers)

    @property
    def recall(self) -> tuple[float, float, float]:
        """The share of the label's items that are answered with it, and its 95 % interval."""
        return share(self.num_right, self.num_true)


def share(number: int, total: int) -> tuple[float, float, float]:
    """A share, and the borders of its 95 % interval (Wilson); 0, and 0 to 1, of nothing."""
    if not total:
        return 0.0, 0.0, 1.0
    interval = binomtest(number, total).proportion_ci(CONFIDENCE, method="wilson")
    return number / total, interval.low, interval.high


def parse_target(text: str) -> float | None:
    """Parses `"precision=0.95"` into 0.95, and `"f1"` into None."""
    kind, _, number = text.partition("=")
    if text == F1:
        return None
    try:
        target = float(number) if kind == PRECISION else 0.0
    except ValueError:
        target = 0.0
    if not 0.0 < target <= 1.0:
        raise ValueError(f"--target {text!r}: write precision=0.95, or another share above 0, or f1.")
    return target


def choose(scored: Scored, precision: float | None) -> Threshold | None:
    """
    Chooses the threshold of a label.

    Args:
        scored ([`Scored`]): The answers that name it.
        precision (`float`, *optional*): What the answers above the threshold must reach, with as many of them as
            possible. By default the threshold has the highest F1.

    Returns:
        [`Threshold`], or None if no answer names the label. If none of them is right, it is 1, at which the label is
        never given.
    """
    order = np.argsort(-np.array(scored.scores), kind="stable")
    scores, right = np.array(scored.scores)[order], np.array(scored.is_right, dtype=int)[order]
    if not len(scores):
        return None
    if not right.any():
        return Threshold(1.0, len(scores), 0, scored.num_true, is_reached=False)
    last = np.flatnonzero(np.append(scores[1:] < scores[:-1], True))  # answers of the same score go together
    num_right, num_answers = right.cumsum()[last], last + 1
    if precision is None:
        best, is_reached = int(np.argmax(2 * num_right / (num_answers + scored.num_true))), True
    else:
        reached = np.flatnonzero(num_right >= precision * num_answers - 1e-9)
        is_reached = len(reached) > 0
        shares = num_right / num_answers
        best = int(reached[-1] if is_reached else np.flatnonzero(shares == shares.max())[-1])
    lowest, *lower = scores[last[best] :].tolist()
    value = _between(max(lower, default=0.0), lowest)
    return Threshold(value, int(num_answers[best]), int(num_right[best]), scored.num_true, is_reached)


def _between(below: float, lowest: float) -> float:
    """
    A threshold for scores from `lowest` on and none from `below` down: in the middle, as doors differ in the last
    digits, and rounded where that leaves it between the two. Entities are compared with it in float32.
    """
    middle = (below + lowest) / 2
    values = (round(middle, DIGITS), middle, (middle + lowest) / 2)
    return next((value for value in values if below < np.float32(value) and value < lowest), middle)


def answers_by_label(
    tasks: dict[str, dict], examples: Iterable[dict], answers: Iterable[dict]
) -> dict[str, dict[str, Scored]]:
    """
    Compares the answers of a pipeline that leaves none out with what is right.

    Args:
        tasks (`dict[str, dict]`): The tasks to compare, with their settings.
        examples (`Iterable[dict]`): What is right, by task (see `mtsbert/data/examples.py`); None is not known.
        answers (`Iterable[dict]`): Answers for the same texts (see [`MTSBertPipeline`]).

    Returns:
        Task → label, or entity type → [`Scored`].
    """
    found: dict[str, dict[str, Scored]] = {task: defaultdict(Scored) for task in tasks}
    for example, answer in zip(examples, answers, strict=True):
        for task, settings in tasks.items():
            if example[task] is not None and task in answer:
                for label, score, is_right in _compared(settings, example[task], answer[task], found[task]):
                    found[task][label].scores.append(score)
                    found[task][label].is_right.append(is_right)
    return found


def _compared(settings: dict, right: Any, answer: Any, counts: dict[str, Scored]) -> list[tuple[str, float, bool]]:
    """The answers of a text: label, score, and whether it is right. Counts the right labels."""
    if settings["type"] == TOKEN_CLASSIFICATION:
        unknown = [span for span in right if span["label"] is None]
        marks = {(span["start"], span["end"], span["label"]) for span in right if span["label"] is not None}
        for _, _, label in marks:
            counts[label].num_true += 1
        known = [
            entity
            for entity in answer
            if not any(entity["start"] < span["end"] and span["start"] < entity["end"] for span in unknown)
        ]
        return [(e["label"], e["score"], (e["start"], e["end"], e["label"]) in marks) for e in known]
    if settings.get("soft_labels"):
        right = max(right, key=itemgetter("probability"))["label"]
    labels = right if settings.get("multi_label") else [right]
    for label in labels:
        counts[label].num_true += 1
    if settings.get("multi_label"):
        # Scores of 0, to which a sharp temperature rounds, are above no threshold.
        return [(label, score, label in labels) for label, score in answer["scores"].items() if score > 0.0]
    return [(answer["label"], answer["score"], answer["label"] == right)]


def tunable(tasks: dict[str, dict], *, with_pairs: bool) -> dict[str, dict]:
    """The tasks that have thresholds; those on pairs only if there are pairs."""
    return {
        name: settings
        for name, settings in tasks.items()
        if settings["type"] not in SCORE_TYPES and (with_pairs or settings["type"] not in PAIR_TYPES)
    }
