"""Fits what turns scores into probabilities, and measures how far they are from it."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import logsigmoid, one_hot

from answers_mtsbert import calibrated, probabilities_of
from configuration_mtsbert import CALIBRATIONS, SCORE_TYPES, TOKEN_CLASSIFICATION
from entities_mtsbert import EPSILON, IGNORE_INDEX, OUTSIDE, decode_tags, entity_scores
from losses_mtsbert import is_labelled


LEAST_ITEMS = 200  # labelled texts, or entities found, below which nothing is fitted
NUM_BINS = 15  # as in arXiv 1706.04599
ROWS_AT_ONCE = 256
LOG_TEMPERATURES = (-3.0, 3.0)


@dataclass
class Fit:
    """The calibration of a task."""

    settings: dict
    """What is added to the settings of the task: `temperature` and `smoothing`, or `platt`."""
    num_items: int
    """Labelled texts (of a multi-label task, times labels), or entities found."""
    error_before: float
    error_after: float
    """Expected calibration error on the rows that it was fitted on."""
    loss_before: float
    loss_after: float
    """Log loss there: what is fitted makes it as small as it can."""

    @property
    def helps(self) -> bool:
        """Whether scores are no worse with it. Undoing a label smoothing that was not learned makes them worse."""
        return self.loss_after <= self.loss_before


def expected_calibration_error(scores: np.ndarray, is_right: np.ndarray, num_bins: int = NUM_BINS) -> float:
    """
    The mean distance of scores from the share of right answers, in bins of equal width (arXiv 1706.04599).

    Args:
        scores (`np.ndarray` of shape `(N,)`): Scores of answers, in [0, 1].
        is_right (`np.ndarray` of shape `(N,)`): Whether they are right.
    """
    bins = np.minimum((scores * num_bins).astype(int), num_bins - 1)
    sizes = np.bincount(bins, minlength=num_bins)
    gaps = np.bincount(bins, weights=scores - is_right, minlength=num_bins)
    return float(np.abs(gaps[sizes > 0]).sum() / len(scores))


def fit(settings: dict, logits: torch.Tensor, labels: torch.Tensor) -> Fit | None:
    """
    Fits the calibration of a task on the logits of texts that it was not trained on.

    Args:
        settings (`dict`): Settings of the task. A calibration that it already has is ignored.
        logits (`torch.Tensor` of shape `(N, C)` or `(N, T, K)`): Of a sequence, pair or token classification.
        labels (`torch.Tensor` of shape `(N,)`, `(N, C)` or `(N, T)`): As the model takes them.

    Returns:
        [`Fit`], or None if there is nothing to calibrate (cosines), or there are too few labels.
    """
    settings = {key: value for key, value in settings.items() if key not in CALIBRATIONS}
    if settings["type"] in SCORE_TYPES:
        return None
    if settings["type"] == TOKEN_CLASSIFICATION:
        return fit_entities(settings, *scored_entities(settings, logits, labels))
    # In 16 bits, the numbers of a text may overflow, which says nothing about others.
    rows = is_labelled(labels).reshape(len(labels), -1).all(dim=1) & logits.isfinite().all(dim=1)
    logits, labels = logits[rows].double(), labels[rows]
    if len(logits) < LEAST_ITEMS:
        return None
    shares = labels if labels.dim() == 2 else one_hot(labels, logits.shape[1])
    learned = {"smoothing": settings["label_smoothing"]} if settings.get("label_smoothing") else {}

    def loss(found: dict) -> float:
        # From logits: where probabilities are rounded to 0, all temperatures would be the same.
        scaled = calibrated(settings | found, logits).double()
        if settings.get("multi_label"):
            return 0.0 - logsigmoid(torch.where(labels.bool(), scaled, -scaled)).mean().item()  # and no -0.0
        return 0.0 - (shares * scaled.log_softmax(dim=-1)).sum(dim=1).mean().item()

    def with_temperature(log_temperature: float) -> dict:
        return {"temperature": round(float(np.exp(log_temperature)), 6), **learned}

    def doubt(found: dict) -> float:
        """The mean probability of another answer."""
        scores, _ = scored_labels(settings | found, logits, labels)
        return 1.0 - np.where((scores < 0.5) & is_multi, 1.0 - scores, scores).mean()

    is_multi = settings.get("multi_label", False)
    (lowest, highest), objective = LOG_TEMPERATURES, loss
    scores, shares_right = scored_labels(settings, logits, labels)
    if (shares_right == (scores.round() if is_multi else 1.0)).all():
        # The loss would be least without any doubt. The rule of succession leaves some: as if one more were wrong.
        least = 1.0 / (len(scores) + 2)
        highest, objective = 0.0, lambda found: abs(doubt(found) - least)
    best = minimize_scalar(lambda x: objective(with_temperature(x)), bounds=(lowest, highest), method="bounded").x
    fitted = with_temperature(best)
    scored = [scored_labels(settings | more, logits, labels) for more in ({}, fitted)]
    errors = (expected_calibration_error(*either) for either in scored)
    return Fit(fitted, len(scored[0][0]), *errors, loss({}), loss(fitted))


def fit_entities(settings: dict, scores: np.ndarray, is_right: np.ndarray) -> Fit | None:
    is_number = np.isfinite(scores)
    scores, is_right = scores[is_number], is_right[is_number]
    if len(scores) < LEAST_ITEMS or is_right.all() or not is_right.any():
        return None
    logits = torch.from_numpy(scores).logit(eps=EPSILON).numpy()
    model = LogisticRegression(C=np.inf).fit(logits[:, None], is_right)
    slope, intercept = round(float(model.coef_[0, 0]), 6), round(float(model.intercept_[0]), 6)
    if slope <= 0:  # surer where it is wrong: no scale helps
        return None
    fitted = {"platt": [slope, intercept]}
    after = expit(slope * logits + intercept)
    errors = [expected_calibration_error(either, is_right) for either in (scores, after)]
    right = [np.where(is_right, either, 1.0 - either) for either in (scores, after)]  # the probability of what is so
    losses = [0.0 - float(np.log(either.clip(min=EPSILON)).mean()) for either in right]
    return Fit(fitted, len(scores), *errors, *losses)


def scored_labels(settings: dict, logits: torch.Tensor, labels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """
    The score of the likeliest label of every text, and whether it is right, or its probability where `labels` are
    those of the classes `(N, C)`; of a multi-label task, the score of every label, and whether the text has it.
    """
    found = probabilities_of(settings, logits)
    if settings.get("multi_label"):
        return found.flatten().numpy(), labels.flatten().bool().numpy()
    scores, best = found.max(dim=-1)
    is_right = best == labels if labels.dim() == 1 else labels.gather(1, best.unsqueeze(1)).squeeze(1)
    return scores.numpy(), is_right.numpy()


def scored_entities(settings: dict, logits: torch.Tensor, labels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """
    The score of every entity that is found, and whether type and borders are right.

    Args:
        settings (`dict`): Settings of the token task.
        logits (`torch.Tensor` of shape `(N, T, K)`): Of the tags.
        labels (`torch.Tensor` of shape `(N, T)`): Ids of the right tags, `IGNORE_INDEX` where they are not known.
    """
    names = settings["labels"]
    inner = torch.tensor([tag.startswith("I-") for tag in names])
    begins = torch.tensor([tag.startswith("B-") for tag in names])
    scores, is_right = [], []
    for first in range(0, len(logits), ROWS_AT_ONCE):
        given = labels[first : first + ROWS_AT_ONCE]
        block = logits[first : first + ROWS_AT_ONCE].float()
        tags = decode_tags(block, is_labelled(given), names)
        found = entity_scores(tags, block, settings)
        given = given.where(given != IGNORE_INDEX, names.index(OUTSIDE))
        # An entity is right if all its tags are, and neither it nor the right one goes on after them.
        wrong = (tags != given).long()
        starts = begins[tags]
        number = starts.cumsum(dim=1) * (tags != names.index(OUTSIDE))
        mistakes = torch.zeros(len(tags), tags.shape[1] + 1, dtype=torch.long).scatter_add(1, number, wrong)
        follows = torch.nn.functional.pad(inner[given][:, 1:], (0, 1))  # the right entity goes on at the next position
        ends = torch.nn.functional.pad(number[:, 1:], (0, 1)) != number
        mistakes.scatter_add_(1, number, (ends & follows).long())
        scores.append(found[starts])
        is_right.append(mistakes.gather(1, number)[starts] == 0)
    if not scores:
        return np.zeros(0), np.zeros(0, dtype=bool)
    return torch.cat(scores).numpy(), torch.cat(is_right).numpy()
