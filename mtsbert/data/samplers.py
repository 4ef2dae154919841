"""The order in which training rows are seen: a function of seed and epoch alone, so that a resumed run repeats it."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from mtsbert.arguments import PROPORTIONAL, ROUND_ROBIN


def dataset_weights(sizes: Sequence[int], temperature: float) -> list[float]:
    """Shares of the datasets, as size^(1/temperature): 1 keeps their sizes, infinity makes them equal."""
    powers = [size ** (1.0 / temperature) for size in sizes]
    return [power / sum(powers) for power in powers]


def padding_share(rows: Iterable[int], lengths: Sequence[int], batch_size: int) -> float:
    """The part of the batches that is padding, when rows of these lengths come in this order."""
    ordered = np.array([lengths[row] for row in rows])
    padded = sum(len(batch) * batch.max() for batch in np.split(ordered, range(batch_size, len(ordered), batch_size)))
    return 1.0 - ordered.sum() / padded


class DatasetSampler(Sampler[int]):
    """
    Rows in batches of one dataset each, texts of like length side by side, in an order that seed and epoch decide.

    An epoch has as many batches as the datasets have together. With `proportional` every row is seen once (a dataset
    that does not fill its last batch begins again to fill it); otherwise batches are drawn, and a dataset begins
    again when it is used up. All processes draw the same order, of which each takes its part.

    transformers' own length-grouping draws from the global random state: a run that is resumed within an epoch then
    sees other batches than the one that was interrupted.

    Args:
        dataset_ids: For every row, the number of its dataset, counted from 0.
        batch_size: Rows of one batch.
        seed: With the epoch, decides the order.
        lengths (*optional*): Word pieces of every row, to put like lengths together.
        sampling (`str`): How the dataset of a batch is chosen: `"proportional"`, `"round_robin"` (in turn),
            or `"temperature"` and `"weights"`, which draw it by `weights`.
        weights (*optional*): Share of each dataset, in any unit.
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
        """The dataset of every batch of the epoch."""
        total, num_datasets = sum(self.num_batches), len(self.rows)
        if self.sampling == ROUND_ROBIN:
            return [batch % num_datasets for batch in range(total)]
        if self.sampling == PROPORTIONAL:
            every = [dataset for dataset, number in enumerate(self.num_batches) for _ in range(number)]
            return [every[place] for place in torch.randperm(total, generator=generator).tolist()]
        weights = torch.tensor(self.weights, dtype=torch.float64)
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
    The rows of another sampler, and behind them one row again and again, until their number is a multiple.

    Several processes take batches in turn. Where the batches do not come out even, accelerate would give them rows
    from the beginning of the epoch a second time; a filler without labels changes nothing in a gradient.
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
