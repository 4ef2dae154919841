"""transformers' Trainer for several tasks: one loss from many, exact means, and a report of each."""

import logging
import math
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from huggingface_hub.constants import HF_HOME
from torch.utils.data import DataLoader, Sampler
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput

from heads_mtsbert import is_labelled, num_items
from modeling_mtsbert import MTSBertModel
from mtsbert.arguments import FEATURE_CACHE_DTYPES, TEMPERATURE, WEIGHTS, MTLTrainingArguments
from mtsbert.data.collator import MultiTaskCollator
from mtsbert.data.features import DATASET, unlabelled_row
from mtsbert.data.samplers import DatasetSampler, FilledSampler, dataset_weights, padding_share
from mtsbert.machine import peak_memory_gb, reset_peak_memory
from mtsbert.network.dropout import fast_attention_dropout, use_fast_dropout
from mtsbert.network.feature_cache import ROW, CachedCollator, FeatureCache, Texts, open_feature_cache, rows_for_cache
from mtsbert.network.freezing import Freezing
from mtsbert.network.frozen_prefix import FrozenPrefix
from mtsbert.network.padding_free import PaddingFree
from mtsbert.results.metrics import Evaluation, compute_metrics, count_answers, reduce_logits
from mtsbert.results.model_card import write_model_card
from mtsbert.results.provenance import Provenance
from mtsbert.results.tables import parameter_table
from mtsbert.training.balancing import BALANCING
from mtsbert.training.checked_steps import CheckedTrainer
from mtsbert.training.gradients import GradientAggregation, GradientStatistics
from mtsbert.training.nonfinite import FiniteCheck, NumberedCollator, numbered
from mtsbert.training.optimization import (
    head_learning_rate,
    peak_learning_rates,
    set_learning_rates,
    step_decay_schedule,
)
from mtsbert.training.task_log import TaskLog


TEXTS_TO_CHECK = 64  # from which a few of unlike length are taken

logger = logging.getLogger(__name__)


class MTSBertTrainer(CheckedTrainer):
    """
    Trains an [`MTSBertModel`] on features (see `data/features.py`); `dataset_names` says which dataset each number in
    their `dataset` column is, and `row_numbers` what messages call the training rows (see `name_rows`).

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
        row_numbers: Sequence[int] | None = None,
        provenance: Provenance | None = None,
        **kwargs,
    ):
        tasks = model.config.tasks
        if unknown := sorted(set(args.task_weights) - set(tasks)):
            raise ValueError(f"`task_weights` names unknown tasks {unknown}; the tasks are {list(tasks)}.")
        if args.do_train and args.sampling_weights and set(args.sampling_weights) != set(dataset_names):
            raise ValueError(
                f"`sampling_weights` names {list(args.sampling_weights)}; the training datasets are "
                f"{list(dataset_names)}."
            )
        self.dataset_names = list(dataset_names)
        self.row_numbers = row_numbers
        self.provenance = provenance
        self.evaluations: dict[str, Evaluation] = {}  # prefix of the metrics → the last one
        self.training_metrics: dict[str, float] = {}
        self._evaluations_of_steps: dict[int, Evaluation] = {}
        self.task_weights = {task: float(args.task_weights.get(task, 1.0)) for task in tasks}
        if not args.torch_compile:  # which writes dropout its own way
            use_fast_dropout(model)
        self.freezing = Freezing(model, args)
        self.learning_rates = peak_learning_rates(model, self.freezing.parts, args)
        self.balancing = BALANCING[args.loss_balancing](tasks, self.task_weights)
        self.gradient_statistics = GradientStatistics(model)
        self.gradient_aggregation = (
            GradientAggregation(args.gradient_aggregator, model) if args.gradient_aggregator else None
        )
        self._log_since_line, self._log_of_step = TaskLog(list(tasks)), TaskLog(list(tasks))
        self._tasks_to_measure: set[str] = set()
        self.finite_check = FiniteCheck(tasks)
        self._sampler: DatasetSampler | None = None
        self._filler: int | None = None  # which row fills up the last batches of several processes
        self.feature_cache: FeatureCache | None = None
        self._while_training: ExitStack | None = None
        super().__init__(
            model=model,
            args=args,
            processing_class=processing_class,
            data_collator=MultiTaskCollator(processing_class, tasks),
            compute_metrics=compute_metrics(tasks),
            preprocess_logits_for_metrics=reduce_logits(tasks),
            **kwargs,
        )
        self.add_callback(_StepCallback(self))
        if args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience))

    # The frozen lower end of the encoder, computed once

    def train(self, *args, **kwargs):
        """Adds to the metrics the seconds that the feature cache took before training, and the peak of memory."""
        if self.freezing.is_total:
            raise ValueError("Everything is frozen, so there is nothing to train.")
        self.feature_cache, self._cache_seconds = None, 0.0
        self._evaluations_of_steps.clear()
        reset_peak_memory()
        try:
            # Several backward passes through one compiled forward pass, as gradient statistics need them.
            keep_buffers = torch._functorch.config.patch(donated_buffer=False)
            with fast_attention_dropout(), keep_buffers, ExitStack() as self._while_training:
                output = super().train(*args, **kwargs)
        finally:
            self._while_training = None
        output.metrics["feature_cache_runtime"] = self._cache_seconds
        output.metrics["train_peak_memory_gb"] = peak_memory_gb()
        self.training_metrics = output.metrics
        if self.state.best_model_checkpoint and self.args.load_best_model_at_end:
            self.evaluations.pop("eval", None)  # of the last weights, which are gone
            if self.state.best_global_step in self._evaluations_of_steps:
                self.evaluations["eval"] = self._evaluations_of_steps[self.state.best_global_step]
        return output

    def get_train_dataloader(self) -> DataLoader:
        # Called in training once a checkpoint to resume from is loaded, whose weights the cache must be of.
        if self._while_training is None:
            return super().get_train_dataloader()
        self._while_training.close()  # of an earlier call: `auto_find_batch_size` begins again
        self.feature_cache = None
        if (prefix := self._prefix_to_cache()) is not None:
            began = time.perf_counter()
            self.feature_cache = self._open_feature_cache(prefix)
            self._cache_seconds = time.perf_counter() - began
        plain = rows, collator = self.train_dataset, self.data_collator
        if self.feature_cache is None:
            self._leave_out_padding()
            rows = numbered(rows)
        else:
            if not prefix.is_whole_encoder:
                self._leave_out_padding(first_layer=prefix.num_layers)
            self._while_training.enter_context(prefix.skipped())
            rows = rows_for_cache(rows)
            collator = CachedCollator(self.processing_class, self.model.config.tasks, self.feature_cache)
        if self.args.world_size > 1 and not self.args.dataloader_drop_last:
            self._filler = len(rows)
            rows = concatenate_datasets([rows, unlabelled_row(rows, self.model.config.tasks)])
        self.train_dataset, self.data_collator = rows, NumberedCollator(collator)
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset, self.data_collator = plain
            self._filler = None

    def _prefix_to_cache(self) -> FrozenPrefix | None:
        prefix, asked = FrozenPrefix.of(self.freezing), self.args.feature_cache
        if asked and prefix is None:
            raise ValueError(
                "`feature_cache` needs a frozen lower end of the encoder: `freeze_encoder`, or `freeze_embeddings` "
                "with `num_frozen_layers`."
            )
        if asked is None and prefix is not None:
            rows_of_a_step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
            num_epochs = self.args.num_train_epochs
            if self.args.max_steps > 0:
                num_epochs = self.args.max_steps * rows_of_a_step / len(self.train_dataset)
            asked = prefix.is_whole_encoder and num_epochs > 1
        return prefix if asked else None

    def _open_feature_cache(self, prefix: FrozenPrefix) -> FeatureCache | None:
        try:
            return open_feature_cache(
                prefix,
                self.train_dataset,
                folder=Path(self.args.feature_cache_dir or Path(HF_HOME) / "mtsbert" / "feature_cache"),
                dtype=FEATURE_CACHE_DTYPES[self.args.feature_cache_dtype],
                limit_gb=self.args.feature_cache_gb,
                batch_size=self.args.per_device_eval_batch_size,
                padding_side=self.processing_class.padding_side,
                autocast=self.accelerator.autocast,
            )
        except ValueError as error:
            if self.args.feature_cache:
                raise
            logger.warning(f"No feature cache: {error}")
            return None

    # Padding

    def _leave_out_padding(self, first_layer: int = 0) -> None:
        """From here to the end of training the encoder's layers from the given one on see no padding."""
        if not self.args.padding_free or self.args.torch_compile:
            return
        texts = Texts.of(self.train_dataset.select(range(min(len(self.train_dataset), TEXTS_TO_CHECK))))
        input_ids, attention_mask = texts.padded(texts.sample(), self.args.device, self.processing_class.padding_side)
        self.model.eval()
        try:
            padding_free = PaddingFree(self.model, first_layer=first_layer)
            padding_free.check(input_ids=input_ids, attention_mask=attention_mask)
        except ValueError as error:
            logger.info(f"Training with padding: {error}")
            return
        self._while_training.enter_context(padding_free.active())

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return super().floating_point_ops(inputs) if "input_ids" in inputs else 0  # cached states: hardly any

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
        if not model.training:
            outputs = model(**inputs, num_items_in_batch=num_items_in_batch)
            loss = sum(weight * outputs.losses[task] for task, weight in self.task_weights.items())
            return (loss, outputs) if return_outputs else loss
        self.freezing.set_modes()  # `training_step` has just put the whole model in training mode
        rows = inputs.pop(ROW, ())
        outputs = model(**inputs, num_items_in_batch=num_items_in_batch)
        labels = inputs["labels"]
        shares = {task: num_items(labels[task]) / num_items_in_batch[task].clamp(min=1) for task in self.task_weights}
        examples = {task: num_examples(labels[task]) for task in self.task_weights}
        self._log_since_line.add(outputs.losses, shares, examples)
        if self.balancing.learns_from_losses:
            self._log_of_step.add(outputs.losses, shares, examples)
        loss = self.balancing.combine(outputs.losses, shares)
        self.finite_check.add(rows, outputs.logits, labels, outputs.losses, loss)
        if self._tasks_to_measure:
            present = _of_present_tasks(outputs.losses, shares)
            self.gradient_statistics.measure(
                {task: loss for task, loss in present.items() if task in self._tasks_to_measure}
            )
            self._tasks_to_measure -= present.keys()
        if self.gradient_aggregation is not None:
            self._task_losses = list(_of_present_tasks(self.balancing.weighted(outputs.losses), shares).values())
        # DDP averages gradients over processes, but the counts are sums over them already.
        loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch=None) -> torch.Tensor:
        if self.gradient_aggregation is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        loss = self.compute_loss(model, self._prepare_inputs(inputs), num_items_in_batch=num_items_in_batch)
        self.gradient_aggregation.backward(self._task_losses)
        return loss.detach()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to the training loss what each task did since the last line: loss, weight, examples, gradients."""
        if "loss" in logs:
            losses, examples = self._log_since_line.take(self._sum_over_processes)
            weights = self.balancing.weights()
            logs |= {f"{task}_loss": loss for task, loss in losses.items()}
            logs |= {f"{task}_weight": weight for task, weight in weights.items()}
            logs |= {f"{task}_examples": number for task, number in examples.items()}
            logs |= self.gradient_statistics.report()
        super().log(logs, start_time)

    def _sum_over_processes(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(tensor, reduction="sum") if self.args.world_size > 1 else tensor

    def begin_training(self) -> None:
        super().begin_training()
        self.freezing.begin(self.state.max_steps)
        logger.info(f"What is trained:\n{parameter_table(self.freezing, self.learning_rates)}")
        if self.is_fsdp_enabled and self.args.gradient_statistics_steps > 0:
            logger.info("The gradients of single tasks are not measured: FSDP shares out the weights.")

    def begin_step(self) -> None:
        """Before an optimizer step: thaws what is due, and says which tasks' gradients are to be measured."""
        super().begin_step()
        self._log_before = self._log_since_line.sums, {**self.gradient_statistics.gradients}
        self.freezing.move_to(step=self.state.global_step, epoch=self.state.epoch)
        every = 0 if self.is_fsdp_enabled else self.args.gradient_statistics_steps
        if every > 0 and self.state.global_step % every == 0 and self.gradient_statistics.parameters:
            self._tasks_to_measure = set(self.task_weights)  # each in the next batch that has labels of it

    def end_backward(self) -> bool:
        is_left_out = super().end_backward()
        if self.args.world_size > 1 and not is_left_out:  # DDP knows the model's parameters only
            for parameter in self.balancing.parameters():
                parameter.grad = self.accelerator.reduce(parameter.grad, reduction="mean")
        return is_left_out

    def leave_step_out(self) -> None:
        super().leave_step_out()
        self._log_since_line.sums, self.gradient_statistics.gradients = self._log_before
        self._log_of_step.sums = None
        for parameter in self.balancing.parameters():
            parameter.grad = None

    def end_step(self) -> None:
        """After an optimizer step: lets the balancing know how the tasks fared in it."""
        for parameter in self.balancing.parameters():
            parameter.grad = None  # the Trainer clears the gradients of the model's parameters only
        if self.balancing.learns_from_losses:
            losses, _ = self._log_of_step.take(self._sum_over_processes)
            self.balancing.end_step(losses)

    # What a checkpoint keeps of the balancing

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.is_fsdp_enabled:  # FSDP2 gives the model a class of its own, which nobody else could load
            kind = type(self.model)
            kind.__name__, kind.__module__ = MTSBertModel.__name__, MTSBertModel.__module__
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            self.balancing.save(self.args.output_dir if output_dir is None else output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.balancing.load(resume_from_checkpoint)

    # Order of the data

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        rows = self.train_dataset if train_dataset is None else train_dataset
        if self._filler is None:
            return self._sampler_of(rows)
        sampler = self._sampler_of(rows.select(range(self._filler)))
        batches_at_once = 1 if self.accelerator.split_batches else self.args.world_size
        return FilledSampler(sampler, filler=self._filler, multiple=self._train_batch_size * batches_at_once)

    def _sampler_of(self, rows: Dataset) -> Sampler | None:
        if rows is None or self.args.train_sampling_strategy == "sequential":
            return super()._get_train_sampler(rows)
        dataset_ids, lengths = rows[DATASET][:], rows[self.args.length_column_name][:]
        by_length = self.args.train_sampling_strategy == "group_by_length"
        self._sampler = DatasetSampler(
            dataset_ids,
            batch_size=self.args.train_batch_size,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            lengths=lengths if by_length else None,
            sampling=self.args.dataset_sampling,
            weights=self._sampling_weights(dataset_ids),
        )
        share = padding_share(self._sampler, lengths, self.args.per_device_train_batch_size)
        logger.info(f"Of the batches, {share:.1%} is padding.")
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
        self.balancing.begin_epoch(epoch)
        return super()._run_epoch(epoch=epoch, **kwargs)

    # Learning rates

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        created_before = self.optimizer is not None
        with self.freezing.lifted():  # frozen parameters are in a group as well: some of them thaw
            optimizer = super().create_optimizer(model)
        if not created_before:
            set_learning_rates(optimizer, self.freezing.parts, self.learning_rates)
            if learned := self.balancing.parameters():
                rate = head_learning_rate(self.args)
                optimizer.add_param_group({"params": learned, "lr": rate, "weight_decay": 0.0})
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
        self._keep_evaluation(output, metric_key_prefix)
        return output

    def _keep_evaluation(self, output: EvalLoopOutput, prefix: str) -> None:
        """For the model card: numbers and counts, not the answers."""
        if output.predictions is None:
            return
        metrics = {key.removeprefix(f"{prefix}_"): value for key, value in output.metrics.items()}
        counts = count_answers(self.model.config.tasks, output.predictions, output.label_ids)
        self.evaluations[prefix] = Evaluation(metrics, counts)
        if self.is_training and prefix == "eval":
            self._evaluations_of_steps[self.state.global_step] = self.evaluations[prefix]

    # Model card

    @property
    def is_training(self) -> bool:
        return self._while_training is not None

    def create_model_card(
        self,
        language: str | list[str] | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
    ) -> None:
        """Ours in place of the Trainer's, which knows nothing of tasks. `license` is that of the model, if known."""
        if self.is_world_process_zero():
            write_model_card(
                self,
                model_name=model_name,
                finetuned_from=finetuned_from,
                language=language,
                license=license,
                tags=tags,
            )


class _StepCallback(TrainerCallback):
    """Lets the Trainer act when training and optimizer steps begin and end."""

    def __init__(self, trainer: MTSBertTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.begin_training()

    def on_step_begin(self, args, state, control, **kwargs):
        self.trainer.begin_step()

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.trainer.end_backward()

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.end_step()

    def on_push_begin(self, args, state, control, **kwargs):
        if self.trainer.is_training:  # otherwise whoever pushes sees to the card, once the weights are saved
            self.trainer.create_model_card()


def num_examples(labels: torch.Tensor) -> torch.Tensor:
    """How many rows of a batch have a label, as a tensor without dimensions."""
    labelled = is_labelled(labels)
    return (labelled if labelled.dim() == 1 else labelled.any(dim=1)).sum()


def _of_present_tasks(losses: dict[str, torch.Tensor], shares: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {task: loss for task, loss in losses.items() if shares[task] > 0}
