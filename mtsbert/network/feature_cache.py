"""Caches the output of frozen encoder layers for the training texts on disk, so that it is computed only once."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import transformers
from datasets import Dataset
from tqdm import tqdm

from modeling_mtsbert import MTSBertModel
from mtsbert.data.collator import MultiTaskCollator
from mtsbert.data.features import NEGATIVE_IDS
from mtsbert.network.disk_cache import DiskCache
from mtsbert.network.frozen_prefix import FrozenPrefix


FORMAT = 1  # version of the file format; changing it invalidates older caches
PLACE = "_place"  # column with the index of each training row, for the collator; no task can have this name


@dataclass
class Texts:
    """
    The concatenated token ids of all first texts, then of all second texts, then of all hard negatives if the features
    have any. The length is 0 where a text is missing.
    """

    pieces: np.ndarray
    """`(N,)`: token ids of all texts."""
    starts: np.ndarray
    """`(num_texts + 1,)`: text i is `pieces[starts[i]:starts[i + 1]]`."""
    num_rows: int

    @classmethod
    def of(cls, features: Dataset) -> "Texts":
        table = features.select_columns(_columns_of_texts(features)).with_format("arrow")[:]
        columns = [pa.chunked_array(table[name]).combine_chunks() for name in table.column_names]
        lengths = np.concatenate([pc.list_value_length(column).to_numpy(zero_copy_only=False) for column in columns])
        pieces = np.concatenate([column.flatten().to_numpy(zero_copy_only=False) for column in columns])
        return cls(pieces, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), len(features))

    @property
    def num_texts(self) -> int:
        """Number of texts, missing ones included: two or three for each row."""
        return len(self.starts) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    @cached_property
    def by_length(self) -> np.ndarray:
        """Indices of the texts that are not empty, longest first."""
        order = np.argsort(-self.lengths, kind="stable")
        return order[self.lengths[order] > 0]

    def batches(self, size: int) -> Iterator[np.ndarray]:
        for first in range(0, len(self.by_length), size):
            yield self.by_length[first : first + size]

    def padded(
        self, batch: np.ndarray, device: torch.device, padding_side: str = "right"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns `input_ids` and `attention_mask`, both `(B, T)`, for a batch of texts."""
        lengths = torch.from_numpy(self.lengths[batch])[:, None]
        places = torch.arange(int(lengths.max()))
        mask = places >= len(places) - lengths if padding_side == "left" else places < lengths
        ids = torch.zeros(mask.shape, dtype=torch.long)
        ids[mask] = torch.from_numpy(
            np.concatenate([self.pieces[self.starts[text] : self.starts[text + 1]] for text in batch]).astype(np.int64)
        )
        return ids.to(device), mask.long().to(device)

    def sample(self) -> np.ndarray:
        """Returns the indices of a few texts of different lengths, including the shortest and the longest."""
        return np.unique(self.by_length[np.linspace(0, len(self.by_length) - 1, 8).astype(int)])


class FeatureCache:
    """
    The memory-mapped hidden states of all training texts.

    Args:
        texts (`Texts`): The training texts.
        states (`torch.Tensor` of shape `(N, H)`): One row for each token of `texts`.
        dtype (`torch.dtype`): The dtype of the batches that are returned.
        key (`str`): The name on disk.
    """

    def __init__(self, texts: Texts, states: torch.Tensor, dtype: torch.dtype, key: str):
        self.texts = texts
        self.states = states
        self.dtype = dtype
        self.key = key

    def batch(
        self, rows: list[int], *, second: bool = False, padding_side: str = "right"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Returns the states `(B, T, H)` of the first texts of some rows, with 0 for padding, and the attention mask
        `(B, T)`; with `second`, those of the second texts, and then of the hard negatives if there are any.
        """
        firsts = range(self.texts.num_rows, self.texts.num_texts, self.texts.num_rows) if second else [0]
        texts = [first + row for first in firsts for row in rows]
        spans = [(int(self.texts.starts[text]), int(self.texts.starts[text + 1])) for text in texts]
        longest = max(end - start for start, end in spans)
        states = torch.zeros((len(texts), longest, self.states.shape[1]), dtype=self.dtype)
        mask = torch.zeros((len(texts), longest), dtype=torch.long)
        for place, (start, end) in enumerate(spans):
            where = slice(longest - (end - start), None) if padding_side == "left" else slice(end - start)
            states[place, where] = self.states[start:end]
            mask[place, where] = 1
        return states, mask


@dataclass
class CachedCollator(MultiTaskCollator):
    """Like [`MultiTaskCollator`], but uses the cached states of the texts instead of their token ids."""

    cache: FeatureCache

    def texts(self, features: list[dict], prefix: str) -> dict[str, torch.Tensor]:
        states, mask = self.cache.batch(
            [feature[PLACE] for feature in features],
            second=bool(prefix),
            padding_side=self.tokenizer.padding_side,
        )
        return {f"{prefix}inputs_embeds": states, f"{prefix}attention_mask": mask}


def with_cached_states(batch: dict, cache: FeatureCache, padding_side: str) -> dict:
    """Replaces the token ids of a batch by the cached states of its rows, whose indices it has under `PLACE`."""
    replaced = dict(batch)
    for prefix in ("", "pair_"):
        if replaced.pop(f"{prefix}input_ids", None) is not None:
            states, mask = cache.batch(batch[PLACE], second=bool(prefix), padding_side=padding_side)
            replaced |= {f"{prefix}inputs_embeds": states, f"{prefix}attention_mask": mask}
    return replaced


def rows_for_cache(features: Dataset) -> Dataset:
    """Replaces the token ids of training rows with the index of the row."""
    return features.remove_columns(_columns_of_texts(features)).add_column(PLACE, list(range(len(features))))


def _columns_of_texts(features: Dataset) -> list[str]:
    return [name for name in ("input_ids", "pair_input_ids", NEGATIVE_IDS) if name in features.column_names]


def open_feature_cache(
    prefix: FrozenPrefix,
    features: Dataset,
    *,
    disk: DiskCache,
    dtype: torch.dtype,
    batch_size: int,
    padding_side: str,
    autocast: Callable[[], AbstractContextManager],
) -> FeatureCache | None:
    """
    Opens the cache for these features and this model, or computes it and writes it to disk.

    The name of a cache is a hash of everything that determines its content: weights and config of the prefix, token
    ids (and thereby tokenizer, data and `max_length`), dtypes, and the versions of torch, transformers and the file
    format.

    Args:
        prefix ([`FrozenPrefix`]): The frozen layers whose states are cached.
        features (`Dataset`): The training rows, with `input_ids` and `pair_input_ids`.
        disk ([`DiskCache`]): The folder of all caches, with its size limit.
        dtype (`torch.dtype`): The dtype on disk.
        batch_size (`int`): Texts per forward pass while the cache is computed.
        padding_side (`str`): The padding side of the tokenizer, `"left"` or `"right"`.
        autocast (`Callable`): Returns the autocast context to compute in.

    Returns:
        The [`FeatureCache`]; None, with a warning, if it does not fit into the limit or on the disk.

    Raises:
        `ValueError`: if the frozen layers of this encoder cannot be cached.
    """
    texts = Texts.of(features)
    model = prefix.model.eval()
    width = prefix.check(*texts.padded(texts.sample(), model.device, padding_side))

    def compute() -> Iterator[tuple[int, torch.Tensor]]:
        with autocast():
            for text, states in _computed(prefix, texts, dtype, batch_size):
                yield int(texts.starts[text]), states

    with autocast():
        key = _key(prefix, texts, dtype)
    states = disk.rows(key, compute, num_rows=len(texts.pieces), width=width, dtype=dtype, what="feature cache")
    # Also under autocast, the states have the dtype of the model, because a layer ends with a normalization.
    return None if states is None else FeatureCache(texts, states, model.dtype, key)


def _key(prefix: FrozenPrefix, texts: Texts, stored: torch.dtype) -> str:
    settings = {
        "format": FORMAT,
        "encoder": prefix.model.config.encoder_config.to_dict(),
        "num_layers": prefix.num_layers,
        "stored": stored,
        "computed": computed_in(prefix.model),
    }
    return cache_key(settings, prefix.weights(), texts)


def computed_in(model: MTSBertModel) -> list:
    """Returns the dtypes that a model computes in, here and now."""
    device = model.device.type
    return [model.dtype, torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)]


def cache_key(settings: dict, weights: Iterable[torch.Tensor], texts: Texts) -> str:
    """
    Returns the name of a cache: a hash of everything that determines its content.

    Args:
        settings (`dict`): Everything that is not a tensor: config and dtypes. Library versions are added.
        weights (`Iterable[torch.Tensor]`): The weights of the model that computes the content.
        texts (`Texts`): The texts that it reads.
    """
    settings = settings | {"versions": [torch.__version__, transformers.__version__]}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for weight in weights:
        digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    digest.update(texts.starts.tobytes())
    digest.update(texts.pieces.tobytes())
    return digest.hexdigest()[:32]


@torch.no_grad()
def _computed(
    prefix: FrozenPrefix, texts: Texts, stored: torch.dtype, batch_size: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yields the index and the states `(T, H)` of each text, longest texts first."""
    with tqdm(total=len(texts.by_length), desc="Feature cache", unit="text", leave=False) as progress:
        for batch in texts.batches(batch_size):
            states = prefix.run(*texts.padded(batch, prefix.model.device)).to(stored).cpu()
            for place, text in enumerate(batch):
                of_text = states[place, : texts.lengths[text]]
                if not of_text.isfinite().all():
                    raise ValueError(
                        f"`feature_cache`: the state of a text is not a finite number in {stored}. Where it is too "
                        "large for fp16, choose `feature_cache_dtype: bf16`."
                    )
                yield int(text), of_text
            progress.update(len(batch))
