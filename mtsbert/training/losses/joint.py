"""The loss of joint training: the weighted sum of the tasks' losses, exact over optimizer steps, and its log."""

from collections.abc import Iterator
from typing import Any

import torch

from configuration_mtsbert import PAIR_RANKING
from losses_mtsbert import is_labelled, num_items
from modeling_mtsbert import MTSBertModel, MTSBertOutput
from mtsbert.distillation.losses import DistillationLoss, taught
from mtsbert.network.embedding_targets import ANSWERS, EMBEDDING, TARGETS, distances, num_targets, pop_targets
from mtsbert.network.feature_cache import PLACE
from mtsbert.results.ranking import RANKED, RANKED_TEXTS, ranked_embeddings, ranked_texts
from mtsbert.results.sizes import check_sizes, cosines_at_sizes
from mtsbert.training.losses.balancing import BALANCING
from mtsbert.training.losses.nonfinite import FiniteCheck
from mtsbert.training.losses.step_losses import StepLosses
from mtsbert.training.losses.task_statistics import GradientAggregation, GradientStatistics, TaskGradients, TaskLog
from mtsbert.training.optimization import OptimizingTrainer


TEACHER = "teacher's answers"  # learned beside the tasks, whose names have no spaces


class JointLossTrainer(OptimizingTrainer):
    """
    A Trainer whose loss is the weighted sum of the tasks' losses, each of them its mean over the labelled items of the
    whole optimizer step. Subclasses must set `tasks` and `freezing`.
    """

    tasks: dict[str, dict]
    distillation: DistillationLoss | None  # None without a teacher
    loss_is_scaled_for_ga = True  # `num_items_in_batch` counts the whole optimizer step

    def __init__(self, *args, **kwargs):
        self._log_since_line, self._log_of_step = TaskLog(list(self.tasks)), TaskLog(list(self.tasks))
        self._embedding_log = TaskLog([EMBEDDING])
        self._distillation_log = TaskLog(
            [taught(task) for task in self.distillation.tasks] if self.distillation else []
        )
        self.finite_check = FiniteCheck(self.tasks)
        super().__init__(*args, **kwargs)

    def attach_losses(self, model: MTSBertModel) -> None:
        """Makes anew what belongs to this very model: weights of losses, and what is measured on its layers."""
        self.task_weights = {task: float(self.args.task_weights.get(task, 1.0)) for task in self.tasks}
        self.balancing = BALANCING[self.args.loss_balancing](self.tasks, self.task_weights)
        self.gradient_statistics = GradientStatistics(model, list(self.tasks))
        self.step_losses = StepLosses(model, self.args)
        self.distillation = None
        if self.teacher is not None:
            self.distillation = DistillationLoss(self.tasks, list(self.teacher.tasks), self.args)
        model.matryoshka_dims = check_sizes(model.config, self.args.matryoshka_dims or ())
        aggregator = self.args.gradient_aggregator
        self.gradient_aggregation = GradientAggregation(aggregator, model) if aggregator else None

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[dict], dict[str, torch.Tensor] | None]:
        """The micro-batches of an optimizer step, and the labelled items of every task in them, over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        num_items_in_batch = self.num_items = self.num_items_of(batches, device) if batches else None
        self.step_losses.begin_step(batches, num_items_in_batch, self.accelerator)
        return batches, num_items_in_batch

    def num_items_of(self, batches: list[dict], device: torch.device) -> dict[str, torch.Tensor]:
        """Task → labelled items of the micro-batches of all processes; and texts whose embedding is held."""
        counts = [
            torch.stack([num_items(batch["labels"][task], settings) for batch in batches]).sum()
            for task, settings in self.tasks.items()
        ]
        counts.append(torch.as_tensor(sum(map(num_targets, batches))))
        names = [*self.tasks, EMBEDDING]
        for task in self.distillation.tasks if self.distillation is not None else ():
            names.append(taught(task))
            counts.append(sum(self.distillation.num_items(task, batch[ANSWERS]) for batch in batches))
        counts = torch.stack([count.to(device) for count in counts])
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, reduction="sum")
        return dict(zip(names, counts, strict=True))

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: dict[str, torch.Tensor] | None = None,
    ):
        if not model.training:
            targets = pop_targets(inputs)
            outputs = model(**inputs, num_items_in_batch=num_items_in_batch)
            if TARGETS in targets:  # for the metrics, beside the logits
                outputs.logits[EMBEDDING] = torch.cat([outputs.pooler_output, targets[TARGETS]], dim=-1)
            if any(task["type"] == PAIR_RANKING for task in self.tasks.values()):
                outputs.logits[RANKED] = ranked_embeddings(outputs)
                pairs = inputs["pair_input_ids"], inputs["pair_attention_mask"]
                outputs.logits[RANKED_TEXTS] = ranked_texts(*pairs, len(outputs.pooler_output))
            outputs.logits |= cosines_at_sizes(outputs, self.args.matryoshka_dims or ())
            loss = sum(weight * outputs.losses[task] for task, weight in self.task_weights.items())
            return (loss, outputs) if return_outputs else loss
        self.freezing.set_modes()  # `training_step` has just put the whole model in training mode
        # Not `model`, as DDP must not see a pass without gradients. With FSDP, both are the same.
        self.step_losses.begin_batch(lambda batch: self.model(**self._prepare_inputs(batch)), self.accelerator)
        if num_items_in_batch is None:  # a subclass that calls this may leave it out, and so may a user
            num_items_in_batch = self.num_items if self.is_training else self.num_items_of([inputs], model.device)
        rows, targets = inputs.pop(PLACE, ()), pop_targets(inputs)
        outputs = model(**inputs, num_items_in_batch=num_items_in_batch)
        self.step_losses.put_into(outputs)
        labels = inputs["labels"]
        shares = {
            task: num_items(labels[task], self.tasks[task]) / num_items_in_batch[task].clamp(min=1)
            for task in self.task_weights
        }
        examples = {task: num_examples(labels[task]) for task in self.task_weights}
        self._log_since_line.add(outputs.losses, shares, examples)
        if self.balancing.learns_from_losses:
            self._log_of_step.add(outputs.losses, shares, examples)
        loss = self.balancing.combine(outputs.losses, shares)
        beside = {}  # what else is learned, by name
        if ANSWERS in targets:
            beside[TEACHER] = self._distillation_loss(outputs, targets[ANSWERS], num_items_in_batch)
            loss = loss + beside[TEACHER]
        if TARGETS in targets:
            beside[EMBEDDING] = self._embedding_loss(outputs, targets, num_items_in_batch)
            loss = loss + self.args.embedding_distillation * beside[EMBEDDING]
        self.finite_check.add(rows, outputs.logits, labels, outputs.losses, loss)
        if awaiting := [gradients for gradients in self.measured_gradients() if gradients.awaited]:
            present = _of_present_tasks(outputs.losses, shares) | beside
            for gradients in awaiting:
                gradients.measure(present)
        if self.gradient_aggregation is not None:
            self._task_losses = list(_of_present_tasks(self.balancing.weighted(outputs.losses), shares).values())
        # DDP averages gradients over processes, but the counts are sums over them already.
        loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def measured_gradients(self) -> list[TaskGradients]:
        """Returns what measures gradients of single tasks in some of the steps."""
        return [self.gradient_statistics]

    def _embedding_loss(
        self, outputs: MTSBertOutput, targets: dict[str, torch.Tensor], num_items_in_batch: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """This micro-batch's part of the mean of 1 - cosine over the texts of the optimizer step."""
        pairs = [(outputs.pooler_output, targets[TARGETS])]
        if (pair_targets := targets.get(f"pair_{TARGETS}")) is not None:
            pairs.append((outputs.pair_pooler_output, pair_targets))
        loss = sum(distances(*pair).sum() for pair in pairs) / num_items_in_batch[EMBEDDING].clamp(min=1)
        number = num_targets(targets)
        share = number / num_items_in_batch[EMBEDDING].clamp(min=1)
        self._embedding_log.add({EMBEDDING: loss}, {EMBEDDING: share}, {EMBEDDING: number})
        return loss

    def _distillation_loss(
        self, outputs: MTSBertOutput, answers: dict[str, torch.Tensor], num_items_in_batch: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """This micro-batch's part of the weighted sum of the divergences between student and teacher."""
        losses = self.distillation.losses(outputs, answers, num_items_in_batch)
        numbers = {task: self.distillation.num_items(task, answers) for task in losses}
        keys = {task: taught(task) for task in losses}
        self._distillation_log.add(
            {keys[task]: loss for task, loss in losses.items()},
            {key: numbers[task] / num_items_in_batch[key].clamp(min=1) for task, key in keys.items()},
            {keys[task]: number for task, number in numbers.items()},
        )
        return self.distillation.combine(losses)

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch=None) -> torch.Tensor:
        """Like `Trainer.training_step`, but refuses a `compute_loss` of a subclass that replaces ours."""
        num_seen, cause = self.finite_check.num_batches, None
        try:
            loss = self._loss_of_step(model, inputs, num_items_in_batch)
        except TypeError as error:
            if self.finite_check.num_batches > num_seen or "unexpected keyword argument" not in str(error):
                raise
            cause = error
        if self.finite_check.num_batches == num_seen:
            raise ValueError(
                "The `compute_loss` of your Trainer replaces the one that weighs, checks and logs the losses of "
                "tasks. Call `loss, outputs = super().compute_loss(model, inputs, return_outputs=True)` in it, and "
                "return what you make of that loss."
            ) from cause
        return loss

    def _loss_of_step(self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch) -> torch.Tensor:
        if self.gradient_aggregation is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        loss = self.compute_loss(model, self._prepare_inputs(inputs), num_items_in_batch=num_items_in_batch)
        self.gradient_aggregation.backward(self._task_losses)
        return loss.detach()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to the training loss what each task did since the last line: loss, weight, examples, gradients."""
        if "loss" in logs:
            losses, examples = self._log_since_line.take(self._sum_over_processes)
            weights = self.balancing.weights()
            if self.targets is not None:
                losses |= self._embedding_log.take(self._sum_over_processes)[0]
            if self.answers is not None:
                losses |= self._distillation_log.take(self._sum_over_processes)[0]
            logs |= {f"{task}_loss": loss for task, loss in losses.items()}
            logs |= {f"{task}_weight": weight for task, weight in weights.items()}
            logs |= {f"{task}_examples": number for task, number in examples.items()}
            logs |= self.gradient_statistics.report()
        super().log(logs, start_time)

    def _sum_over_processes(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(tensor, reduction="sum") if self.args.world_size > 1 else tensor

    def begin_step(self) -> None:
        """Before an optimizer step: says which tasks' gradients are to be measured."""
        super().begin_step()
        logs = (self._log_since_line, self._embedding_log, self._distillation_log)
        self._sums_before = [(log, log.sums) for log in logs]
        every = 0 if self.is_fsdp_enabled else self.args.gradient_statistics_steps
        if every > 0 and self.state.global_step % every == 0 and self.gradient_statistics.parameters:
            self.gradient_statistics.awaited = set(self.task_weights)

    def end_backward(self) -> bool:
        is_left_out = super().end_backward()
        if self.args.world_size > 1 and not is_left_out:  # DDP knows the model's parameters only
            for parameter in self.balancing.parameters():
                parameter.grad = self.accelerator.reduce(parameter.grad, reduction="mean")
        return is_left_out

    def leave_step_out(self) -> None:
        super().leave_step_out()
        for log, sums in self._sums_before:
            log.sums = sums
        self.gradient_statistics.leave_step_out()
        self._log_of_step.sums = None
        for parameter in self.balancing.parameters():
            parameter.grad = None

    def end_step(self) -> None:
        """After an optimizer step: lets the balancing know how the tasks fared in it."""
        self.gradient_statistics.end_step(self._sum_over_processes, self.args.device)
        for parameter in self.balancing.parameters():
            parameter.grad = None  # the Trainer clears the gradients of the model's parameters only
        if self.balancing.learns_from_losses:
            losses, _ = self._log_of_step.take(self._sum_over_processes)
            self.balancing.end_step(losses)


def num_examples(labels: torch.Tensor) -> torch.Tensor:
    """Counts the rows of a batch that have a label, as a scalar tensor."""
    labelled = is_labelled(labels)
    return (labelled if labelled.dim() == 1 else labelled.any(dim=1)).sum()


def _of_present_tasks(losses: dict[str, torch.Tensor], shares: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {task: loss for task, loss in losses.items() if shares[task] > 0}
