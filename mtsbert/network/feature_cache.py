"""What the frozen lower end of the encoder makes of the training texts: computed once, then read from disk."""

import hashlib
import json
from collections.abc import Callable, Iterator
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

from mtsbert.data.collator import MultiTaskCollator
from mtsbert.network.disk_cache import DiskCache
from mtsbert.network.frozen_prefix import FrozenPrefix


FORMAT = 1  # of the files; a change makes older caches unknown
PLACE = "_place"  # the column of training rows, numbered from 0, that the collator looks up; no task has such a name


@dataclass
class Texts:
    """The word pieces of all first texts, then of all second texts (of length 0 where there is none), end to end."""

    pieces: np.ndarray
    """`(N,)` word pieces of all texts."""
    starts: np.ndarray
    """`(texts + 1,)`: text i is `pieces[starts[i]:starts[i + 1]]`."""
    num_rows: int

    @classmethod
    def of(cls, features: Dataset) -> "Texts":
        table = features.select_columns(["input_ids", "pair_input_ids"]).with_format("arrow")[:]
        columns = [pa.chunked_array(table[name]).combine_chunks() for name in table.column_names]
        lengths = np.concatenate([pc.list_value_length(column).to_numpy(zero_copy_only=False) for column in columns])
        pieces = np.concatenate([column.flatten().to_numpy(zero_copy_only=False) for column in columns])
        return cls(pieces, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), len(features))

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    @cached_property
    def by_length(self) -> np.ndarray:
        """Numbers of texts, the longest first, without the empty ones."""
        order = np.argsort(-self.lengths, kind="stable")
        return order[self.lengths[order] > 0]

    def batches(self, size: int) -> Iterator[np.ndarray]:
        for first in range(0, len(self.by_length), size):
            yield self.by_length[first : first + size]

    def padded(
        self, batch: np.ndarray, device: torch.device, padding_side: str = "right"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`input_ids` and `attention_mask` of a batch of texts."""
        lengths = torch.from_numpy(self.lengths[batch])[:, None]
        places = torch.arange(int(lengths.max()))
        mask = places >= len(places) - lengths if padding_side == "left" else places < lengths
        ids = torch.zeros(mask.shape, dtype=torch.long)
        ids[mask] = torch.from_numpy(
            np.concatenate([self.pieces[self.starts[text] : self.starts[text + 1]] for text in batch]).astype(np.int64)
        )
        return ids.to(device), mask.long().to(device)

    def sample(self) -> np.ndarray:
        """Some texts of unlike length, the shortest and the longest among them."""
        return np.unique(self.by_length[np.linspace(0, len(self.by_length) - 1, 8).astype(int)])


class FeatureCache:
    """
    States of all training texts, memory-mapped.

    Args:
        states (`torch.Tensor` of shape `(N, H)`): One row for every word piece of `texts`.
        dtype: What a batch is given out in.
    """

    def __init__(self, texts: Texts, states: torch.Tensor, dtype: torch.dtype):
        self.texts = texts
        self.states = states
        self.dtype = dtype

    def batch(
        self, rows: list[int], *, second: bool = False, padding_side: str = "right"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The states `(B, T, H)` of the rows' first or second texts, 0 in padding, and the attention mask `(B, T)`."""
        texts = [row + (self.texts.num_rows if second else 0) for row in rows]
        spans = [(int(self.texts.starts[text]), int(self.texts.starts[text + 1])) for text in texts]
        longest = max(end - start for start, end in spans)
        states = torch.zeros((len(rows), longest, self.states.shape[1]), dtype=self.dtype)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for place, (start, end) in enumerate(spans):
            where = slice(longest - (end - start), None) if padding_side == "left" else slice(end - start)
            states[place, where] = self.states[start:end]
            mask[place, where] = 1
        return states, mask


@dataclass
class CachedCollator(MultiTaskCollator):
    """As `MultiTaskCollator`, but with the cached states of a row's texts instead of their word pieces."""

    cache: FeatureCache

    def texts(self, features: list[dict], prefix: str) -> dict[str, torch.Tensor]:
        states, mask = self.cache.batch(
            [feature[PLACE] for feature in features],
            second=bool(prefix),
            padding_side=self.tokenizer.padding_side,
        )
        return {f"{prefix}inputs_embeds": states, f"{prefix}attention_mask": mask}


def rows_for_cache(features: Dataset) -> Dataset:
    """Training rows that know their number and have no word pieces."""
    return features.remove_columns(["input_ids", "pair_input_ids"]).add_column(PLACE, list(range(len(features))))


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
    The cache for these features under this model: found on disk, or computed and written there.

    A cache is known by everything that its content follows from: the weights and the config of the prefix, the word
    pieces (and so tokenizer, data and `max_length`), the number format, and the versions of torch, transformers and
    this file.

    Args:
        prefix (`FrozenPrefix`): The frozen bottom layers whose states are cached.
        features (`Dataset`): The rows, with `input_ids` and `pair_input_ids`.
        disk (`DiskCache`): Where caches lie, and what they may take.
        dtype (`torch.dtype`): The number format on disk.
        batch_size (`int`): Texts in a pass.
        padding_side (`str`): The tokenizer's.
        autocast (`Callable`): The context that the states are computed in.

    Returns:
        None, with a warning, where it does not fit the limit or the disk.

    Raises:
        `ValueError`: for an encoder whose bottom layers cannot be cached.
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
    # autocast's last operation, a normalization, has the model's number format too
    return None if states is None else FeatureCache(texts, states, model.dtype)


def _key(prefix: FrozenPrefix, texts: Texts, stored: torch.dtype) -> str:
    device = prefix.model.device.type
    settings = {
        "format": FORMAT,
        "versions": [torch.__version__, transformers.__version__],
        "encoder": prefix.model.config.encoder_config.to_dict(),
        "num_layers": prefix.num_layers,
        "stored": stored,
        "computed": [prefix.model.dtype, torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)],
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for weight in prefix.weights():
        digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    digest.update(texts.starts.tobytes())
    digest.update(texts.pieces.tobytes())
    return digest.hexdigest()[:32]


@torch.no_grad()
def _computed(
    prefix: FrozenPrefix, texts: Texts, stored: torch.dtype, batch_size: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """Numbers of texts and their states `(T, H)`, longest texts first."""
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
