"""The sizes that a Matryoshka embedding can be cut to (arXiv 2205.13147): checked before training, and evaluated."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from configuration_mtsbert import PAIR_TYPES, MTSBertConfig
from modeling_mtsbert import MTSBertOutput


AT_SIZE = "cosines at "  # followed by a size: key beside the tasks in what an evaluation collects; no task has a space


def check_sizes(config: MTSBertConfig, sizes: Sequence[int]) -> tuple[int, ...]:
    """Returns the sizes, or raises `ValueError` if the embedding is smaller, or nothing would be learned for them."""
    if sizes and max(sizes) > config.embedding_size:
        raise ValueError(f"`matryoshka_dims` has {max(sizes)}, and the embedding has only {config.embedding_size}.")
    if sizes and not any(task["type"] in PAIR_TYPES for task in config.tasks.values()):
        raise ValueError(
            f"`matryoshka_dims` concerns tasks on two texts ({', '.join(PAIR_TYPES)}), and the tasks are "
            f"{ {name: task['type'] for name, task in config.tasks.items()} }."
        )
    return tuple(sizes)


def cosines_at_sizes(output: MTSBertOutput, sizes: Sequence[int]) -> dict[str, torch.Tensor]:
    """Returns the cosines `(B,)` of the first dimensions of the embeddings of both texts, for each size."""
    if not sizes:
        return {}
    u, v = output.pooler_output.float(), output.pair_pooler_output.float()
    return {f"{AT_SIZE}{size}": F.cosine_similarity(u[:, :size], v[: len(u), :size], dim=-1) for size in sizes}
