"""Evaluates a ranking task over a whole evaluation set: every anchor must find its own second text in all of it.

Letters: `N` pairs, `M` candidates, `H` width of the embedding.
"""

import datasets
import evaluate
import numpy as np
import torch

from losses_mtsbert import all_cosines, is_labelled
from modeling_mtsbert import MTSBertOutput


RANKED = "ranked embeddings"  # key beside the tasks in what an evaluation collects; no task can have this name
NUM_FIRST = 10  # k of recall at k
ANCHORS_AT_ONCE = 500


def ranked_embeddings(output: MTSBertOutput) -> torch.Tensor:
    """Returns `(B, 3 H)`: the embeddings of first text, second text and hard negative (0 for none) of each row."""
    u, v = output.pooler_output.float(), output.pair_pooler_output.float()
    negatives = v[len(u) :] if len(v) > len(u) else torch.zeros_like(u)
    return torch.cat([u, v[: len(u)], negatives], dim=-1)


def rank_own_texts(embeddings: np.ndarray, labels: np.ndarray, scale: float) -> tuple[np.ndarray, float]:
    """
    Ranks the second texts and hard negatives of all labelled rows for each first text, by their cosine.

    Args:
        embeddings (`np.ndarray` of shape `(N, 3 H)`): The result of [`ranked_embeddings`].
        labels (`np.ndarray` of shape `(N,)`): 1 for the rows of the ranking.
        scale (`float`): As in the loss.

    Returns:
        The rank of each own second text, where 1 is best and candidates with the same cosine share the mean of their
        ranks; and the mean loss.
    """
    labelled = is_labelled(torch.from_numpy(labels))
    anchors, own, negatives = torch.from_numpy(embeddings)[labelled].chunk(3, dim=-1)
    candidates = torch.cat([own, negatives[negatives.any(dim=-1)]])
    ranks, losses = [], []
    for first in range(0, len(anchors), ANCHORS_AT_ONCE):
        cosines = all_cosines(anchors[first : first + ANCHORS_AT_ONCE], candidates)  # (up to ANCHORS_AT_ONCE, M)
        places = torch.arange(first, first + len(cosines))
        of_own = cosines.gather(1, places.unsqueeze(1))
        num_better, num_same = (cosines > of_own).sum(dim=1), (cosines == of_own).sum(dim=1)
        ranks.append(num_better + (num_same + 1) / 2)
        losses.append(torch.nn.functional.cross_entropy(scale * cosines, places, reduction="none"))
    return torch.cat(ranks).numpy(), torch.cat(losses).mean().item()


class RankingMetric(evaluate.Metric):
    """Mean reciprocal rank of the own second text, and the share of own second texts among the ten best candidates."""

    def _info(self):
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="Ranks of the own second texts, from 1 on.",
            features=datasets.Features({"predictions": datasets.Value("float64")}),
        )

    def _compute(self, predictions):
        ranks = np.asarray(predictions)
        return {"mrr": np.mean(1 / ranks), f"recall_at_{NUM_FIRST}": np.mean(ranks <= NUM_FIRST)}
