"""Evaluates all tasks: exact losses, the metrics of each task and of the user, and logits if requested."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, EvalPrediction
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput

from configuration_mtsbert import CALIBRATIONS, PAIR_SIMILARITY
from mtsbert.calibration.fitting import Fit, fit
from mtsbert.data.features import num_labelled_rows
from mtsbert.data.labels import names_of_results
from mtsbert.network.embedding_targets import EmbeddingTargets, TargetCollator
from mtsbert.results.embedding_scores import embedding_metric_names
from mtsbert.results.metrics import ANSWERS, COMPOSITE, LOGITS, AnswerMetrics, Evaluation, count_answers, has_cuts
from mtsbert.training.batches import BatchingTrainer
from mtsbert.training.losses.nonfinite import numbered


MOST_ROWS = 5_000  # of the validation split, by which scores are calibrated: their logits are kept in memory
CALIBRATION = "calibration"  # prefix of the metrics of that pass

logger = logging.getLogger(__name__)


class EvaluatingTrainer(BatchingTrainer):
    """
    A Trainer that evaluates all tasks of its model. The metrics of the user's `compute_metrics` are added to those of
    the tasks.

    Subclasses must set `tasks`, `task_weights` and `features_of`.
    """

    tasks: dict[str, dict]
    task_weights: dict[str, float]
    features_of: Callable[..., Dataset]

    def __init__(
        self,
        *args,
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
        preprocess_logits_for_metrics: Callable | None = None,
        **kwargs,
    ):
        self.evaluations: dict[str, Evaluation] = {}  # prefix of the metrics → the last evaluation
        self._evaluations_of_steps: dict[int, Evaluation] = {}
        self.calibration: dict[str, Fit] = {}  # by task, what the scores of this run's model were calibrated with
        self.eval_targets: EmbeddingTargets | None = None  # the initial embeddings of the validation texts
        self.answer_metrics = AnswerMetrics(self.tasks)
        super().__init__(
            *args,
            compute_metrics=compute_metrics,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
            **kwargs,
        )

    # The Trainer assigns both once, and so may users whenever they like. It calls ours, which call theirs.

    @property
    def compute_metrics(self) -> Callable[[EvalPrediction], dict]:
        return self.answer_metrics.compute

    @compute_metrics.setter
    def compute_metrics(self, function: Callable[[EvalPrediction], dict] | None) -> None:
        self.answer_metrics.compute_more = function

    @property
    def preprocess_logits_for_metrics(self) -> Callable:
        return self.answer_metrics.reduce

    @preprocess_logits_for_metrics.setter
    def preprocess_logits_for_metrics(self, function: Callable | None) -> None:
        self.answer_metrics.preprocess = function

    def train(self, *args, **kwargs):
        self._check_best_metric()
        self.evaluations.clear()  # they are of weights that are about to change
        self._evaluations_of_steps.clear()
        calibrated = [task for task, settings in self.tasks.items() if not settings.keys().isdisjoint(CALIBRATIONS)]
        self._forget_calibration()
        tuned = [task for task in self.tasks if self.tasks[task].get("thresholds") and task not in self._unchanged]
        if tuned and self.provenance.is_continued:
            then = "; tune them again after it (`mtsbert tune-thresholds`)" if self.args.lora_merge else ""
            logger.warning(
                f"The thresholds of {tuned} were tuned for the scores of the model that this run goes on from. They "
                f"are kept{then}."
            )
        if self.model is not None:  # a trial of `hyperparameter_search` has no model yet
            self._open_eval_targets()  # before a checkpoint changes the weights
        output = super().train(*args, **kwargs)
        if self.state.best_model_checkpoint and self.args.load_best_model_at_end:
            self.evaluations.pop("eval", None)  # it belongs to the last weights, which have been replaced
            if self.state.best_global_step in self._evaluations_of_steps:
                self.evaluations["eval"] = self._evaluations_of_steps[self.state.best_global_step]
        calibrates = self.args.calibration and self.args.lora_merge  # an adapter alone has the config of its base
        if calibrates and isinstance(self.eval_dataset, Dataset) and self.hp_search_backend is None:
            measured = self.evaluations.get("eval")
            self.calibrate()
            if measured is not None and "eval" not in self.evaluations:
                super().predict(self.eval_dataset, metric_key_prefix="eval")  # neither logged nor told to callbacks
                found = self.evaluations["eval"]
                found.metrics = measured.metrics | found.metrics  # how far the embedding has moved is not asked again
        lost = [task for task in calibrated if self.tasks[task].keys().isdisjoint(CALIBRATIONS)]
        if lost and self.args.calibration:
            logger.warning(
                f"The scores of {lost} were calibrated in the model that this run goes on from, and are not any more: "
                "that takes 200 labelled validation rows, or a frozen head (`freeze_heads`) on a frozen encoder."
            )
        return output

    @property
    def _unchanged(self) -> set[str]:
        """The tasks whose scores a run leaves as they are, since encoder and head are frozen to its end."""
        is_fixed = self.args.freeze_encoder and self.args.thaw_at is None
        has_own_layers = self.model is None or self.model.config.num_task_layers  # which other tasks may train
        return set(self.args.freeze_heads or ()) if is_fixed and not has_own_layers else set()

    @property
    def _measures_embedding(self) -> bool:
        """
        Whether evaluations say how far the embedding has moved: a frozen encoder's moves only from another's. All
        trials of a search do, so that they can be compared by it.
        """
        can_move = not self.args.freeze_encoder or self.args.thaw_at is not None or self.hp_search_backend is not None
        return isinstance(self.eval_dataset, Dataset) and (self.reference is not None or can_move)

    def _open_eval_targets(self) -> None:
        if self.eval_targets is None and self._measures_embedding:
            self.eval_targets = self.targets_of(self.eval_dataset)

    def get_train_dataloader(self) -> DataLoader:
        if self.is_training:
            self._open_eval_targets()  # of a trial, whose model was made after `train` has begun
        return super().get_train_dataloader()

    def call_model_init(self, trial: Any = None) -> torch.nn.Module:
        model = super().call_model_init(trial)
        if trial is not None:  # `model_init` may make another encoder for it
            self.eval_targets = self.targets = None
        if self.args.lora_merge:
            for settings in model.config.tasks.values():
                forget(settings)  # it may be a checkpoint, whose weights are about to change
        return model

    def _task_settings(self) -> list[dict[str, dict]]:
        """The settings of the tasks, wherever they are kept."""
        return [self.tasks] if self.model is None else [self.tasks, self.model.config.tasks]

    def _forget_calibration(self) -> None:
        """Forgets what was fitted to other weights; an adapter that is saved alone keeps that of its base."""
        unchanged = self._unchanged
        self.calibration = {}
        if not self.args.lora_merge:
            return
        for tasks in self._task_settings():
            for task in tasks.keys() - unchanged:
                forget(tasks[task])

    def calibrate(self, rows: Dataset | Mapping[str, Dataset] | None = None) -> dict[str, Fit]:
        """
        Fits what turns scores into probabilities of being right, and puts it into the config of the model: a
        `temperature` for every task on labels (arXiv 1706.04599), and `platt` for the scores of entities. `train` does
        this at its end if there is an `eval_dataset`, unless `calibration` is off.

        Args:
            rows (`Dataset` or `dict[str, Dataset]`, *optional*, defaults to `eval_dataset`):
                Labelled rows that the model was not trained on. Of more than 5,000, so many are drawn.

        Returns:
            By task, what was fitted. Tasks with fewer than 200 labelled texts, or entities found, stay as they are,
            and those whose scores have a higher log loss with it. Evaluations so far are dropped, so that the model
            card does not have them, if a task cuts at other answers now (`thresholds`, `min_score`).
        """
        if not self.args.lora_merge:
            raise ValueError("`lora_merge: false` keeps the scores of the checkpoint that the adapter is for.")
        if rows is None and not isinstance(self.eval_dataset, Dataset):
            raise ValueError("There is nothing to calibrate on: give `rows`, or the Trainer an `eval_dataset`.")
        self._read_eval_dataset()
        rows = self.eval_dataset if rows is None else self.features_of(rows, "validation", "rows")
        if len(rows) > MOST_ROWS:
            rows = rows.shuffle(seed=self.args.seed).select(range(MOST_ROWS))
        losses_alone, self.args.prediction_loss_only = self.args.prediction_loss_only, False
        try:
            with self.answer_metrics.keeping_logits(alone=True):
                output = super().predict(rows, metric_key_prefix=CALIBRATION)
        finally:
            self.args.prediction_loss_only = losses_alone
        self.evaluations.pop(CALIBRATION, None)
        fits: dict[str, Fit] = {}
        for task, logits in output.predictions.items():
            labels = torch.from_numpy(output.label_ids[task])
            found = fit(self.tasks[task], torch.from_numpy(logits), labels) if task in self.tasks else None
            if found is not None and not found.helps:
                logger.info(
                    f"The scores of {task!r} stay as they are: what was fitted to {found.num_items:,} answers makes "
                    f"their log loss {found.loss_after:.3f} instead of {found.loss_before:.3f}."
                )
            elif found is not None:
                fits[task] = found
                for tasks in self._task_settings():
                    forget(tasks[task])
                    tasks[task].update(found.settings)
                logger.info(
                    f"The scores of {task!r} are calibrated on {found.num_items:,} answers: log loss "
                    f"{found.loss_before:.3f} before, {found.loss_after:.3f} after; expected calibration error "
                    f"{found.error_before:.3f} before, {found.error_after:.3f} after."
                )
        self.calibration |= fits
        if any(has_cuts(self.tasks[task]) for task in fits):
            self.evaluations.clear()
        return fits

    def _check_best_metric(self) -> None:
        """Raises `ValueError` if `metric_for_best_model` is none of the metrics that an evaluation will have."""
        name = self.args.metric_for_best_model
        follows = self.args.load_best_model_at_end or self.args.save_strategy == "best"
        follows = follows or self.args.lr_scheduler_type == "reduce_lr_on_plateau"
        if not follows or name is None or not isinstance(self.eval_dataset, Dataset) or self.answer_metrics.has_more:
            return
        labelled = [task for task in self.tasks if num_labelled_rows(self.eval_dataset, task)]
        known = [*names_of_results({task: self.tasks[task] for task in labelled}), "loss", COMPOSITE]
        if self.eval_targets is not None or self._measures_embedding:
            known += embedding_metric_names(len(self.eval_dataset))
        similarities = [task for task in labelled if self.tasks[task]["type"] == PAIR_SIMILARITY]
        known += [f"{task}_spearman_at_{size}" for task in similarities for size in self.args.matryoshka_dims or ()]
        if self.args.prediction_loss_only:
            known = ["loss"]
        if name.removeprefix("eval_") not in [*known, "runtime", "samples_per_second"]:
            raise ValueError(
                f"`metric_for_best_model` is {name!r}, which no evaluation of this run reports; there are {known}."
            )

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        if eval_dataset is None:
            self._read_eval_dataset()
        else:
            eval_dataset = self.features_of(eval_dataset, "test", "eval_dataset")
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        if self.eval_targets is None or rows is not self.eval_dataset:
            return self._with_all_rows(super().get_eval_dataloader, eval_dataset)
        collator, self.data_collator = self.data_collator, TargetCollator(self.data_collator, self.eval_targets)
        try:
            return self._with_all_rows(super().get_eval_dataloader, numbered(rows))
        finally:
            self.data_collator = collator

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        rows = self.features_of(test_dataset, "test", "test_dataset")
        return self._with_all_rows(super().get_test_dataloader, rows)

    def _with_all_rows(self, get_dataloader: Callable, rows: Any) -> DataLoader:
        """
        Keeps the rows that `dataloader_drop_last` leaves out in training. Keeps their order if logits are returned;
        otherwise sorts them by length, which is faster.
        """
        strategy, drop_last = self.args.train_sampling_strategy, self.args.dataloader_drop_last
        if self.answer_metrics.keeps_logits:
            self.args.train_sampling_strategy = "sequential"
        self.args.dataloader_drop_last = False
        try:
            return get_dataloader(rows)
        finally:
            self.args.train_sampling_strategy, self.args.dataloader_drop_last = strategy, drop_last

    def evaluate(
        self,
        eval_dataset: Dataset | Mapping[str, Dataset] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Like `Trainer.evaluate`, but a mapping of datasets is evaluated as a single dataset, like `eval_dataset`."""
        if eval_dataset is None:
            self._read_eval_dataset()
        else:
            eval_dataset = self.features_of(eval_dataset, "test", "eval_dataset")
        callbacks = self.callback_handler.callbacks
        if not self.is_training:  # it would miss its metric, and say that it is disabled
            early_stopping = [one for one in callbacks if isinstance(one, EarlyStoppingCallback)]
            self.callback_handler.callbacks = [one for one in callbacks if one not in early_stopping]
        try:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        finally:
            self.callback_handler.callbacks = callbacks

    def _read_eval_dataset(self) -> None:
        """Reads rows that were assigned after the Trainer was built."""
        if self.eval_dataset is not None:
            self.eval_dataset = self.features_of(self.eval_dataset, "validation", "eval_dataset")

    def predict(
        self,
        test_dataset: Dataset | Mapping[str, Dataset],
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "test",
    ) -> PredictionOutput:
        """
        Like `Trainer.predict`, for rows with or without labels.

        Returns:
            `predictions`: task → logits in the order of the rows, with shape `(N, C)`; `(N, T, K)` for a token task,
            where values beyond the end of a text are meaningless; `(N,)` cosines for a similarity task. `label_ids`:
            task → labels, -100 (NaN for scores) if missing. `metrics`: without the scores of tasks without labels.
        """
        rows = self.features_of(test_dataset, "test", "test_dataset")
        with self.answer_metrics.keeping_logits():
            return super().predict(rows, ignore_keys, metric_key_prefix)

    def hyperparameter_search(
        self,
        hp_space: Callable | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        n_trials: int = 20,
        direction: str | list[str] | None = None,
        backend: Any = None,
        hp_name: Callable | None = None,
        **kwargs,
    ):
        """
        Like `Trainer.hyperparameter_search`, but looks for the highest `eval_composite` by default.

        Args:
            compute_objective (`Callable`, *optional*): Metrics of an evaluation → the number to optimize.
            direction (`str`, *optional*): `"maximize"` or `"minimize"`, which a `compute_objective` needs.
            hp_space, n_trials, backend, hp_name, kwargs: As in transformers.
        """
        if compute_objective is not None and direction is None:
            raise ValueError(
                "`compute_objective` needs a `direction`: 'minimize' for a loss or an error, 'maximize' for a score."
            )
        try:
            return super().hyperparameter_search(
                hp_space,
                compute_objective or (lambda metrics: metrics[f"eval_{COMPOSITE}"]),
                n_trials,
                direction or "maximize",
                backend,
                hp_name,
                **kwargs,
            )
        finally:
            self.hp_search_backend = None  # also after a trial that failed

    def evaluation_loop(
        self, *args, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval", **kwargs
    ) -> EvalLoopOutput:
        if ignore_keys is not None:  # beside all but the logits, and not instead of them
            ignore_keys = [*self.model.config.keys_to_ignore_at_inference, *ignore_keys]
        with _same_weights(self.model):  # `bf16_full_eval` and `fp16_full_eval` cast them for good
            output = super().evaluation_loop(
                *args, ignore_keys=ignore_keys, metric_key_prefix=metric_key_prefix, **kwargs
            )
        losses = {task: output.metrics.get(f"{metric_key_prefix}_{task}_loss") for task in self.task_weights}
        present = [self.task_weights[task] * loss for task, loss in losses.items() if loss is not None]
        if output.predictions is None:  # `prediction_loss_only`: keep transformers' mean over batches
            return output
        if present:
            output.metrics[f"{metric_key_prefix}_loss"] = sum(present)
        else:  # rows without labels
            del output.metrics[f"{metric_key_prefix}_loss"]
        self._keep_evaluation(output, metric_key_prefix)
        return output._replace(predictions=output.predictions.get(LOGITS))

    def _keep_evaluation(self, output: EvalLoopOutput, prefix: str) -> None:
        """Keeps metrics and counts for the model card, without the predictions."""
        metrics = {key.removeprefix(f"{prefix}_"): value for key, value in output.metrics.items()}
        counts = count_answers(self.tasks, output.predictions[ANSWERS], output.label_ids)
        self.evaluations[prefix] = Evaluation(metrics, counts)
        if self.is_training and prefix == "eval":
            self._evaluations_of_steps[self.state.global_step] = self.evaluations[prefix]


def forget(settings: dict) -> None:
    """Removes the calibration of a task from its settings."""
    for key in CALIBRATIONS:
        settings.pop(key, None)


@contextmanager
def _same_weights(model: torch.nn.Module) -> Iterator[None]:
    """Context in which a model may be cast to another precision; afterwards it has the weights from before."""
    tensors = [*model.parameters(), *model.buffers()]
    before = [tensor.data for tensor in tensors]
    try:
        yield
    finally:
        for tensor, data in zip(tensors, before, strict=True):
            if tensor.dtype != data.dtype:
                tensor.data = data
