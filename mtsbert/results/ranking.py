"""Evaluates a ranking task over a whole evaluation set: every anchor must find its own second text in all of it.

Letters: `N` pairs, `M` candidates, `H` width of the embedding.
"""

import datasets
import evaluate
import numpy as np
import torch

from losses_mtsbert import all_cosines, is_labelled
from modeling_mtsbert import MTSBertOutput


# Keys beside the tasks in what an evaluation collects; no task can have these names.
RANKED, RANKED_TEXTS = "ranked embeddings", "ranked texts"
FACTOR = 6_364_136_223_846_793_005  # odd and large, so that sums of its powers, modulo 2^64, tell texts apart
NUM_FIRST = 10  # k of recall at k
ANCHORS_AT_ONCE = 500


def ranked_embeddings(output: MTSBertOutput) -> torch.Tensor:
    """Returns `(B, 3 H)`: the embeddings of first text, second text and hard negative (0 for none) of each row."""
    u, v = output.pooler_output.float(), output.pair_pooler_output.float()
    negatives = v[len(u) :] if len(v) > len(u) else torch.zeros_like(u)
    return torch.cat([u, v[: len(u)], negatives], dim=-1)


def ranked_texts(input_ids: torch.Tensor, attention_mask: torch.Tensor, num_rows: int) -> torch.Tensor:
    """
    Numbers that are the same for the same tokens, `(B, 2)`: of the second text and of the hard negative of each row.

    Args:
        input_ids, attention_mask (`torch.Tensor` of shape `(B, T)` or `(2 B, T)`): Of second texts and hard negatives.
        num_rows (`int`): `B`.
    """
    places = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)  # whatever the padding
    powers = torch.full_like(input_ids[0], FACTOR).cumprod(dim=0)
    numbers = ((input_ids + 1) * powers[places] * attention_mask).sum(dim=1)
    negatives = numbers[num_rows:] if len(numbers) > num_rows else torch.zeros_like(numbers)
    return torch.stack([numbers[:num_rows], negatives], dim=1)


def rank_own_texts(
    embeddings: np.ndarray, labels: np.ndarray, scale: float, texts: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """
    Ranks the second texts and hard negatives of all labelled rows for each first text, by their cosine. A text that
    occurs several times has one rank.

    Args:
        embeddings (`np.ndarray` of shape `(N, 3 H)`): The result of [`ranked_embeddings`].
        labels (`np.ndarray` of shape `(N,)`): 1 for the rows of the ranking.
        scale (`float`): As in the loss.
        texts (`np.ndarray` of shape `(N, 2)`, *optional*): The result of [`ranked_texts`]. Default: all are different.

    Returns:
        The rank of each own second text, where 1 is best and candidates with the same cosine share the mean of their
        ranks; and the mean loss.
    """
    labelled = is_labelled(torch.from_numpy(labels))
    anchors, own, negatives = torch.from_numpy(embeddings)[labelled].chunk(3, dim=-1)
    has_negative = negatives.any(dim=-1)
    candidates = torch.cat([own, negatives[has_negative]])
    firsts = numbers = np.arange(len(candidates))
    if texts is not None:
        of_own, of_negatives = texts[labelled.numpy()].T
        _, firsts, numbers = np.unique(
            np.concatenate([of_own, of_negatives[has_negative.numpy()]]), return_index=True, return_inverse=True
        )
    ranks, losses = [], []
    for first in range(0, len(anchors), ANCHORS_AT_ONCE):
        cosines = all_cosines(anchors[first : first + ANCHORS_AT_ONCE], candidates)  # (up to ANCHORS_AT_ONCE, M)
        places = torch.arange(first, first + len(cosines))
        losses.append(torch.nn.functional.cross_entropy(scale * cosines, places, reduction="none"))
        cosines = cosines[:, torch.from_numpy(firsts)]  # each text once
        of_own = cosines.gather(1, torch.from_numpy(numbers)[places].unsqueeze(1))
        num_better, num_same = (cosines > of_own).sum(dim=1), (cosines == of_own).sum(dim=1)
        ranks.append(num_better + (num_same + 1) / 2)
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
