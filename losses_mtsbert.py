"""The losses of the tasks.

Letters used below: `B` texts, `H` hidden size, `N` pairs, `M` candidates.
"""

from typing import Any

import torch
from torch.nn import functional as F


try:  # part of a package: how `trust_remote_code=True` loads this file
    from .configuration_mtsbert import COSENT, FOCAL, NUMBER_TYPES, PAIR_RANKING, PAIR_SIMILARITY, PAIR_TYPES
    from .entities_mtsbert import IGNORE_INDEX
except ImportError:  # run from a clone, with the repository root on `sys.path`
    from configuration_mtsbert import COSENT, FOCAL, NUMBER_TYPES, PAIR_RANKING, PAIR_SIMILARITY, PAIR_TYPES
    from entities_mtsbert import IGNORE_INDEX


DEFAULT_SCALE = 20.0  # cosines are multiplied by it in the losses of a ranking and of `cosent`
FOCAL_GAMMA = 2.0
LEAST_DOUBT = 1e-6  # roots of less have no finite gradient


def is_labelled(labels: torch.Tensor, task: dict | None = None) -> torch.Tensor:
    """A mask of the items with a label: no `IGNORE_INDEX`, or no NaN; `(B,)` for probabilities of classes `(B, C)`."""
    if labels.is_floating_point():
        of_rows = task is not None and labels.dim() > 1 and not task.get("multi_label")
        return (labels[..., 0] if of_rows else labels).isnan().logical_not()
    return labels.ne(IGNORE_INDEX)


def num_items(labels: torch.Tensor, task: dict | None = None) -> torch.Tensor:
    """The number of labelled items in a batch, as a tensor without dimensions."""
    return is_labelled(labels, task).sum()


def item_losses(task: dict, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    The loss of every item in float32, in the shape of [`is_labelled`]. Without a label it is exactly 0.

    Losses that compare the pairs of a batch with each other are not computed here, see [`loss_of_pairs`].

    The loss is the cross-entropy; for a multi-label task, the binary cross-entropy of each label; for a similarity,
    the squared error between the cosine and the score scaled to [0, 1]; for a regression, the squared error in units
    of its `score_range`. Class weights multiply the loss of an item; means are still taken over the number of items,
    not over the sum of their weights. `pos_weight` multiplies that of the labels that a multi-label text has. With
    `loss: focal`, the loss of an item is multiplied by (1 - p)^`focal_gamma`, where p is the probability of the right
    answer (arXiv 1708.02002).
    """
    logits = logits.float()
    labelled = is_labelled(labels, task)
    if task["type"] in NUMBER_TYPES:
        lowest, highest = task.get("score_range", (0.0, 1.0))
        target = (labels.float() - lowest) / (highest - lowest)
        if task["type"] != PAIR_SIMILARITY:
            labels, labelled, target = (of.reshape(len(logits)) for of in (labels, labelled, target))
            logits = (logits.squeeze(-1) - lowest) / (highest - lowest)
        return (logits - torch.where(labelled, target, logits.detach())).square()
    weights, pos_weight = (
        None if task.get(key) is None else torch.tensor(task[key], dtype=torch.float32, device=logits.device)
        for key in ("class_weights", "pos_weight")
    )
    smoothing = task.get("label_smoothing", 0.0)
    if task.get("multi_label"):
        target = torch.where(labelled, labels, 0).float() * (1.0 - smoothing) + smoothing / 2
        losses = F.binary_cross_entropy_with_logits(
            logits, target, weight=weights, pos_weight=pos_weight, reduction="none"
        )
        return losses * labelled * _focus(task, torch.where(labels > 0, logits, -logits).sigmoid())
    if labels.is_floating_point():
        losses = F.cross_entropy(logits, labels.nan_to_num(0.0), weights, reduction="none", label_smoothing=smoothing)
        return losses * labelled
    flat = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    losses = F.cross_entropy(*flat, weights, ignore_index=IGNORE_INDEX, reduction="none", label_smoothing=smoothing)
    if task.get("loss") == FOCAL:
        right = torch.where(labelled, labels, 0).unsqueeze(-1)
        losses = losses.view(labels.shape) * _focus(task, logits.softmax(dim=-1).gather(-1, right).squeeze(-1))
    return losses.view(labels.shape)


def _focus(task: dict, probability: torch.Tensor) -> torch.Tensor | float:
    """The factor of the focal loss, from the probability of the right answer; 1 for another loss."""
    if task.get("loss") != FOCAL:
        return 1.0
    return (1.0 - probability).clamp(min=LEAST_DOUBT) ** task.get("focal_gamma", FOCAL_GAMMA)


def compares_pairs(task: dict) -> bool:
    """Whether the loss of a task compares the pairs of a batch with each other, so that it is no sum over items."""
    return task["type"] == PAIR_RANKING or task.get("loss") == COSENT


def cosent_loss(cosines: torch.Tensor, scores: torch.Tensor, scale: float = DEFAULT_SCALE) -> torch.Tensor:
    """
    The CoSENT loss (doi 10.1109/TASLP.2024.3402087): log(1 + Σ exp(scale (c_j - c_i))) over all i, j with s_i > s_j.

    Args:
        cosines, scores (`torch.Tensor` of shape `(N,)`): c and s of `N` > 0 pairs of texts.
        scale (`float`, *optional*, defaults to 20): The larger, the more the worst-ordered pairs count.
    """
    scores, order = scores.sort()
    logits = scale * cosines.float()[order]
    # Sums over all lower scores from cumulative sums, instead of a matrix of all pairs.
    num_lower = torch.searchsorted(scores, scores)
    below = torch.logcumsumexp(logits, dim=0)[(num_lower - 1).clamp(min=0)]
    terms = (below - logits)[num_lower > 0]
    return torch.cat([terms, terms.new_zeros(1)]).logsumexp(dim=0)


def ranking_losses(
    anchors: torch.Tensor, candidates: torch.Tensor, own: torch.Tensor, scale: float = DEFAULT_SCALE
) -> torch.Tensor:
    """
    The cross-entropy `(N,)` of finding the own candidate of each anchor by its cosine (arXiv 1705.00652).

    Args:
        anchors (`torch.Tensor` of shape `(N, H)`): Embeddings of the first texts.
        candidates (`torch.Tensor` of shape `(M, H)`): Embeddings of second texts and hard negatives.
        own (`torch.Tensor` of shape `(N,)`): For each anchor, the index of its own second text among the candidates.
        scale (`float`, *optional*, defaults to 20): The inverse temperature.
    """
    return F.cross_entropy(scale * all_cosines(anchors, candidates), own, reduction="none")


def all_cosines(anchors: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """The cosines `(N, M)` of all anchors `(N, H)` with all candidates `(M, H)`, in float32 also under autocast."""
    with torch.autocast(anchors.device.type, enabled=False):
        return F.normalize(anchors.float(), dim=-1) @ F.normalize(candidates.float(), dim=-1).T


def loss_of_pairs(task: dict, u: torch.Tensor, v: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    The loss of a task that compares pairs with each other, over the labelled rows of a batch; 0 if there are none.

    Args:
        task (`dict`): Settings of the task.
        u (`torch.Tensor` of shape `(B, H)`): Embeddings of the first texts.
        v (`torch.Tensor` of shape `(B, H)` or `(2 B, H)`):
            Embeddings of the second texts, and for a ranking also of hard negatives, which are 0 where there is none.
        labels (`torch.Tensor` of shape `(B,)`): Scores, or 1 for the rows of a ranking.
    """
    rows = is_labelled(labels).nonzero().squeeze(1)
    if len(rows) == 0:
        return (u.float().sum() + v.float().sum()) * 0.0
    scale = task.get("scale", DEFAULT_SCALE)
    first, second = u[rows], v[rows]
    if task["type"] == PAIR_SIMILARITY:
        return cosent_loss(F.cosine_similarity(first.float(), second.float(), dim=-1), labels[rows], scale)
    negatives = v[len(u) :]
    negatives = negatives[rows[negatives[rows].any(dim=-1)]] if len(negatives) else negatives
    own = torch.arange(len(rows), device=u.device)
    return ranking_losses(first, torch.cat([second, negatives]), own, scale).mean()


class TaskLosses:
    """Methods of [`MTSBertModel`] that compute the losses of its tasks."""

    matryoshka_dims: tuple[int, ...] = ()
    """If set, losses are sums over the embeddings cut to these sizes (Matryoshka, arXiv 2205.13147). Not saved."""

    def losses(
        self, output: Any, labels: dict[str, torch.Tensor], num_items_in_batch: dict[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """The mean loss of every task over its labelled items. Without any, it is 0 and keeps its graph, for DDP."""
        if unknown := sorted(set(labels) - set(self.config.tasks)):
            raise ValueError(
                f"`labels` names tasks that the model does not have: {unknown}; it has {list(self.config.tasks)}."
            )
        losses, logits = {}, output.logits
        for task, settings in self.config.tasks.items():
            if task in logits and labels.get(task) is not None:
                count = num_items(labels[task], settings) if num_items_in_batch is None else num_items_in_batch[task]
                if settings["type"] in PAIR_TYPES:
                    losses[task] = self.pair_loss(task, output, labels[task], count.clamp(min=1))
                else:
                    losses[task] = item_losses(settings, logits[task], labels[task]).sum() / count.clamp(min=1)
                continue
            if labels.get(task) is not None and num_items(labels[task]):
                raise ValueError(f"`labels` has {task!r}, which compares two texts, but there is no `pair_input_ids`.")
            in_graph = [logits[task]] if task in logits else self.heads[task].parameters()
            losses[task] = sum((part.float().sum() * 0.0 for part in in_graph), torch.zeros((), device=self.device))
        return losses

    def pair_loss(self, task: str, output: Any, labels: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        """
        The contribution of a batch to the loss of a task on two texts.

        Args:
            task (`str`): Name of the task.
            output ([`MTSBertOutput`]): The embeddings and logits of the batch.
            labels (`torch.Tensor` of shape `(B,)`): Labels of the task.
            count (`torch.Tensor`): The number of labelled items that the loss is a mean over.
        """
        settings, u, v = self.config.tasks[task], output.pooler_output, output.pair_pooler_output
        if compares_pairs(settings):
            return self.loss_of_pairs(task, u, v, labels) * (num_items(labels) / count)
        found = [output.logits[task]]
        if self.matryoshka_dims:
            found = [self.pair_logits(task, *cut) for cut in self._at_sizes(u, v[: len(u)])]
        return sum(item_losses(settings, logits, labels).sum() for logits in found) / count

    def loss_of_pairs(self, task: str, u: torch.Tensor, v: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Like the function [`loss_of_pairs`], but summed over `matryoshka_dims`."""
        return sum(loss_of_pairs(self.config.tasks[task], *cut, labels) for cut in self._at_sizes(u, v))

    def _at_sizes(self, *embeddings: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
        """The embeddings at each of `matryoshka_dims`, with 0 in the dimensions beyond and again of length 1."""
        if not self.matryoshka_dims:
            return [embeddings]
        return [
            tuple(self.embed(F.pad(whole[:, :size], (0, whole.shape[1] - size))) for whole in embeddings)
            for size in self.matryoshka_dims
        ]
