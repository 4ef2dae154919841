"""Samplers for the training rows. The order depends only on seed and epoch, so that a resumed run repeats it."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from mtsbert.arguments import PROPORTIONAL, ROUND_ROBIN


def dataset_weights(sizes: Sequence[int], temperature: float) -> list[float]:
    """Returns the share of each dataset as size^(1/temperature): 1 keeps the sizes, infinity makes them equal."""
    powers = [size ** (1.0 / temperature) for size in sizes]
    return [power / sum(powers) for power in powers]


def padding_share(rows: Iterable[int], lengths: Sequence[int], batch_size: int) -> float:
    """
    Returns the share of padding in the batches of an epoch.

    Args:
        rows (`Iterable[int]`): Indices of the rows in the order of the epoch.
        lengths (`Sequence[int]`): Number of tokens of each row.
        batch_size (`int`): Rows per batch.
    """
    ordered = np.array([lengths[row] for row in rows])
    padded = sum(len(batch) * batch.max() for batch in np.split(ordered, range(batch_size, len(ordered), batch_size)))
    return 1.0 - ordered.sum() / padded


class DatasetSampler(Sampler[int]):
    """
    Samples rows such that each batch contains rows of a single dataset, optionally grouped by length. The order
    depends only on seed and epoch.

    An epoch has as many batches as all datasets together. With `"proportional"`, every row is seen once (a dataset
    that does not fill its last batch starts over to fill it). Otherwise, the dataset of each batch is chosen by
    `sampling`, and a dataset that is exhausted starts over. All ranks draw the same order, and each takes its share.

    transformers' own length grouping uses the global random state, so a run that is resumed within an epoch would see
    different batches than the uninterrupted run.

    Args:
        dataset_ids (`Sequence[int]`): The number of each row's dataset, counted from 0.
        batch_size (`int`): Rows per batch.
        seed (`int`): Determines the order, together with the epoch.
        lengths (`Sequence[int]`, *optional*): Number of tokens of each row, to group similar lengths. Default: no
            grouping.
        sampling (`str`, *optional*, defaults to `"proportional"`): How the dataset of a batch is chosen:
            `"proportional"`, `"round_robin"` (in turn), or `"temperature"` and `"weights"`, which draw it with
            probability proportional to `weights`.
        weights (`Sequence[float]`, *optional*): The share of each dataset, in any unit.
    """

    def __init__(
        self,
        dataset_ids: Sequence[int],
        *,
        batch_size: int,
        seed: int,
        lengths: Sequence[int] | None = None,
        sampling: str = PROPORTIONAL,
        weights: Sequence[float] | None = None,
    ):
        self.rows: list[list[int]] = [[] for _ in range(max(dataset_ids) + 1)]
        for row, dataset in enumerate(dataset_ids):
            self.rows[dataset].append(row)
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.sampling = sampling
        self.weights = weights
        self.num_batches = [math.ceil(len(rows) / batch_size) for rows in self.rows]
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows[0]) if len(self.rows) == 1 else sum(self.num_batches) * self.batch_size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        if len(self.rows) == 1:
            yield from self._shuffled(0, generator)
            return
        endless = [self._endless(dataset, generator) for dataset in range(len(self.rows))]
        for dataset in self._schedule(generator):
            yield from itertools.islice(endless[dataset], self.batch_size)

    def _schedule(self, generator: torch.Generator) -> list[int]:
        """Returns the dataset of each batch of the epoch."""
        total = sum(self.num_batches)
        if self.sampling == ROUND_ROBIN:
            there = [dataset for dataset, number in enumerate(self.num_batches) if number]
            return [there[batch % len(there)] for batch in range(total)]
        if self.sampling == PROPORTIONAL:
            every = [dataset for dataset, number in enumerate(self.num_batches) for _ in range(number)]
            return [every[place] for place in torch.randperm(total, generator=generator).tolist()]
        weights = torch.tensor(self.weights, dtype=torch.float64)[: len(self.rows)]
        weights[[not rows for rows in self.rows]] = 0  # a dataset whose rows were all filtered out
        if not weights.any():
            raise ValueError("`sampling_weights` are 0 for every dataset that has rows.")
        return torch.multinomial(weights, total, replacement=True, generator=generator).tolist()

    def _endless(self, dataset: int, generator: torch.Generator) -> Iterator[int]:
        while True:
            yield from self._shuffled(dataset, generator)

    def _shuffled(self, dataset: int, generator: torch.Generator) -> list[int]:
        rows = self.rows[dataset]
        if self.lengths is None:
            order = torch.randperm(len(rows), generator=generator).tolist()
        else:
            lengths = [self.lengths[row] for row in rows]
            order = get_length_grouped_indices(lengths, self.batch_size, generator=generator)
        return [rows[place] for place in order]


class FilledSampler(Sampler[int]):
    """
    Yields the rows of another sampler, then repeats a filler row until the number of rows is a multiple of `multiple`.

    Ranks take batches in turn. If the batches cannot be divided evenly, accelerate would repeat rows from the
    beginning of the epoch; a filler row without labels does not change the gradients.
    """

    def __init__(self, sampler: Sampler[int], *, filler: int, multiple: int):
        self.sampler = sampler
        self.filler = filler
        self.multiple = multiple

    def __len__(self) -> int:
        return math.ceil(len(self.sampler) / self.multiple) * self.multiple

    def __iter__(self) -> Iterator[int]:
        yield from self.sampler
        yield from itertools.repeat(self.filler, len(self) - len(self.sampler))
