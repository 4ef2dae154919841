"""Targets for embedding distillation: the sentence embeddings of the training texts before training, computed once.

Letters used below: `B` texts of a batch, `H` numbers of an embedding.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from configuration_mtsbert import MTSBertConfig, file_of
from modeling_mtsbert import MTSBertModel
from mtsbert.data.collator import MultiTaskCollator
from mtsbert.data.features import NO_ROW, ROW
from mtsbert.letter_case.embedding import read_letter_case
from mtsbert.letter_case.tokenizer import keeps_letter_case, lowers_letters
from mtsbert.network.adapters import base_of
from mtsbert.network.disk_cache import DiskCache
from mtsbert.network.feature_cache import PLACE, Texts, cache_key, computed_in
from mtsbert.network.starting_point import (
    check_longest,
    load_checkpoint_config,
    open_checkpoint,
    open_tokenizer,
    resolve_name,
)


EMBEDDING = "embedding"  # key beside the tasks; no task can have this name
TARGETS = "embedding_targets"  # key in a batch; "pair_embedding_targets" for second texts
ANSWERS = "teacher_answers"  # key in a batch: by task, what a teacher answers
TARGET_KEYS = (TARGETS, f"pair_{TARGETS}", ANSWERS)  # in a batch; not inputs of the model
DTYPE = torch.float16  # on disk: 2 H bytes per text, with an error of 1e-6 in cosines


class EmbeddingTargets:
    """
    The embeddings of a reference model for the texts of a dataset.

    Args:
        num_rows (`int`): The number of rows.
        vectors (`torch.Tensor` of shape `(2 * num_rows, H)` or `(3 * num_rows, H)`): The normalized embeddings of all
            first texts, then of all second texts, then of all hard negatives; 0 if a row has no such text.
    """

    def __init__(self, num_rows: int, vectors: torch.Tensor):
        self.num_rows = num_rows
        self.vectors = vectors

    def batch(self, places: list[int], *, second: bool = False) -> torch.Tensor:
        """
        Returns the targets `(B, H)` of the first texts of the rows with these indices; with `second`, those of the
        second texts, and then of the hard negatives if there are any.
        """
        firsts = range(self.num_rows, len(self.vectors), self.num_rows) if second else [0]
        return self.vectors[[first + place for first in firsts for place in places]].float()


@dataclass
class TargetCollator:
    """Adds the target embeddings of its texts to each batch."""

    collator: MultiTaskCollator
    targets: EmbeddingTargets

    def __call__(self, features: list[dict]) -> dict:
        batch = self.collator(features)
        places = [feature[PLACE] for feature in features]
        is_row = torch.tensor([feature[ROW] != NO_ROW for feature in features]).unsqueeze(1)  # not a filler
        batch[TARGETS] = self.targets.batch(places) * is_row
        if "pair_attention_mask" in batch:
            targets = self.targets.batch(places, second=True)
            batch[f"pair_{TARGETS}"] = targets * is_row.repeat(len(targets) // len(places), 1)
        return batch


def open_embedding_targets(
    reference: MTSBertModel,
    features: Dataset,
    *,
    disk: DiskCache,
    width: int,
    batch_size: int,
    padding_side: str,
    autocast: Callable[[], AbstractContextManager],
) -> EmbeddingTargets:
    """
    Opens the target embeddings of these features from the disk, or computes them and writes them to disk. If they do
    not fit there, they are kept in memory.

    Args:
        reference ([`MTSBertModel`]): The model whose current embeddings are the targets. It may be in training mode.
        features (`Dataset`): The rows, with `input_ids` and `pair_input_ids`.
        disk ([`DiskCache`]): The folder of all caches, with its size limit.
        width (`int`): How many numbers of an embedding are kept, as many as the model has that is trained.
        batch_size (`int`): Texts per forward pass.
        padding_side (`str`): The padding side of the tokenizer, `"left"` or `"right"`.
        autocast (`Callable`): Returns the autocast context to compute in.
    """
    texts = Texts.of(features)
    was_training = reference.training
    shape = {"num_rows": texts.num_texts, "width": width}

    @torch.no_grad()
    def compute() -> Iterator[tuple[int, torch.Tensor]]:
        with autocast():
            for batch in texts.batches(batch_size):
                _, states, _ = reference.encode(*texts.padded(batch, reference.device, padding_side), for_heads=False)
                for text, vector in zip(
                    batch, F.normalize(states[:, :width].float(), dim=-1).to(DTYPE).cpu(), strict=True
                ):
                    yield int(text), vector

    reference.eval()
    try:
        with autocast():
            key = _key(reference, texts, width)
        vectors = disk.rows(key, compute, **shape, dtype=DTYPE, what="embeddings to start from")
        if vectors is None:
            vectors = torch.zeros(tuple(shape.values()), dtype=DTYPE)
            for text, vector in compute():
                vectors[text] = vector
    finally:
        reference.train(was_training)
    return EmbeddingTargets(texts.num_rows, vectors)


def _key(reference: MTSBertModel, texts: Texts, width: int) -> str:
    settings = {
        "what": TARGETS,
        "encoder": reference.config.encoder_config.to_dict(),
        "pooling": reference.config.pooling,
        "width": width,
        "computed": computed_in(reference),
    }
    return cache_key(settings, reference.encoder.state_dict().values(), texts)


def load_reference(
    name_or_path: str, model: MTSBertModel, tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> MTSBertModel:
    """
    Loads the model whose embeddings are the targets for those of another model. It stays on the CPU.

    Args:
        name_or_path (`str`): A checkpoint or an encoder: a folder, a Hub id, or `package:NAME/FOLDER`. A bare encoder
            gets the pooling of `model`, and one of sentence-transformers has its own.
        model ([`MTSBertModel`]): The model that is trained.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        max_length (`int`): Tokens of the longest text, special ones included.

    Raises:
        `ValueError`: if the reference reads other tokens or only shorter texts, or its embeddings are smaller.
    """
    where = resolve_name(name_or_path)
    try:
        if base_of(where) or MTSBertConfig.get_config_dict(where)[0].get("model_type") == MTSBertConfig.model_type:
            reference = open_checkpoint(where, load_checkpoint_config(where))
        else:
            pooling = {} if file_of(where, "modules.json") else {"pooling": model.config.pooling}
            reference = MTSBertModel.from_encoder(where, tasks=model.config.tasks, **pooling)
        called = f"`embedding_reference` {name_or_path!r}"
        check_input(where, reference, tokenizer, max_length=max_length, called=called)
    except OSError as error:
        raise ValueError(f"`embedding_reference` {name_or_path!r} cannot be loaded: {error}") from error
    if reference.config.embedding_size < model.config.embedding_size:
        raise ValueError(
            f"`embedding_reference` {name_or_path!r} has embeddings of {reference.config.embedding_size} numbers, "
            f"and the model that is trained has {model.config.embedding_size}; choose one with as many."
        )
    return reference.eval()


def check_input(
    where: str, reader: MTSBertModel, tokenizer: PreTrainedTokenizerBase, *, max_length: int, called: str
) -> None:
    """
    Has a model read the tokens of another one. Where only these have capital letters, it reads them as small ones.

    Args:
        where (`str`): The folder or Hub id with the model's own tokenizer.
        reader ([`MTSBertModel`]): The model.
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer of the other one.
        max_length (`int`): Tokens of the longest text that the other one reads, special ones included.
        called (`str`): What the message calls the model.

    Raises:
        `ValueError`: if it cannot read the tokens of the other one, or not as many of them.
    """
    own = open_tokenizer(where, reader.config.encoder_config)
    if keeps_letter_case(tokenizer) and lowers_letters(own):
        reader.config.letter_case = True
        own = read_letter_case(reader, own)
    if own.get_vocab() != tokenizer.get_vocab():
        raise ValueError(
            f"{called} has another vocabulary than the model that is trained, so it cannot read its tokens; choose a "
            "model with the same tokenizer."
        )
    try:
        check_longest(max_length, tokenizer, reader.config.encoder_config)
    except ValueError as error:
        raise ValueError(f"{called}: {error}") from None


def distances(embeddings: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Returns 1 - cosine `(B,)` of embeddings and targets, both `(B, H)`, in float32; 0 if a target is 0."""
    has_target = targets.any(dim=-1)
    cosines = F.cosine_similarity(embeddings.float(), targets.float(), dim=-1)
    return torch.where(has_target, 1.0 - cosines, torch.zeros_like(cosines))


def pop_targets(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Removes the targets from a batch and returns them, since the model does not take them as inputs."""
    return {name: batch.pop(name) for name in TARGET_KEYS if name in batch}


def num_targets(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Counts the texts of a batch that have a target, as a scalar tensor."""
    return sum(batch[name].any(dim=-1).sum() for name in (TARGETS, f"pair_{TARGETS}") if name in batch)
