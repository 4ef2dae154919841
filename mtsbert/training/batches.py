"""Builds the training batches: the order of rows, training without padding, and cached states of frozen layers."""

import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from huggingface_hub.constants import HF_HOME
from torch.utils.data import DataLoader, Sampler

from modeling_mtsbert import MTSBertModel
from mtsbert.arguments import FEATURE_CACHE_DTYPES, TEMPERATURE, WEIGHTS, MTLTrainingArguments
from mtsbert.data.collator import MultiTaskCollator
from mtsbert.data.features import DATASET, unlabelled_row
from mtsbert.data.samplers import DatasetSampler, FilledSampler, dataset_weights, padding_share
from mtsbert.distillation.teacher import AnswerCollator, Teacher, TeacherAnswers, open_teacher_answers
from mtsbert.network.disk_cache import DiskCache
from mtsbert.network.embedding_targets import EmbeddingTargets, TargetCollator, open_embedding_targets
from mtsbert.network.feature_cache import (
    CachedCollator,
    FeatureCache,
    Texts,
    open_feature_cache,
    rows_for_cache,
    with_cached_states,
)
from mtsbert.network.freezing import Freezing
from mtsbert.network.frozen_prefix import FrozenPrefix
from mtsbert.network.padding_free import PaddingFree
from mtsbert.results.provenance import public_name
from mtsbert.training.losses.nonfinite import CheckedTrainer, NumberedCollator, numbered


TEXTS_TO_CHECK = 64  # a few texts of different lengths are chosen from these
COST_OF_CACHE = 1.5  # CPU seconds to compute and write it, in those that it saves in an epoch

logger = logging.getLogger(__name__)


class BatchingTrainer(CheckedTrainer):
    """
    A Trainer that decides at the beginning of training what its batches contain:

    - token ids, which the encoder processes without padding if it can; or the states of a frozen encoder (or of its
      bottom layers), computed once and read from disk;
    - rows in an order that depends only on seed and epoch, so that a resumed run repeats it, together with the index
      of each row for error messages;
    - with several ranks, filler rows without labels, so that they learn the same as a single process.

    Subclasses must set `freezing`, `reference_name`, `reference` and `teacher`.
    """

    args: MTLTrainingArguments
    freezing: Freezing
    reference_name: str  # whose embeddings the targets are, in words that can be published
    reference: MTSBertModel | None  # that model; None for the one that is trained, as it is before training
    teacher: Teacher | None  # whose answers are learned

    def __init__(self, *args, **kwargs):
        self.feature_cache: FeatureCache | None = None
        self.cached_prefix: FrozenPrefix | None = None  # what `adaptive_freezing` has frozen and the cache has
        self._while_training: ExitStack | None = None  # undoes changes to the model when training ends
        self._cache_seconds = 0.0
        self._sampler: DatasetSampler | None = None
        self._filler: int | None = None  # index of the row that fills up the last batches of several ranks
        self.targets: EmbeddingTargets | None = None  # the initial embeddings of the training texts
        self.answers: TeacherAnswers | None = None  # those of the teacher for the training texts
        super().__init__(*args, **kwargs)

    @property
    def is_training(self) -> bool:
        return self._while_training is not None

    def train(self, *args, **kwargs):
        self.feature_cache, self._cache_seconds = None, 0.0
        if self.model is not None:  # a trial of `hyperparameter_search` has no model yet
            self._open_targets()  # before a checkpoint changes the weights
        try:
            with ExitStack() as self._while_training:
                return super().train(*args, **kwargs)
        finally:
            self._while_training = None
            self._drop_cache_of_grown_prefix()

    def _open_targets(self) -> None:
        """Opens what is learned beside labels, unless it is open: answers of the teacher, and target embeddings."""
        if self.teacher is not None:
            if self.answers is None or self.answers.embeddings.shape[1] < self._num_taught_dims:
                self.answers = self.answers_of(self.train_dataset)
            self.model.config.distilled_from = public_name(self.args.teacher)
        if not self.args.embedding_distillation:
            return
        if self.targets is None and self._num_taught_dims:
            self.targets = EmbeddingTargets(len(self.train_dataset), self.answers.embeddings)
        elif self.targets is None:
            self.targets = self.targets_of(self.train_dataset)
        self.model.config.embedding_reference = self.reference_name

    @property
    def _num_taught_dims(self) -> int:
        """How many numbers of the teacher's embedding the model is held to; 0 if it is not."""
        is_reference = self.teacher is not None and self.reference is self.teacher.model
        return self.model.config.embedding_size if is_reference and self.args.embedding_distillation else 0

    def get_train_dataloader(self) -> DataLoader:
        # In training, this is called after a checkpoint to resume from was loaded, so the cache has its weights.
        if not self.is_training:
            return super().get_train_dataloader()
        self._while_training.close()  # `auto_find_batch_size` calls this again
        self._open_targets()  # as a trial asks for them, whose arguments are set after `train` has begun
        plain = self.train_dataset, self.data_collator
        rows, collator = self._rows_and_collator()
        if self.args.embedding_distillation:
            collator = TargetCollator(collator, self.targets)
        if self.answers is not None:
            collator = AnswerCollator(collator, self.answers)
        if self.args.world_size > 1 and not self.args.dataloader_drop_last:
            self._filler = len(rows)
            rows = concatenate_datasets([rows, unlabelled_row(rows, self.model.config.tasks)])
        self.train_dataset, self.data_collator = rows, NumberedCollator(collator)
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset, self.data_collator = plain
            self._filler = None

    def _rows_and_collator(self) -> tuple[Dataset, Any]:
        """Returns the training rows with their indices and a collator, and prepares the model for such batches."""
        self.feature_cache = self.cached_prefix = None
        if (prefix := self._prefix_to_cache()) is not None:
            began = time.perf_counter()
            self.feature_cache = self._open_feature_cache(prefix)
            self._cache_seconds = time.perf_counter() - began
        if self.feature_cache is None:
            self._leave_out_padding()
            return numbered(self.train_dataset), self.data_collator
        if not prefix.is_whole_encoder:
            self._leave_out_padding(first_layer=prefix.num_layers)
        self._while_training.enter_context(prefix.skipped())
        cached = CachedCollator(self.processing_class, self.model.config.tasks, self.feature_cache)
        return rows_for_cache(self.train_dataset), cached

    # The frozen bottom layers, computed once

    def _prefix_to_cache(self) -> FrozenPrefix | None:
        prefix, asked = FrozenPrefix.of(self.freezing), self.args.feature_cache
        is_ours = type(self.data_collator) is MultiTaskCollator
        if asked and not is_ours:
            raise ValueError(
                "`feature_cache` reads batches from disk, which a `data_collator` of yours cannot; drop one."
            )
        if self.args.adaptive_freezing:
            return None  # the frozen layers become more; see `cache_grown_prefix`
        if asked and prefix is None:
            raise ValueError(
                "`feature_cache` needs a frozen lower end of the encoder: `freeze_encoder`, `adaptive_freezing`, or "
                "`freeze_embeddings` with `num_frozen_layers`."
            )
        if asked is None and prefix is not None:
            asked = is_ours and prefix.is_whole_encoder and self._num_epochs > 1
        return prefix if asked else None

    @property
    def _num_epochs(self) -> float:
        if self.args.max_steps <= 0:
            return self.args.num_train_epochs
        rows_of_a_step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return self.args.max_steps * rows_of_a_step / len(self.train_dataset)

    # The frozen bottom layers where they grow during training (`adaptive_freezing`)

    def cache_grown_prefix(self) -> None:
        """Skips all layers that are frozen by now in further steps, if enough epochs are left for a cache to pay."""
        prefix = FrozenPrefix.of(self.freezing)
        if prefix is None or self.args.feature_cache is False or self.args.torch_compile:
            return
        if type(self.data_collator) is not MultiTaskCollator:
            return
        epochs_left = self._num_epochs * (1 - self.state.global_step / self.state.max_steps)
        gain = (prefix.num_layers - self.num_cached_layers) * epochs_left - COST_OF_CACHE * prefix.num_layers
        # More than one layer in one epoch, because the next decision may make another cache worthwhile.
        if self.args.feature_cache or gain > 1:
            self.cache_prefix(prefix)

    def cache_prefix(self, prefix: FrozenPrefix) -> None:
        """Computes the output of frozen layers for all training texts, and skips them in further steps."""
        self._while_training.close()
        if (cache := self._open_feature_cache(prefix)) is not None:
            self._drop_cache_of_grown_prefix()
            self.feature_cache, self.cached_prefix = cache, prefix
        self._leave_out_padding(first_layer=self.num_cached_layers)
        if self.cached_prefix is not None:
            self._while_training.enter_context(self.cached_prefix.skipped())

    @property
    def num_cached_layers(self) -> int:
        return 0 if self.cached_prefix is None else self.cached_prefix.num_layers

    def _drop_cache_of_grown_prefix(self) -> None:
        # Other runs do not reach the same weights, and a run that is resumed computes it again.
        if self.cached_prefix is not None and self.args.local_process_index == 0:
            self.disk_cache.remove(self.feature_cache.key)

    def get_batch_samples(self, *args, **kwargs) -> tuple[list[dict], Any]:
        batches, num_items_in_batch = super().get_batch_samples(*args, **kwargs)
        if self.args.adaptive_freezing and self.feature_cache is not None:
            side = self.processing_class.padding_side
            batches = [with_cached_states(batch, self.feature_cache, side) for batch in batches]
        return batches, num_items_in_batch

    def targets_of(self, rows: Dataset) -> EmbeddingTargets:
        """Computes the target embeddings of the texts in these rows with the reference, or with the current model."""
        reference = self.accelerator.unwrap_model(self.model) if self.reference is None else self.reference
        # Also the model that is trained: with FSDP, the Trainer places it later.
        with placed_on(self.args.device, reference), self.args.main_process_first(desc="embeddings to start from"):
            return open_embedding_targets(
                reference,
                rows,
                disk=self.disk_cache,
                width=self.model.config.embedding_size,
                batch_size=self.args.per_device_eval_batch_size,
                padding_side=self.processing_class.padding_side,
                autocast=self.accelerator.autocast,
            )

    def answers_of(self, rows: Dataset) -> TeacherAnswers:
        """Computes the answers of the teacher for the texts in these rows, and its embeddings if they are held to."""
        of_teacher = placed_on(self.args.device, self.teacher.model)
        with of_teacher, self.args.main_process_first(desc="answers of the teacher"):
            return open_teacher_answers(
                self.teacher,
                rows,
                disk=self.disk_cache,
                embedding_size=self._num_taught_dims,
                batch_size=self.args.per_device_eval_batch_size,
                autocast=self.accelerator.autocast,
            )

    @property
    def disk_cache(self) -> DiskCache:
        folder = self.args.feature_cache_dir or Path(HF_HOME) / "mtsbert" / "feature_cache"
        return DiskCache(Path(folder), self.args.feature_cache_gb)

    def _open_feature_cache(self, prefix: FrozenPrefix) -> FeatureCache | None:
        try:
            return open_feature_cache(
                prefix,
                self.train_dataset,
                disk=self.disk_cache,
                dtype=FEATURE_CACHE_DTYPES[self.args.feature_cache_dtype],
                batch_size=self.args.per_device_eval_batch_size,
                padding_side=self.processing_class.padding_side,
                autocast=self.accelerator.autocast,
            )
        except ValueError as error:
            if self.args.feature_cache and not self.args.adaptive_freezing:  # which would lose a run half done
                raise
            logger.warning(f"No feature cache: {error}")
            return None

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return super().floating_point_ops(inputs) if "input_ids" in inputs else 0  # hardly any with cached states

    # Padding

    def _leave_out_padding(self, first_layer: int = 0) -> None:
        """Trains the encoder's layers from `first_layer` on without padding, if the encoder allows it."""
        if not self.args.padding_free or self.args.torch_compile:
            return
        texts = Texts.of(self.train_dataset.select(range(min(len(self.train_dataset), TEXTS_TO_CHECK))))
        input_ids, attention_mask = texts.padded(texts.sample(), self.model.device, self.processing_class.padding_side)
        self.model.eval()
        try:
            padding_free = PaddingFree(self.model, first_layer=first_layer)
            padding_free.check(input_ids=input_ids, attention_mask=attention_mask)
        except ValueError as error:
            logger.info(f"Training with padding: {error}")
            return
        self._while_training.enter_context(padding_free.active())

    # Order

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
        logger.info(f"Padding share of the training batches: {share:.1%}.")
        return self._sampler

    def _sampling_weights(self, dataset_ids: list[int]) -> list[float] | None:
        names = training_datasets(self.train_dataset)
        if self.args.dataset_sampling == TEMPERATURE:
            counts = Counter(dataset_ids)
            return dataset_weights([counts[dataset] for dataset in range(len(names))], self.args.sampling_temperature)
        if self.args.dataset_sampling == WEIGHTS:
            return [self.args.sampling_weights[name] for name in names]
        return None

    def begin_epoch(self, epoch: int) -> None:
        # accelerate's wrappers do not pass the epoch to the sampler when several ranks are resumed within an epoch.
        if self._sampler is not None:
            self._sampler.set_epoch(epoch)


@contextmanager
def placed_on(device: torch.device, model: MTSBertModel) -> Iterator[None]:
    """Moves a model to a device for the time of a `with` block, and back afterwards."""
    before = model.device
    model.to(device)
    try:
        yield
    finally:
        model.to(before)


def training_datasets(features: Dataset) -> list[str]:
    """Returns the names of the datasets that features come from, in the order of their numbers."""
    return features.features[DATASET].names[: max(features[DATASET]) + 1]


def check_sampling(args: MTLTrainingArguments, names: list[str]) -> None:
    """Raises `ValueError` unless `sampling_weights` names exactly the training datasets."""
    if args.sampling_weights and set(args.sampling_weights) != set(names):
        raise ValueError(f"`sampling_weights` names {list(args.sampling_weights)}; the training datasets are {names}.")
