"""Where the sentence embedding of every training text started: computed once, and compared with where it is now.

Letters used below: `N` texts, `B` texts of a batch, `H` the width of the embedding.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import transformers
from datasets import Dataset
from torch.nn import functional as F

from modeling_mtsbert import MTSBertModel
from mtsbert.data.collator import MultiTaskCollator
from mtsbert.data.features import NO_ROW, ROW
from mtsbert.network.disk_cache import DiskCache
from mtsbert.network.feature_cache import PLACE, Texts


EMBEDDING = "embedding"  # among tasks, none of which has this name
TARGETS = "embedding_targets"  # what a batch calls them; with the prefix "pair_" those of second texts
DTYPE = torch.float16  # on disk: 2 H bytes a text, and cosines that are right to 1e-6


class EmbeddingTargets:
    """
    The embeddings of all texts of some rows, as a reference model makes them.

    Args:
        num_rows (`int`): Rows that the texts are of. First texts come first, then second ones.
        vectors (`torch.Tensor` of shape `(2 * num_rows, H)`): Of length 1; 0 where a row has no second text.
    """

    def __init__(self, num_rows: int, vectors: torch.Tensor):
        self.num_rows = num_rows
        self.vectors = vectors

    def batch(self, places: list[int], *, second: bool = False) -> torch.Tensor:
        """The targets `(B, H)` of rows, by their places."""
        first = self.num_rows if second else 0
        return self.vectors[[first + place for place in places]].float()


@dataclass
class TargetCollator:
    """Adds to every batch the embeddings that its texts had in the beginning."""

    collator: MultiTaskCollator
    targets: EmbeddingTargets

    def __call__(self, features: list[dict]) -> dict:
        batch = self.collator(features)
        places = [feature[PLACE] for feature in features]
        is_row = torch.tensor([feature[ROW] != NO_ROW for feature in features]).unsqueeze(1)  # not a filler
        batch[TARGETS] = self.targets.batch(places) * is_row
        if "pair_attention_mask" in batch:
            batch[f"pair_{TARGETS}"] = self.targets.batch(places, second=True) * is_row
        return batch


def open_embedding_targets(
    reference: MTSBertModel,
    features: Dataset,
    *,
    disk: DiskCache,
    batch_size: int,
    padding_side: str,
    autocast: Callable[[], AbstractContextManager],
) -> EmbeddingTargets:
    """
    The embeddings of these features' texts: found on disk, or computed and written there, or kept in memory where the
    disk has no room for them.

    Args:
        reference (`MTSBertModel`): The model whose embeddings are the targets, as it is now.
        features (`Dataset`): Rows with `input_ids` and `pair_input_ids`.
        disk (`DiskCache`): Where caches lie, and what they may take.
        batch_size (`int`): Texts in a pass.
        padding_side (`str`): The tokenizer's.
        autocast (`Callable`): The context that they are computed in.
    """
    texts = Texts.of(features)
    was_training, width = reference.training, reference.config.hidden_size
    shape = {"num_rows": 2 * texts.num_rows, "width": width}

    @torch.no_grad()
    def compute() -> Iterator[tuple[int, torch.Tensor]]:
        with autocast():
            for batch in texts.batches(batch_size):
                _, states = reference.encode(*texts.padded(batch, reference.device, padding_side))
                for text, vector in zip(batch, F.normalize(states.float(), dim=-1).to(DTYPE).cpu(), strict=True):
                    yield int(text), vector

    reference.eval()
    try:
        with autocast():
            key = _key(reference, texts)
        vectors = disk.rows(key, compute, **shape, dtype=DTYPE, what="embeddings to start from")
        if vectors is None:
            vectors = torch.zeros(tuple(shape.values()), dtype=DTYPE)
            for text, vector in compute():
                vectors[text] = vector
    finally:
        reference.train(was_training)
    return EmbeddingTargets(texts.num_rows, vectors)


def _key(reference: MTSBertModel, texts: Texts) -> str:
    device = reference.device.type
    settings = {
        "what": TARGETS,
        "versions": [torch.__version__, transformers.__version__],
        "encoder": reference.config.encoder_config.to_dict(),
        "pooling": reference.config.pooling,
        "computed": [reference.dtype, torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)],
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for weight in reference.encoder.state_dict().values():
        digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    digest.update(texts.starts.tobytes())
    digest.update(texts.pieces.tobytes())
    return digest.hexdigest()[:32]


def distances(embeddings: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """`(B,)`: 1 - cosine of embeddings `(B, H)` to their targets `(B, H)`, in float32; 0 where a target is 0."""
    has_target = targets.any(dim=-1)
    cosines = F.cosine_similarity(embeddings.float(), targets.float(), dim=-1)
    return torch.where(has_target, 1.0 - cosines, torch.zeros_like(cosines))


def pop_targets(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Takes the targets out of a batch, which the model does not know."""
    return {name: batch.pop(name) for name in (TARGETS, f"pair_{TARGETS}") if name in batch}


def num_targets(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """How many texts of a batch have a target, as a tensor without dimensions."""
    return sum(batch[name].any(dim=-1).sum() for name in (TARGETS, f"pair_{TARGETS}") if name in batch)
