"""The metrics of each task, as `evaluate.Metric`s that work offline, and the composite metric."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from transformers import EvalPrediction

from answers_mtsbert import MULTI_LABEL_THRESHOLD, probabilities_of
from configuration_mtsbert import (
    PAIR_CLASSIFICATION,
    PAIR_RANKING,
    PAIR_SIMILARITY,
    SCORE_TYPES,
    SEQUENCE_CLASSIFICATION,
    SEQUENCE_REGRESSION,
    TOKEN_CLASSIFICATION,
)
from entities_mtsbert import IGNORE_INDEX, decode_tags, entity_scores, entity_types, without_doubtful
from losses_mtsbert import DEFAULT_SCALE, compares_pairs, cosent_loss, is_labelled, item_losses
from mtsbert.network.embedding_targets import EMBEDDING
from mtsbert.results.embedding_scores import embedding_metrics
from mtsbert.results.ranking import RANKED, RANKED_TEXTS, RankingMetric, rank_own_texts
from mtsbert.results.sizes import AT_SIZE


COMPOSITE = "composite"
PRIMARY_METRIC = {
    SEQUENCE_CLASSIFICATION: "accuracy",
    TOKEN_CLASSIFICATION: "f1",
    PAIR_CLASSIFICATION: "accuracy",
    SEQUENCE_REGRESSION: "spearman",
    PAIR_SIMILARITY: "spearman",
    PAIR_RANKING: "mrr",
}


class _Metric(evaluate.Metric):
    """Base class of metrics that are not loaded from the Hub. Subclasses define their inputs and `_compute`."""

    inputs: str
    feature: Any
    """The type of a single prediction and of a single reference."""

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description=self.inputs,
            features=datasets.Features({"predictions": self.feature, "references": self.feature}),
        )


class ClassificationMetric(_Metric):
    """Accuracy and macro F1 (over the classes that occur), computed with scikit-learn."""

    inputs = "Class ids."
    feature = datasets.Value("int64")

    def _compute(self, predictions, references):
        from sklearn.metrics import accuracy_score, f1_score

        return {
            "accuracy": accuracy_score(references, predictions),
            "macro_f1": f1_score(references, predictions, average="macro", zero_division=0),
        }


class MultiLabelMetric(ClassificationMetric):
    """Share of texts with exactly the right labels, and macro F1 over the labels, computed with scikit-learn."""

    inputs = "Zeros and ones, one for each label."
    feature = datasets.List(datasets.Value("int64"))


class SimilarityMetric(_Metric):
    """
    Spearman and Pearson correlation of cosines and scores, computed with SciPy. 0 if all cosines or all scores are the
    same.
    """

    inputs = "Cosines and scores."
    feature = datasets.Value("float32")

    def _compute(self, predictions, references):
        from scipy.stats import pearsonr, spearmanr

        if len(set(predictions)) < 2 or len(set(references)) < 2:
            return {"spearman": 0.0, "pearson": 0.0}
        return {
            "spearman": spearmanr(predictions, references).statistic,
            "pearson": pearsonr(predictions, references).statistic,
        }


class RegressionMetric(_Metric):
    """
    Spearman correlation, mean absolute error and coefficient of determination (R²) of numbers, computed with SciPy and
    scikit-learn. The correlation is 0 if all numbers of a side are the same, and R² if all references are. All three
    are NaN if a prediction is infinite or NaN, as the loss is.
    """

    inputs = "Numbers."
    feature = datasets.Value("float32")

    def _compute(self, predictions, references):
        from scipy.stats import spearmanr
        from sklearn.metrics import mean_absolute_error, r2_score

        if not np.isfinite(predictions).all():  # scikit-learn raises an error, which would end the run
            return dict.fromkeys(("spearman", "mae", "r2"), np.nan)
        varies = len(set(references)) > 1
        is_ranked = varies and len(set(predictions)) > 1
        return {
            "spearman": spearmanr(predictions, references).statistic if is_ranked else 0.0,
            "mae": mean_absolute_error(references, predictions),
            "r2": r2_score(references, predictions) if varies else 0.0,
        }


class EntityMetric(_Metric):
    """Precision, recall and F1 of entities (exact span and type), computed with seqeval."""

    inputs = "BIO tags of every text."
    feature = datasets.List(datasets.Value("string"))

    def _compute(self, predictions, references):
        from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

        precision, recall, f1, _ = precision_recall_fscore_support(
            references, predictions, average="micro", zero_division=0
        )
        return {"precision": precision, "recall": recall, "f1": f1}


METRICS: dict[str, type[evaluate.Metric]] = {
    SEQUENCE_CLASSIFICATION: ClassificationMetric,
    TOKEN_CLASSIFICATION: EntityMetric,
    PAIR_CLASSIFICATION: ClassificationMetric,
    SEQUENCE_REGRESSION: RegressionMetric,
    PAIR_SIMILARITY: SimilarityMetric,
    PAIR_RANKING: RankingMetric,
}


def metric_of(task: dict) -> evaluate.Metric:
    return (MultiLabelMetric if task.get("multi_label") else METRICS[task["type"]])(keep_in_memory=True)


def loss_key(task: str) -> str:
    """The key of a task's losses in the predictions. Task names contain no dot."""
    return f"{task}.loss"


def reduce_logits(tasks: dict[str, dict]) -> Callable[[dict, dict], dict]:
    """
    Builds the Trainer's `preprocess_logits_for_metrics`, which reduces logits to predictions and losses, so that they
    do not accumulate in memory.

    Returns:
        A function of logits and labels by task. For each task, it returns the predicted ids, `(B,)` or `(B, T)` (valid
        tags), and under `loss_key(task)` the summed loss of each text, `(B,)`, unless the task compares pairs with
        each other. What `logits` has beside the tasks is returned as it is.
    """

    def reduce(logits: dict[str, torch.Tensor], labels: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        reduced = {}
        for name, task in tasks.items():
            reduced[name] = answers(task, logits[name], labels[name])
            if compares_pairs(task):
                continue
            losses = item_losses(task, logits[name], labels[name])
            reduced[loss_key(name)] = losses if losses.dim() == 1 else losses.sum(dim=-1)
        return reduced | {key: values for key, values in logits.items() if key not in tasks}

    return reduce


def answers(task: dict, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    Turns logits into predictions: ids, zeros and ones for a multi-label task, cosines, or numbers. Tags are those of
    every piece; the pipeline lets the first piece of a character decide, and finds each entity that is right here.
    """
    if task["type"] in SCORE_TYPES:
        return logits.squeeze(-1) if task["type"] == SEQUENCE_REGRESSION else logits
    if task["type"] == TOKEN_CLASSIFICATION:
        tags = decode_tags(logits, is_labelled(labels), task["labels"])
        if not has_cuts(task):
            return tags
        return without_doubtful(tags, entity_scores(tags, logits, task), task)
    if not task.get("multi_label"):
        return logits.argmax(dim=-1)
    cuts = [task.get("thresholds", {}).get(label, MULTI_LABEL_THRESHOLD) for label in task["labels"]]
    return (probabilities_of(task, logits) > torch.tensor(cuts, device=logits.device)).long()


def has_cuts(task: dict) -> bool:
    """Whether the metrics of a task depend on how high scores are, not on their order alone."""
    if task["type"] == TOKEN_CLASSIFICATION:
        return bool(task.get("thresholds") or task.get("min_score"))
    return bool(task.get("multi_label") and task.get("thresholds"))


def class_ids(task: dict, labels: np.ndarray) -> np.ndarray:
    """The ids `(N,)` of the likeliest classes where labels are their probabilities `(N, C)`; other labels as given."""
    is_of_one = task["type"] in (SEQUENCE_CLASSIFICATION, PAIR_CLASSIFICATION) and not task.get("multi_label")
    if not is_of_one or labels.ndim == 1:
        return labels
    return np.where(np.isnan(labels[:, 0]), IGNORE_INDEX, labels.argmax(axis=1))


def compute_metrics(tasks: dict[str, dict]) -> Callable[[EvalPrediction], dict[str, float]]:
    """
    Builds the Trainer's `compute_metrics` for predictions from `reduce_logits`.

    Returns:
        A function that returns `<task>_<metric>` and `<task>_loss` for each task that has labels, and `composite`, the
        mean of the primary metrics of these tasks. The loss is the mean over labelled items; if the task compares
        pairs with each other, it is the loss of all pairs together.
    """

    def compute(evaluation: EvalPrediction) -> dict[str, float]:
        results, primary = {}, []
        for name, task in tasks.items():
            labels, predictions = class_ids(task, evaluation.label_ids[name]), evaluation.predictions[name]
            labelled = is_labelled(torch.from_numpy(labels)).numpy()
            if not labelled.any():
                continue
            if task["type"] == PAIR_RANKING:
                embeddings = evaluation.predictions[RANKED]
                texts = evaluation.predictions.get(RANKED_TEXTS)
                ranks, loss = rank_own_texts(embeddings, labels, task.get("scale", DEFAULT_SCALE), texts)
                inputs = {"predictions": ranks}
            else:
                inputs = _metric_inputs(task, predictions, labels, labelled)
                loss = _mean_loss(name, task, evaluation.predictions, labels, labelled)
            scores = metric_of(task).compute(**inputs)
            results.update({f"{name}_{metric}": float(score) for metric, score in scores.items()})
            results[f"{name}_loss"] = loss
            if task["type"] == PAIR_SIMILARITY:
                results |= _at_sizes(name, evaluation.predictions, labels, labelled)
            primary.append(scores[PRIMARY_METRIC[task["type"]]])
        if primary:
            results[COMPOSITE] = float(np.mean(primary))
        return results

    return compute


def _at_sizes(
    name: str, predictions: dict[str, np.ndarray], labels: np.ndarray, labelled: np.ndarray
) -> dict[str, float]:
    """The Spearman correlation of a similarity task for embeddings cut to each of the sizes that were collected."""
    results, metric = {}, SimilarityMetric(keep_in_memory=True)
    for key in predictions:
        if key.startswith(AT_SIZE):
            scores = metric.compute(predictions=predictions[key][labelled], references=labels[labelled])
            results[f"{name}_spearman_at_{key.removeprefix(AT_SIZE)}"] = float(scores["spearman"])
    return results


def _mean_loss(
    name: str, task: dict, predictions: dict[str, np.ndarray], labels: np.ndarray, labelled: np.ndarray
) -> float:
    if not compares_pairs(task):
        return float(predictions[loss_key(name)].sum() / labelled.sum())
    cosines, scores = (torch.from_numpy(values[labelled]) for values in (predictions[name], labels))
    return cosent_loss(cosines, scores, task.get("scale", DEFAULT_SCALE)).item()


ANSWERS, LOGITS = "answers", "logits"  # keys of what an evaluation keeps


class AnswerMetrics:
    """
    Computes the metrics of an evaluation: the Trainer calls `reduce` for each batch and `compute` at the end.

    Args:
        tasks (`dict[str, dict]`): Task name → settings.
        compute_more (`Callable`, *optional*): The user's `compute_metrics`. Its metrics are added to those of the
            tasks, and override metrics with the same name.
        preprocess (`Callable`, *optional*): The user's `preprocess_logits_for_metrics`. `compute_more` and
            `Trainer.predict` then get its result as `predictions` instead of the logits by task.
    """

    def __init__(
        self,
        tasks: dict[str, dict],
        compute_more: Callable[[EvalPrediction], dict] | None = None,
        preprocess: Callable[[dict, dict], Any] | None = None,
    ):
        self._reduce, self._compute = reduce_logits(tasks), compute_metrics(tasks)
        self.compute_more, self.preprocess = compute_more, preprocess
        self._is_asked_for_logits = False

    @property
    def has_more(self) -> bool:
        return self.compute_more is not None

    @property
    def keeps_logits(self) -> bool:
        return self._is_asked_for_logits or self.has_more

    @contextmanager
    def keeping_logits(self, *, alone: bool = False) -> Iterator[None]:
        """
        Temporarily keeps logits as well. This takes memory: `(N, T, K)` numbers for a token task. `alone` leaves out
        what the user's functions make of them.
        """
        before = {name: getattr(self, name) for name in ("_is_asked_for_logits", "compute_more", "preprocess")}
        self._is_asked_for_logits = True
        if alone:
            self.compute_more = self.preprocess = None
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(self, name, value)

    def reduce(self, logits: dict[str, torch.Tensor], labels: dict[str, torch.Tensor]) -> dict[str, Any]:
        embeddings = logits.pop(EMBEDDING, None)
        kept = {ANSWERS: self._reduce(logits, labels)}
        logits = {task: of_task for task, of_task in logits.items() if task in labels}
        if embeddings is not None:
            kept[EMBEDDING] = embeddings
        if self.keeps_logits:
            kept[LOGITS] = logits if self.preprocess is None else self.preprocess(logits, labels)
        return kept

    def compute(self, evaluation: EvalPrediction) -> dict[str, float]:
        def of(kept: str) -> EvalPrediction:
            given = {"inputs": evaluation.inputs, "losses": evaluation.losses}
            return EvalPrediction(evaluation.predictions[kept], evaluation.label_ids, **given)

        results = self._compute(of(ANSWERS))
        if (embeddings := evaluation.predictions.get(EMBEDDING)) is not None:
            results |= embedding_metrics(*np.split(embeddings, 2, axis=1))
        return results if self.compute_more is None else results | self.compute_more(of(LOGITS))


def _metric_inputs(task: dict, predictions: np.ndarray, labels: np.ndarray, labelled: np.ndarray) -> dict:
    if task.get("multi_label"):
        rows = labelled.all(axis=1)
        return {"predictions": predictions[rows], "references": labels[rows]}
    if task["type"] != TOKEN_CLASSIFICATION:
        return {"predictions": predictions[labelled], "references": labels[labelled]}
    names = np.array(task["labels"], dtype=object)
    rows = np.flatnonzero(labelled.any(axis=1))
    return {
        "predictions": [names[predictions[row][labelled[row]]].tolist() for row in rows],
        "references": [names[labels[row][labelled[row]]].tolist() for row in rows],
    }


@dataclass
class Evaluation:
    """The metrics and counts of an evaluation, without its predictions."""

    metrics: dict[str, float]
    """Metrics without the prefix of the split."""
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    """The result of [`count_answers`]."""


def count_answers(
    tasks: dict[str, dict], predictions: dict[str, np.ndarray], labels: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """
    Counts right and wrong predictions in the output of `reduce_logits`.

    Returns:
        For each task with labels: a confusion matrix `(C, C)` of labels (rows) and predictions (columns) for a
        classification task, or `(types, 3)` counts of right, predicted and labelled entities for a token task, with
        the types in the order of `entity_types`. Multi-label tasks and those that answer with a cosine are left out.
    """
    counts = {}
    for name, task in tasks.items():
        right = class_ids(task, labels[name])
        labelled = is_labelled(torch.from_numpy(right)).numpy()
        if not labelled.any() or task.get("multi_label") or task["type"] in SCORE_TYPES:
            continue
        inputs = _metric_inputs(task, predictions[name], right, labelled)
        if task["type"] == TOKEN_CLASSIFICATION:
            counts[name] = _count_entities(entity_types(task["labels"]), **inputs)
        else:
            size = len(task["labels"])
            pairs = inputs["references"] * size + inputs["predictions"]
            counts[name] = np.bincount(pairs, minlength=size * size).reshape(size, size)
    return counts


def _count_entities(types: list[str], predictions: list[list[str]], references: list[list[str]]) -> np.ndarray:
    from seqeval.metrics.sequence_labeling import get_entities

    found, there = set(get_entities(predictions)), set(get_entities(references))
    row = {name: index for index, name in enumerate(types)}
    counts = np.zeros((len(types), 3), dtype=np.int64)
    for column, entities in enumerate((found & there, found, there)):
        for name, _, _ in entities:
            counts[row[name], column] += 1
    return counts


def precision_of(counts: np.ndarray) -> float:
    """Computes precision from the numbers of right, predicted and labelled entities; 0 if none was predicted."""
    return float(counts[0] / max(counts[1], 1))


def recall_of(counts: np.ndarray) -> float:
    return float(counts[0] / max(counts[2], 1))


def f1_score_of(counts: np.ndarray) -> float:
    return float(2 * counts[0] / max(counts[1] + counts[2], 1))
