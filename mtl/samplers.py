"""The order in which training rows are seen: a function of seed and epoch alone, so that a resumed run repeats it."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class LengthGroupedSampler(Sampler[int]):
    """
    Shuffled rows, with texts of like length side by side, which saves padding.

    transformers has a sampler of that name that draws from the global random state: a run that is resumed within an
    epoch then sees other batches than the one that was interrupted.

    Args:
        lengths: Word pieces of every row.
        batch_size: Rows of a batch; the longest text of all comes in the first one, so that memory runs out early.
        seed: With the epoch, decides the order.
    """

    def __init__(self, lengths: list[int], *, batch_size: int, seed: int):
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))
