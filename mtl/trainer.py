"""transformers' Trainer for several tasks: one loss from many, exact means, and a report of each."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase, Trainer

from modeling_mtsbert import MTSBertModel, num_items
from mtl.arguments import MTLTrainingArguments
from mtl.collator import MultiTaskCollator
from mtl.features import DATASET
from mtl.freezing import freeze, frozen_modules
from mtl.metrics import compute_metrics, reduce_logits
from mtl.optimization import set_head_learning_rate, step_decay_schedule
from mtl.samplers import TEMPERATURE, WEIGHTS, DatasetSampler, dataset_weights


class MTSBertTrainer(Trainer):
    """
    Trains an [`MTSBertModel`] on features (see `mtl/features.py`); `dataset_names` says which dataset each number in
    their `dataset` column is.

    The loss is the weighted sum of the tasks' losses, and each of them is its mean over the labelled items of the
    whole optimizer step: the same for one batch of 32, for 4 accumulated ones of 8, and for 2 processes with 16.
    `eval_loss` and `eval_<task>_loss` are exact means over the evaluation data in the same way.
    """

    args: MTLTrainingArguments
    loss_is_scaled_for_ga = True  # `num_items_in_batch` counts the whole optimizer step

    def __init__(
        self,
        model: MTSBertModel,
        args: MTLTrainingArguments,
        processing_class: PreTrainedTokenizerBase,
        *,
        dataset_names: Sequence[str] = ("train",),
        **kwargs,
    ):
        tasks = model.config.tasks
        if unknown := sorted(set(args.task_weights) - set(tasks)):
            raise ValueError(f"`task_weights` names unknown tasks {unknown}; the tasks are {list(tasks)}.")
        if args.sampling_weights and set(args.sampling_weights) != set(dataset_names):
            raise ValueError(
                f"`sampling_weights` names {list(args.sampling_weights)}; the training datasets are "
                f"{list(dataset_names)}."
            )
        self.dataset_names = list(dataset_names)
        self.task_weights = {task: float(args.task_weights.get(task, 1.0)) for task in tasks}
        self.frozen_modules = frozen_modules(model, args)
        freeze(self.frozen_modules)
        self._logged_losses: dict[str, torch.Tensor] = {}  # summed since the last line of the log
        self._logged_from_step = 0
        self._sampler: DatasetSampler | None = None
        super().__init__(
            model=model,
            args=args,
            processing_class=processing_class,
            data_collator=MultiTaskCollator(processing_class, tasks),
            compute_metrics=compute_metrics(tasks),
            preprocess_logits_for_metrics=reduce_logits(tasks),
            **kwargs,
        )
        if args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience))

    @property
    def everything_frozen(self) -> bool:
        return not any(parameter.requires_grad for parameter in self.model.parameters())

    # Loss

    def _get_num_items_in_batch(
        self, batch_samples: list[dict], device: torch.device
    ) -> dict[str, torch.Tensor] | None:
        """Labelled items of every task over the micro-batches of one optimizer step and over all processes."""
        if not batch_samples:
            return None
        counts = torch.stack(
            [
                torch.stack([num_items(batch["labels"][task]) for batch in batch_samples]).sum()
                for task in self.task_weights
            ]
        ).to(device)
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, reduction="sum")
        return dict(zip(self.task_weights, counts, strict=True))

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: dict[str, torch.Tensor] | None = None,
    ):
        if model.training:
            for module in self.frozen_modules.values():
                module.eval()  # `training_step` has just put the whole model in training mode
        outputs = model(**inputs, num_items_in_batch=num_items_in_batch)
        loss = sum(weight * outputs.losses[task] for task, weight in self.task_weights.items())
        if model.training:
            if not self._logged_losses:
                self._logged_from_step = self.state.global_step
            for task, task_loss in outputs.losses.items():
                self._logged_losses[task] = self._logged_losses.get(task, 0.0) + task_loss.detach()
            # DDP averages gradients over processes, but the counts are sums over them already.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds each task's mean loss since the last line to the training loss."""
        if "loss" in logs and self._logged_losses:
            steps = self.state.global_step - self._logged_from_step
            losses = torch.stack(list(self._logged_losses.values()))
            if self.args.world_size > 1:
                losses = self.accelerator.reduce(losses, reduction="sum")
            for task, loss in zip(self._logged_losses, (losses / steps).tolist(), strict=True):
                logs[f"{task}_loss"] = loss
            self._logged_losses = {}
        super().log(logs, start_time)

    # Order of the data

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        rows = self.train_dataset if train_dataset is None else train_dataset
        if rows is None or self.args.train_sampling_strategy == "sequential":
            return super()._get_train_sampler(train_dataset)
        dataset_ids = rows[DATASET][:]
        by_length = self.args.train_sampling_strategy == "group_by_length"
        self._sampler = DatasetSampler(
            dataset_ids,
            batch_size=self.args.train_batch_size,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            lengths=rows[self.args.length_column_name][:] if by_length else None,
            sampling=self.args.dataset_sampling,
            weights=self._sampling_weights(dataset_ids),
        )
        return self._sampler

    def _sampling_weights(self, dataset_ids: list[int]) -> list[float] | None:
        if self.args.dataset_sampling == TEMPERATURE:
            counts = Counter(dataset_ids)
            sizes = [counts[dataset] for dataset in range(len(self.dataset_names))]
            return dataset_weights(sizes, self.args.sampling_temperature)
        if self.args.dataset_sampling == WEIGHTS:
            return [self.args.sampling_weights[name] for name in self.dataset_names]
        return None

    def _run_epoch(self, *, epoch: int, **kwargs):
        # The epoch does not reach a sampler through accelerate's wrappers when a run of several processes is resumed
        # within an epoch.
        if self._sampler is not None:
            self._sampler.set_epoch(epoch)
        return super()._run_epoch(epoch=epoch, **kwargs)

    # Learning rates

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        created_before = self.optimizer is not None
        optimizer = super().create_optimizer(model)
        if not created_before and self.args.head_learning_rate is not None:
            set_head_learning_rate(optimizer, self.model.heads.parameters(), self.args.head_learning_rate)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        if self.args.step_decay_every is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.args.max_steps > 0:
            raise ValueError("`step_decay_every` counts epochs and cannot be used with `max_steps`.")
        steps_per_epoch = num_training_steps / self.args.num_train_epochs
        self.lr_scheduler = step_decay_schedule(
            self.optimizer if optimizer is None else optimizer,
            num_warmup_steps=self.args.get_warmup_steps(num_training_steps),
            steps_between=max(1, math.ceil(self.args.step_decay_every * steps_per_epoch)),
            factor=self.args.step_decay_factor,
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    # Evaluation

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        losses = {task: output.metrics.get(f"{metric_key_prefix}_{task}_loss") for task in self.task_weights}
        output.metrics[f"{metric_key_prefix}_loss"] = sum(
            self.task_weights[task] * loss for task, loss in losses.items() if loss is not None
        )
        return output
