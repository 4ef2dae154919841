"""
Losses that compare all pairs of an optimizer step with each other, whatever micro-batches and ranks the pairs are on.

The gradient of such a loss with respect to the embeddings is computed first, from the embeddings of all micro-batches.
Then each micro-batch is trained on the product of its embeddings and that gradient (GradCache, arXiv 2101.06983).
Together, the micro-batches have the gradient of a single large batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from losses_mtsbert import compares_pairs, is_labelled, num_items
from modeling_mtsbert import MTSBertModel, MTSBertOutput
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.network.embedding_targets import TARGET_KEYS
from mtsbert.network.feature_cache import PLACE
from mtsbert.results.ranking import ranked_embeddings


NOT_FOR_EMBEDDING = ("labels", PLACE, *TARGET_KEYS)  # keys of a batch that embedding its texts does not need


@dataclass
class _Surrogate:
    """What stands for a loss in one micro-batch."""

    value: torch.Tensor
    """The micro-batch's share of the loss of the step."""
    gradient: torch.Tensor
    """`(B, 3 H)`: the gradient of the loss of the step with respect to [`ranked_embeddings`]."""


class StepLosses:
    """
    Computes the losses of the tasks that compare all pairs of an optimizer step. There is nothing to do if a step is
    one micro-batch of one process, whose forward pass computes the whole loss, or if no pair is labelled.

    Args:
        model ([`MTSBertModel`]): The model.
        args ([`MTLTrainingArguments`]): Those of the run.

    Raises:
        `ValueError`: if the model has such a task and `torch_compile` is set, but a step is more than one batch.
    """

    def __init__(self, model: MTSBertModel, args: MTLTrainingArguments):
        self.model = model
        self.tasks = [task for task, settings in model.config.tasks.items() if compares_pairs(settings)]
        self._batches: list[dict] = []
        self._seeds: list[int] = []  # of the micro-batches that are still to come
        self._surrogates: dict[str, list[_Surrogate | None]] = {}  # by task, one for each micro-batch
        self._place = 0
        if self.tasks and args.torch_compile and (args.gradient_accumulation_steps > 1 or args.world_size > 1):
            raise ValueError(
                f"{self.tasks} compare all pairs of an optimizer step, in two passes that need the same dropout, and "
                "`torch_compile` draws it anew. Leave it off, or use one process and `gradient_accumulation_steps: 1`."
            )

    def begin_step(
        self, batches: list[dict], num_items: dict[str, torch.Tensor] | None, accelerator: Accelerator
    ) -> None:
        """
        Must be called before the first micro-batch of a step.

        Args:
            batches (`list[dict]`): The micro-batches of this rank.
            num_items (`dict[str, torch.Tensor]`, *optional*): By task, the labelled items of the step on all ranks.
            accelerator (`Accelerator`): Knows the ranks.
        """
        is_whole = len(batches) <= 1 and accelerator.num_processes == 1
        # The counts are those of all ranks, so that all ranks decide the same.
        is_due = not is_whole and batches and any(num_items[task] > 0 for task in self.tasks)
        self._batches, self._seeds, self._surrogates = list(batches) if is_due else [], [], {}

    def begin_batch(self, run: Callable[[dict], MTSBertOutput], accelerator: Accelerator) -> None:
        """
        Must be called before the forward pass of a micro-batch, with the model in the modes of that pass. Embeds all
        micro-batches of the step before the first one. Seeds torch, so that dropout is the same in both passes.

        Args:
            run (`Callable[[dict], MTSBertOutput]`): Runs the model, as the forward pass does.
            accelerator (`Accelerator`): Gathers embeddings from all ranks.
        """
        if not self._batches:
            return
        if not self._seeds:
            self._seeds = torch.randint(2**62, (len(self._batches),)).tolist()
            self._embed_step(run, accelerator)
        self._place = len(self._batches) - len(self._seeds)
        torch.manual_seed(self._seeds.pop(0))

    def put_into(self, output: MTSBertOutput) -> None:
        """Gives the losses of a micro-batch its share of their value, and the gradient of the whole step."""
        for task, surrogates in self._surrogates.items():
            if (surrogate := surrogates[self._place]) is not None:
                product = (ranked_embeddings(output) * surrogate.gradient).sum()
                output.losses[task] = surrogate.value + (product - product.detach())

    @torch.no_grad()
    def _embed_step(self, run: Callable[[dict], MTSBertOutput], accelerator: Accelerator) -> None:
        embeddings: list[torch.Tensor | None] = []
        for batch, seed in zip(self._batches, self._seeds, strict=True):
            # Of several ranks, all run the same number of forward passes, for which some wrappers wait.
            if accelerator.num_processes == 1 and not any(num_items(batch["labels"][task]) for task in self.tasks):
                embeddings.append(None)
                continue
            torch.manual_seed(seed)
            inputs = {name: value for name, value in batch.items() if name not in NOT_FOR_EMBEDDING}
            output = run({**inputs, "tasks": self.tasks})  # other heads come after the encoder, and need not run
            embeddings.append(ranked_embeddings(output))
        for task in self.tasks:
            labels = [batch["labels"][task].to(accelerator.device) for batch in self._batches]
            self._surrogates[task] = self._of_step(task, embeddings, labels, accelerator)

    def _of_step(
        self, task: str, embeddings: list[torch.Tensor | None], labels: list[torch.Tensor], accelerator: Accelerator
    ) -> list[_Surrogate | None]:
        """Computes the loss of all pairs of the step, and returns the part of each micro-batch."""
        rows = [is_labelled(of_batch).nonzero().squeeze(1) for of_batch in labels]
        mine = [
            torch.cat([of_batch[places], of_rows[places].unsqueeze(1)], dim=-1)
            for of_batch, of_rows, places in zip(embeddings, labels, rows, strict=True)
            if of_batch is not None
        ]
        pairs, first = _gathered(torch.cat(mine), accelerator)
        if len(pairs) == 0:
            return [None] * len(rows)
        texts, scores = pairs[:, :-1].clone().requires_grad_(), pairs[:, -1]
        with torch.enable_grad():
            u, second, negatives = texts.chunk(3, dim=-1)
            loss = self.model.loss_of_pairs(task, u, torch.cat([second, negatives]), scores)
            (gradient,) = torch.autograd.grad(loss, texts)
        surrogates: list[_Surrogate | None] = []
        for of_batch, places in zip(embeddings, rows, strict=True):
            if of_batch is None:
                surrogates.append(None)
                continue
            of_rows = torch.zeros_like(of_batch).index_copy(0, places, gradient[first : first + len(places)])
            surrogates.append(_Surrogate(loss.detach() * (len(places) / len(pairs)), of_rows))
            first += len(places)
        return surrogates


def _gathered(rows: torch.Tensor, accelerator: Accelerator) -> tuple[torch.Tensor, int]:
    """Returns the rows of all ranks, of which each may have another number, and the index of this rank's first row."""
    if accelerator.num_processes == 1:
        return rows, 0
    numbers = accelerator.gather(torch.tensor([len(rows)], device=rows.device)).tolist()
    padded = rows.new_zeros(max(numbers), rows.shape[1])
    padded[: len(rows)] = rows
    parts = accelerator.gather(padded).split(max(numbers)) if max(numbers) else [padded]
    everything = torch.cat([part[:number] for part, number in zip(parts, numbers, strict=False)])
    return everything, sum(numbers[: accelerator.process_index])
