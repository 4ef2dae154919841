"""What stands on the encoder: heads from states to logits, and the loss of every item.

Letters used below: `B` texts, `T` word pieces, `H` hidden size, `C` classes, `K` tags.
"""

import torch
from torch import nn
from torch.nn import functional as F


try:  # part of a package: how `trust_remote_code=True` loads this file
    from .configuration_mtsbert import PAIR_CLASSIFICATION, PAIR_SIMILARITY, MTSBertConfig
    from .entities_mtsbert import IGNORE_INDEX
except ImportError:  # run from a clone, with the repository root on `sys.path`
    from configuration_mtsbert import PAIR_CLASSIFICATION, PAIR_SIMILARITY, MTSBertConfig
    from entities_mtsbert import IGNORE_INDEX


class ClassificationHead(nn.Module):
    """Dropout, an optional hidden layer, and a linear layer on states of any width."""

    def __init__(self, config: MTSBertConfig, task: dict):
        super().__init__()
        input_size = config.hidden_size * (3 if task["type"] == PAIR_CLASSIFICATION else 1)
        self.dropout = nn.Dropout(config.head_dropout)
        self.hidden = None
        if (hidden_size := task.get("hidden_size")) is not None:
            self.hidden = nn.Linear(input_size, hidden_size)
            input_size = hidden_size
        self.classifier = nn.Linear(input_size, len(task["labels"]))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        states = self.dropout(states)
        if self.hidden is not None:
            states = self.dropout(F.gelu(self.hidden(states)))
        return self.classifier(states)


class CosineHead(nn.Module):
    """The cosine of two embeddings `(B, H)`, in float32; 0 where one of them is the zero vector."""

    def forward(self, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.cosine_similarity(u.float(), v.float(), dim=-1)


def is_labelled(labels: torch.Tensor) -> torch.Tensor:
    """Where a tensor of labels has one: not `IGNORE_INDEX`, and for scores not NaN."""
    return labels.isnan().logical_not() if labels.is_floating_point() else labels.ne(IGNORE_INDEX)


def num_items(labels: torch.Tensor) -> torch.Tensor:
    """How many items of a batch are labelled, as a tensor without dimensions."""
    return is_labelled(labels).sum()


def item_losses(task: dict, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    The loss of every item in float32, shaped like `labels`; exactly 0 where there is no label.

    Cross-entropy; binary cross-entropy for each label of a multi-label task; for a similarity, the squared error
    between the cosine and the score scaled to [0, 1]. Class weights multiply an item's loss; a mean is still taken
    over the number of items.
    """
    logits = logits.float()
    labelled = is_labelled(labels)
    if task["type"] == PAIR_SIMILARITY:
        lowest, highest = task["score_range"]
        target = (labels.float() - lowest) / (highest - lowest)
        return (logits - torch.where(labelled, target, logits.detach())).square()
    weights = task.get("class_weights")
    weights = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=logits.device)
    smoothing = task.get("label_smoothing", 0.0)
    if task.get("multi_label"):
        target = torch.where(labelled, labels, 0).float() * (1.0 - smoothing) + smoothing / 2
        losses = F.binary_cross_entropy_with_logits(logits, target, weight=weights, reduction="none")
        return losses * labelled
    losses = F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]),
        labels.reshape(-1),
        weight=weights,
        ignore_index=IGNORE_INDEX,
        reduction="none",
        label_smoothing=smoothing,
    )
    return losses.view(labels.shape)
