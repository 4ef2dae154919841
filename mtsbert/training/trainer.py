"""The Trainer for multi-task models: combined loss, exact means over optimizer steps, and logging for each task."""

import copy
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from configuration_mtsbert import PAIR_RANKING
from losses_mtsbert import compares_pairs
from modeling_mtsbert import MTSBertModel
from mtsbert.adapters.lora import add_adapters, check_no_others, lora_settings, restore_adapters, save_adapters
from mtsbert.adapters.saved import check_base, check_can_be_pushed, check_folder, check_saved_alone, save_alone
from mtsbert.arguments import STATIC, MTLTrainingArguments, own_settings
from mtsbert.data.collator import MultiTaskCollator
from mtsbert.data.features import NEGATIVE_IDS, num_labelled_rows
from mtsbert.data.in_memory import is_features
from mtsbert.data.labels import check_metric_names
from mtsbert.data.loading import load_split
from mtsbert.distillation.teacher import Teacher
from mtsbert.input_arguments import MAX_LENGTH
from mtsbert.letter_case.embedding import has_letter_case, read_letter_case, warn_of_frozen_cases
from mtsbert.machine import peak_memory_gb, reset_peak_memory
from mtsbert.network.dropout import fast_attention_dropout, use_fast_dropout
from mtsbert.network.embedding_targets import load_reference
from mtsbert.network.freezing import Freezing
from mtsbert.network.parts import is_of_encoder
from mtsbert.network.starting_point import (
    check_encoder,
    check_longest,
    check_whole,
    longest_input,
    tokenizer_of,
)
from mtsbert.results.model_card import write_model_card
from mtsbert.results.provenance import Provenance, provenance_in_memory, public_name
from mtsbert.results.tables import parameter_table
from mtsbert.training.adaptive_freezing import AdaptiveFreezingTrainer
from mtsbert.training.batches import check_sampling, training_datasets
from mtsbert.training.checkpoints import check_same_settings, check_same_tasks
from mtsbert.training.optimization import check_beside_given, peak_learning_rates
from mtsbert.training.resuming import StepCallback
from mtsbert.training.text_parts import with_parts


BALANCING_STATE, LORA_STATE = "loss_balancing", "lora"  # keys in the state of the Trainer, for checkpoints
# Arguments that a Trainer reads only when it is built.
READ_ONCE = ("teacher", "embedding_reference", "embedding_distillation_parts", "precision", "early_stopping_patience")
SPLIT_OF = {"train_dataset": "train", "eval_dataset": "validation"}  # names of the splits in messages

HALVES = (torch.bfloat16, torch.float16)

logger = logging.getLogger(__name__)


class MTSBertTrainer(AdaptiveFreezingTrainer):
    """
    transformers' `Trainer` for an [`MTSBertModel`] and its tasks. Datasets are raw: texts, and a column of labels for
    each task. They are checked and tokenized before the first step.

    The loss is the weighted sum of the tasks' losses, and each of them is its mean over the labelled items of the
    whole optimizer step: the same for one batch of 32, for 4 accumulated ones of 8, and for 2 processes with 16.
    Where a loss compares pairs with each other, it compares all pairs of the step. `eval_loss` and `eval_<task>_loss`
    are exact in the same way, over the whole evaluation data.

    Args:
        model ([`MTSBertModel`], *optional*): The model to train. Either this or `model_init`.
        args ([`MTLTrainingArguments`] or `TrainingArguments`, *optional*):
            How to train. Of plain `TrainingArguments`, what was set is taken, and the rest has the defaults of
            [`MTLTrainingArguments`].
        data_collator (`Callable`, *optional*, defaults to [`MultiTaskCollator`]):
            Features of several rows → a batch of `input_ids`, `attention_mask` and `labels` by task.
        train_dataset, eval_dataset (`Dataset` or `dict[str, Dataset]`, *optional*):
            A `datasets.Dataset` with the columns `text`, `text_pair` where texts are compared, and one for each task
            (see `columns`); labels may be missing, in single rows or altogether. A mapping of names to such datasets
            trains on all of them, and is evaluated as one. What [`load_data`] returns is taken as well.
        processing_class (`PreTrainedTokenizerBase`, *optional*): The tokenizer. Default: that of the model's encoder.
        model_init (`Callable`, *optional*):
            Makes the model anew for every call of `train`, as `hyperparameter_search` needs it.
        compute_metrics (`Callable[[EvalPrediction], dict]`, *optional*):
            Metrics beside those of the tasks. `predictions` and `label_ids` are mappings of task to array.
        callbacks, optimizers, optimizer_cls_and_kwargs, preprocess_logits_for_metrics:
            As for `Trainer`. An optimizer of yours must have all weights that are trained.
        columns (`dict`, *optional*):
            Column → `"text"`, `"text_pair"`, `"text_negative"` or a task, where they are called otherwise; for
            several datasets also dataset name → such a mapping. Rows to evaluate or predict may lack those of labels.
        max_length (`int`, *optional*, defaults to 128, or what the encoder reads if that is less):
            Tokens of a text that are read; the rest is cut.
        provenance ([`Provenance`], *optional*): What the model card says of the data. Default: what can be seen here.

    Raises:
        `ValueError`: for data or arguments that cannot be used, before the first step.

    Example:

        >>> trainer = MTSBertTrainer(model, MTLTrainingArguments("out"), train_dataset=news["train"])
        >>> trainer.train()
        >>> trainer.predict(news["test"]).predictions["topic"].shape
        (7600, 4)
    """

    args: MTLTrainingArguments

    def __init__(
        self,
        model: MTSBertModel | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[dict]], dict] | None = None,
        train_dataset: Dataset | Mapping[str, Dataset] | None = None,
        eval_dataset: Dataset | Mapping[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        model_init: Callable[..., MTSBertModel] | None = None,
        compute_loss_func: Callable | None = None,
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, LambdaLR | None] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable | None = None,
        *,
        columns: Mapping | None = None,
        max_length: int | None = None,
        provenance: Provenance | None = None,
    ):
        args = MTLTrainingArguments.of(args)
        if compute_loss_func is not None:
            raise ValueError(
                "`compute_loss_func` is not used here: the tasks' own losses are weighted by `task_weights` and "
                "`loss_balancing`."
            )
        if (model is None) == (model_init is None):
            raise ValueError("Give either a `model`, or a `model_init` that makes one.")
        self._made_first: MTSBertModel | None = None
        if model is None:
            set_seed(args.seed)  # as before every other call
            self.model_init = model_init
            self._made_first = Trainer.call_model_init(self)
        first = self._made_first if model is None else model
        check_whole(first)
        check_encoder(first)
        if getattr(data_collator, "__module__", "").startswith("transformers."):  # a class's own, or a function's
            raise ValueError(
                "`data_collator` is one of transformers, which knows nothing of the labels of tasks. Leave it out: "
                "the Trainer pads by itself. One of your own may derive from `MultiTaskCollator`."
            )
        self.tasks: dict[str, dict] = first.config.tasks
        if unknown := sorted(set(args.task_weights) - set(self.tasks)):
            raise ValueError(f"`task_weights` names unknown tasks {unknown}; the tasks are {list(self.tasks)}.")
        processing_class = processing_class or tokenizer_of(first)
        encoder_config = first.config.encoder_config
        longest = longest_input(processing_class, encoder_config)
        if max_length is None:
            max_length = min(MAX_LENGTH, longest)
        check_longest(max_length, processing_class, encoder_config, letter_case=has_letter_case(first))
        longest = max(longest, max_length)  # what was asked for counts
        processing_class = self._tokenizer = read_letter_case(first, processing_class)
        processing_class.model_max_length = longest  # which is saved, and which other libraries ask a tokenizer
        processing_class.padding_side = "right"  # as the pipeline pads: on the left, absolute positions would shift
        self._reading = {"columns": columns, "max_length": max_length, "longest": longest}
        self._reading["texts_alone"] = args.learns_from_texts
        given = {"train_dataset": train_dataset, "eval_dataset": eval_dataset}
        features = {
            name: None if rows is None else self.features_of(rows, SPLIT_OF[name], name, processing_class)
            for name, rows in given.items()
        }
        if train_dataset is not None:
            check_metric_names(self.tasks)
            check_sampling(args, training_datasets(features["train_dataset"]))
        self.provenance = provenance or provenance_in_memory(first, features, max_length=max_length)
        if train_dataset is not None:
            features["train_dataset"] = self._with_parts(features["train_dataset"], args, processing_class)
        self.reference_name, self.reference = self.provenance.started_from, None
        self.teacher = None
        if args.teacher is not None:
            self.teacher = Teacher.load(args, first, processing_class, max_length=max_length)
            if args.embedding_reference is None and self.teacher.embeds(first, args):
                self.reference_name, self.reference = public_name(args.teacher), self.teacher.model
        if args.embedding_reference is not None:
            self.reference_name = public_name(args.embedding_reference)
            self.reference = load_reference(args.embedding_reference, first, processing_class, max_length=max_length)
        self._read_once = {name: getattr(args, name) for name in READ_ONCE}
        self._untaught = [task for task in self.tasks if args.distillation_weights.get(task) == 0]
        self.training_metrics: dict[str, float] = {}
        check_beside_given(args, *optimizers)
        if optimizer_cls_and_kwargs is not None and "lr" in optimizer_cls_and_kwargs[1]:
            args = copy.copy(args)
            args.learning_rate = optimizer_cls_and_kwargs[1]["lr"]
        self.args = args
        self._attach(first)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator or MultiTaskCollator(processing_class, self.tasks),
            processing_class=processing_class,
            model_init=model_init,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
            **features,
        )
        self.add_callback(StepCallback(self))
        if args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience))

    def features_of(
        self, rows: Dataset | Mapping, split: str, argument: str, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> Dataset:
        """
        Checks and tokenizes raw rows.

        Args:
            rows (`Dataset` or `dict[str, Dataset]`): Raw rows, or features that are ready already.
            split, argument (`str`): What error messages call the rows.
            tokenizer (`PreTrainedTokenizerBase`, *optional*, defaults to `self.processing_class`): A fast tokenizer.
        """
        tokenizer = tokenizer or self.processing_class
        return load_split(rows, split, self.tasks, tokenizer, argument=argument, **self._reading)

    def _with_parts(
        self, features: Dataset, args: MTLTrainingArguments, tokenizer: PreTrainedTokenizerBase
    ) -> Dataset:
        if not args.embedding_distillation_parts:
            return features
        how = {"share": args.embedding_distillation_parts, "seed": args.seed}
        return with_parts(features, self.tasks, tokenizer, **how)

    # What belongs to a model, and is made anew with it

    def _attach(self, model: MTSBertModel) -> None:
        """What is frozen, how fast each part learns, how losses are weighted: all of this very model."""
        if model.config.tasks != self.tasks:
            raise ValueError(
                f"`model_init` makes models of different tasks: {model.config.tasks}, and before {self.tasks}."
            )
        read_letter_case(model, self._tokenizer)
        check_no_others(model)
        check_saved_alone(model, self.args)
        add_adapters(model, self.args)
        if not self.args.torch_compile:  # which writes dropout its own way
            use_fast_dropout(model)
        self.freezing = Freezing(model, self.args)
        warn_of_frozen_cases(model)
        self.learning_rates = peak_learning_rates(model, self.freezing.parts, self.args)
        self.attach_losses(model)
        self._attached_with: dict | None = own_settings(self.args)

    def call_model_init(self, trial: Any = None) -> MTSBertModel:
        model, self._made_first = self._made_first, None
        if model is None:
            model = super().call_model_init(trial)
        if trial is None:
            self._attach(model)
        else:  # whose arguments are set once it has its model; see `get_train_dataloader`
            read_letter_case(model, self._tokenizer)  # before the Trainer places the model
            self._attached_with = None
        return model

    def get_train_dataloader(self) -> DataLoader:
        self._attach_changes()  # a trial sets its arguments once it has its model
        if self.is_training:
            self._check_can_train()
        return super().get_train_dataloader()

    def _attach_changes(self) -> None:
        """Attaches the model again if arguments, what is frozen by hand, or its adapters are others by now."""
        before = self._attached_with
        has_other_adapters = lora_settings(self.args) != getattr(self.model, "_lora_settings", {})
        if own_settings(self.args) != before or self.freezing.is_outdated or has_other_adapters:
            self.args.check()
            self._check_read_once()
            balancing = self.balancing
            self._attach(self.model)
            if before is not None and type(self.balancing) is type(balancing):  # and no trial, whose model is new
                self.balancing.load_state(balancing.state())

    def _check_read_once(self) -> None:
        """Raises `ValueError` if arguments have changed that are read only when the Trainer is built."""
        changed = {name: (old, getattr(self.args, name)) for name, old in self._read_once.items()}
        changed = [f"`{name}` from {old!r} to {new!r}" for name, (old, new) in changed.items() if new != old]
        weights = self.args.distillation_weights
        changed += [f"`distillation_weights` of {task!r} from 0" for task in self._untaught if weights.get(task, 1.0)]
        if changed:
            raise ValueError(
                f"A Trainer that is built cannot change {' and '.join(changed)}. Build another one, or search a "
                "recipe (`mtsbert train --search`), where every trial is a run of its own."
            )
        if self.teacher is not None and self.args.embedding_reference is None:
            self.teacher.embeds(self.model, self.args)

    def _check_can_train(self) -> None:
        """Raises `ValueError` if everything is frozen now, no batch is full, or no loss is above 0."""
        if self.freezing.is_total:
            raise ValueError("Everything is frozen, so there is nothing to train.")
        if self.args.dataloader_drop_last and len(self.train_dataset) < self.args.train_batch_size:
            raise ValueError(
                f"`dataloader_drop_last` leaves nothing of {len(self.train_dataset)} training rows: a batch has "
                f"{self.args.train_batch_size}. Set a smaller `per_device_train_batch_size`."
            )
        learned = [task for task, weight in self.task_weights.items() if weight]
        if not learned and not self.args.learns_from_texts:
            raise ValueError("`task_weights` are 0 for all tasks, so there is nothing to learn.")
        if self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size > 1:
            return
        columns = self.train_dataset.column_names
        has_negatives = NEGATIVE_IDS in columns and any(map(len, self.train_dataset[NEGATIVE_IDS]))
        for task in learned:
            settings = self.tasks[task]
            if compares_pairs(settings) and not (settings["type"] == PAIR_RANKING and has_negatives):
                raise ValueError(
                    f"Task {task!r} compares the pairs of a step with each other, and a step has one row. Set a "
                    "larger `per_device_train_batch_size` or `gradient_accumulation_steps`."
                )

    # Training

    def train(self, *args, **kwargs):
        """Adds to the metrics the seconds that the feature cache took before training, and the peak of memory."""
        if self.train_dataset is None:
            raise ValueError("There is nothing to train on: give the Trainer a `train_dataset`.")
        if not is_features(self.train_dataset, self.tasks):  # assigned after the Trainer was built
            rows = self.features_of(self.train_dataset, SPLIT_OF["train_dataset"], "train_dataset")
            check_sampling(self.args, training_datasets(rows))
            self.train_dataset = self._with_parts(rows, self.args, self.processing_class)
        self._read_eval_dataset()
        if self.model_init is None:  # which makes another model to attach
            self._attach_changes()
            self._check_can_train()
            self.check_given_optimizer()
        # `accelerate launch` turns them on without setting `fsdp` or `deepspeed`.
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            self.args.check_sharded()
        reset_peak_memory()
        # Several backward passes through one compiled forward pass, as gradient statistics need them.
        keep_buffers = torch._functorch.config.patch(donated_buffer=False)
        with fast_attention_dropout(), keep_buffers:
            output = super().train(*args, **kwargs)
        output.metrics["feature_cache_runtime"] = self._cache_seconds
        output.metrics["train_peak_memory_gb"] = peak_memory_gb()
        output.metrics.update({f"frozen_from_step_{name}": step for name, step in self.freezing.settled.items()})
        self.training_metrics = output.metrics
        return output

    def begin_training(self) -> None:
        super().begin_training()
        self.freezing.begin(self.state.max_steps, self.state.num_train_epochs)
        self.balancing.begin_run()
        for log in (self._log_since_line, self._log_of_step, self._embedding_log, self._distillation_log):
            log.sums = None  # an earlier run may have ended in an error
        if (kept := self.state.stateful_callbacks.get(BALANCING_STATE)) is not None:  # of the checkpoint
            self.balancing.load_state(kept["state"])
        self._warn_of_unfed_heads()
        if any(weight.requires_grad and weight.dtype in HALVES for weight in self.model.parameters()):
            logger.warning(
                "Weights of 16 bits are trained, in which small updates are lost. Load the model with "
                "`dtype=torch.float32`, or call `model.float()`; `precision` says in how many bits it computes."
            )
        logger.info(f"What is trained:\n{parameter_table(self.freezing, self.learning_rates)}")
        if self.is_fsdp_enabled and self.args.gradient_statistics_steps > 0:
            logger.info("The gradients of single tasks are not measured: FSDP shares out the weights.")

    def begin_epoch(self, epoch: int) -> None:
        """Before the first batch of an epoch, counted from 0, or of what is left of it when a run is resumed."""
        super().begin_epoch(epoch)
        self.balancing.begin_epoch(epoch)

    def begin_step(self) -> None:
        """Before an optimizer step: thaws what is due."""
        self.freezing.move_to(step=self.state.global_step, epoch=self.state.epoch)
        super().begin_step()

    def _warn_of_unfed_heads(self) -> None:
        with_head = [task for task, settings in self.tasks.items() if settings["type"] != PAIR_RANKING]
        fed = set() if self.distillation is None else set(self.distillation.tasks)
        fed |= {task for task in with_head if num_labelled_rows(self.train_dataset, task)}
        unfed = [task for task in with_head if task not in fed]
        if unfed and any(map(is_of_encoder, set(self.freezing.parts) - self.freezing.forever)):
            logger.warning(
                f"No training row has a label for {unfed}: these heads stay as they are while the encoder changes "
                "under them, and their answers get worse. Freeze the encoder (`freeze_encoder`); or train on rows "
                "of their data as well; or, where those are gone, learn the old checkpoint's answers (`teacher`)."
            )

    # Checkpoints

    def kept_state(self) -> dict[str, dict]:
        """The scheme of balancing and what it has learned, for a run that is resumed."""
        scheme = {"scheme": self.args.loss_balancing, "state": self.balancing.state()}
        return super().kept_state() | {BALANCING_STATE: scheme, LORA_STATE: lora_settings(self.args)}

    def check_kept_state(self, kept: dict[str, dict], checkpoint: str) -> None:
        super().check_kept_state(kept, checkpoint)
        check_same_tasks(Path(checkpoint), self.tasks)
        if self.model is not None:  # a trial of `hyperparameter_search` has no model yet
            check_same_settings(Path(checkpoint), self.model.config)
        scheme = kept.get(BALANCING_STATE, {"scheme": STATIC})["scheme"]  # one of version 0.1.0 does not say
        if scheme != self.args.loss_balancing:
            raise ValueError(
                f"The checkpoint was trained with `loss_balancing: {scheme}`, and this run has "
                f"{self.args.loss_balancing!r}; it cannot be resumed with another."
            )
        if (before := kept.get(LORA_STATE, {})) != (now := lora_settings(self.args)):
            raise ValueError(f"The checkpoint has adapters of {before or 'none'}, and this run of {now or 'none'}.")

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if self.is_fsdp_enabled:
            name_as_ours(self.model)
        super().save_model(output_dir, _internal_call)
        if self.args.should_save and output_dir and self._is_for_resuming(Path(output_dir)):
            save_adapters(self.accelerator.unwrap_model(self.model), Path(output_dir))

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        if self.args.lora_merge:
            check_folder(folder, saves_adapter=False)
        if self.args.lora_merge or self._is_for_resuming(folder):
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            save_alone(self.accelerator.unwrap_model(self.model), folder)
            self.processing_class.save_pretrained(folder)

    def _is_for_resuming(self, folder: Path) -> bool:
        """Whether a folder is that of a checkpoint in the middle of a run."""
        is_so_called = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-\d+", folder.name) is not None
        return is_so_called and folder != Path(self.args.output_dir)

    def push_to_hub(self, *args, **kwargs):
        if not self.args.lora_merge:
            check_can_be_pushed(self.model)
        return super().push_to_hub(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        restore_adapters(self.model, Path(resume_from_checkpoint))
        if not self.args.lora_merge:
            check_base(self.accelerator.unwrap_model(self.model))

    def _load_best_model(self) -> None:
        super()._load_best_model()
        restore_adapters(self.model, Path(self.state.best_model_checkpoint))

    # Model card

    def create_model_card(
        self,
        language: str | list[str] | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """
        Ours in place of the Trainer's, which knows nothing of tasks. `license` is that of the model, if known, and
        `dataset_tags` are Hub ids. `tasks`, `dataset` and `dataset_args` are taken for the sake of scripts that give
        them (`run_glue.py`): the card says of the run itself what they would say.
        """
        if self.is_world_process_zero():
            write_model_card(
                self,
                model_name=model_name,
                finetuned_from=finetuned_from,
                language=language,
                license=license,
                tags=tags,
                dataset_tags=dataset_tags,
            )


def name_as_ours(model: torch.nn.Module) -> None:
    """Restores the name of the model's class, which FSDP2 replaces, so that the checkpoint can be loaded."""
    kind = type(model)
    kind.__name__, kind.__module__ = MTSBertModel.__name__, MTSBertModel.__module__
