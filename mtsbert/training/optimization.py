"""Learning rates for each part of the model, and their schedules."""

import logging
import math
import zlib

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers.training_args import OptimizerNames

from configuration_mtsbert import COSENT, FOCAL, NUMBER_TYPES, PAIR_RANKING, PAIR_TYPES
from modeling_mtsbert import MTSBertModel
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.distillation.losses import taught
from mtsbert.network.parts import (
    EMBEDDINGS,
    OTHER,
    Part,
    copied_layers,
    encoder_layers,
    is_head,
    layer_name,
    task_layer_name,
)
from mtsbert.settings import being_made
from mtsbert.training.checkpoints import check_alike
from mtsbert.training.evaluation import EvaluatingTrainer
from mtsbert.training.losses.balancing import StaticBalancing


OPTIMIZER_STATE = "optimizer"  # key in the state of the Trainer, for checkpoints
# Arguments that an optimizer is made from, beside the learning rates.
OF_OPTIMIZER = (
    "optim", "optim_args", "optim_target_modules", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"
)  # fmt: skip

logger = logging.getLogger(__name__)


def describe_optimization(args: MTLTrainingArguments, tasks: dict[str, dict], given: tuple = (None, None)) -> str:
    """
    Names the optimizer, the schedule and the loss of every task of a run.

    Args:
        args ([`MTLTrainingArguments`]): What they follow from.
        tasks (`dict[str, dict]`): The settings of the tasks.
        given (`tuple`, *optional*): The names of the classes of an optimizer and a schedule that the user gave; None
            for those that the Trainer makes.
    """
    schedule = f"{args.lr_scheduler_type.value} schedule"
    if args.step_decay_every is not None:
        schedule = f"rates times {args.step_decay_factor:g} every {args.step_decay_every:g} epochs"
    optimizer = f"{OptimizerNames(args.optim).value}, weight decay {args.weight_decay:g}"
    optimizer, schedule = given[0] or optimizer, given[1] or schedule
    losses = "; ".join(f"{task} by {_loss_in_words(settings)}" for task, settings in tasks.items())
    return f"Optimizer {optimizer}, {schedule}. Losses: {losses}."


def _loss_in_words(settings: dict) -> str:
    if settings["type"] == PAIR_RANKING:
        return "ranking among in-batch negatives"
    if settings["type"] in NUMBER_TYPES:
        return "CoSENT" if settings.get("loss") == COSENT else "squared error"
    name = "binary cross-entropy" if settings.get("multi_label") else "cross-entropy"
    name = f"focal {name}" if settings.get("loss") == FOCAL else name
    given = {
        "class_weights": "class weights",
        "pos_weight": "positive weights",
        "label_smoothing": "label smoothing",
        "soft_labels": "probabilities as labels",
    }
    extras = [words for key, words in given.items() if settings.get(key)]
    return f"{name} with {' and '.join(extras)}" if extras else name


def head_learning_rate(args: MTLTrainingArguments) -> float:
    return args.learning_rate if args.head_learning_rate is None else args.head_learning_rate


def peak_learning_rates(model: MTSBertModel, parts: dict[str, Part], args: MTLTrainingArguments) -> dict[str, float]:
    """
    Returns the learning rate of each part of the model (see `network/parts.py`) after the warmup.

    Heads have `head_learning_rate`, and the tasks' copies of layers have the rate of what they were copied from. With
    `layer_decay` ξ and L layers, the last layer of the encoder has ξ · `learning_rate`, each layer below has another
    factor of ξ, and the embeddings have ξ^(L + 1). This follows the ELECTRA paper (arXiv 2003.10555), whose code
    decays once more.
    """
    rates = {name: head_learning_rate(args) if is_head(name) else args.learning_rate for name in parts}
    if args.layer_decay is not None:
        num_layers = len(encoder_layers(model))
        steps_down = {layer_name(index): num_layers - index for index in range(num_layers)}
        steps_down |= {OTHER: 1, EMBEDDINGS: num_layers + 1}
        steps_down |= {task_layer_name(index): steps_down[layer_name(index)] for index in copied_layers(model)}
        rates |= {name: args.learning_rate * args.layer_decay**steps for name, steps in steps_down.items()}
    return rates


def set_learning_rates(optimizer: torch.optim.Optimizer, parts: dict[str, Part], rates: dict[str, float]) -> None:
    """Splits the optimizer's parameter groups by the learning rates of the parts, keeping all other options."""
    rate_of = {id(parameter): rates[name] for name, part in parts.items() for parameter in part.parameters}
    groups = []
    for group in optimizer.param_groups:
        by_rate: dict[float, list[torch.nn.Parameter]] = {}
        for parameter in group["params"]:
            by_rate.setdefault(rate_of[id(parameter)], []).append(parameter)
        groups += [{**group, "params": parameters, "lr": rate} for rate, parameters in by_rate.items()]
    optimizer.param_groups[:] = groups


def step_decay_schedule(
    optimizer: torch.optim.Optimizer, *, num_warmup_steps: int, steps_between: int, factor: float
) -> LambdaLR:
    """
    Creates a schedule with linear warmup, followed by step decay like `torch.optim.lr_scheduler.StepLR`.

    Args:
        optimizer (`torch.optim.Optimizer`): The optimizer.
        num_warmup_steps (`int`): The number of warmup steps.
        steps_between (`int`): The number of steps between two decays, counted from the end of the warmup.
        factor (`float`): The learning rate is multiplied by this at each decay.
    """

    def rate(step: int) -> float:
        if step < num_warmup_steps:
            return step / num_warmup_steps
        return factor ** ((step - num_warmup_steps) // steps_between)

    return LambdaLR(optimizer, rate)


def let_unlabelled_rest(model: MTSBertModel, num_items: dict[str, int]) -> None:
    """
    Takes away the gradients, all of them zeros, of what an optimizer step has nothing to learn for: the heads of the
    tasks without any labels, and the layers of their own that tasks on single texts have. The optimizer leaves weights
    without a gradient alone, as it does in a loop that runs one task at a time. With zeros, Adam would go on moving
    them and let its second moments shrink, so that steps with labels would be longer, by the square root of 2 if every
    other one has none.

    Args:
        model ([`MTSBertModel`]): The model, after the backward pass.
        num_items (`dict[str, int]`): By task, the labels and the answers of a teacher in the step, on all ranks.
    """
    labelled = {task: settings for task, settings in model.config.tasks.items() if num_items[task]}
    resting = [head for task, head in model.heads.items() if task not in labelled]
    if model.task_layers is not None and all(settings["type"] in PAIR_TYPES for settings in labelled.values()):
        resting.append(model.task_layers)
    for module in resting:
        for parameter in module.parameters():
            parameter.grad = None


def check_beside_given(
    args: MTLTrainingArguments, optimizer: torch.optim.Optimizer | None, schedule: LRScheduler | None
) -> None:
    """Raises `ValueError` for arguments that an optimizer or a schedule of the user's leaves without use."""
    of_optimizer = ("head_learning_rate", "layer_decay") if optimizer is not None else ()
    of_schedule = ("step_decay_every",) if schedule is not None else ()
    for name in (*of_optimizer, *of_schedule):
        if getattr(args, name) is not None:
            raise ValueError(
                f"`{name}` sets rates that an optimizer or a schedule of yours (`optimizers`) has itself. Drop it, or "
                "let the Trainer make both; `optimizer_cls_and_kwargs` names a class of optimizers for it."
            )


class OptimizingTrainer(EvaluatingTrainer):
    """
    A Trainer with a learning rate for each part of the model. Subclasses must set `learning_rates` and `balancing`,
    and `num_items` in each optimizer step.
    """

    _own_optimizer: torch.optim.Optimizer | None = None
    learning_rates: dict[str, float]
    balancing: StaticBalancing
    num_items: dict[str, torch.Tensor]
    """By task, the labelled items of the current optimizer step on all ranks; by [`taught`], the taught ones."""

    def begin_training(self) -> None:
        super().begin_training()
        given = self.optimizer_cls_and_kwargs and self.optimizer_cls_and_kwargs[0].__name__
        if not self.has_own_optimizer and isinstance(self.optimizer, AcceleratedOptimizer):
            given = type(self.optimizer.optimizer).__name__
        schedule = None if self._created_lr_scheduler else type(self.lr_scheduler).__name__
        logger.info(describe_optimization(self.args, self.model.config.tasks, (given, schedule)))

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Like `Trainer.create_optimizer`. That of an earlier run is kept if it would be made from the same again."""
        made_from = self._made_from()
        if self.has_own_optimizer and self._optimizer_made_from != made_from:
            self.optimizer = None
        created_before = self.optimizer is not None
        kind, settings = OptimizerNames(self.args.optim).value, self.args.optim_args
        made = being_made("optimizer", optim=kind, optim_args=settings)
        with made, self.freezing.lifted():  # frozen parameters are in a group too, because some are unfrozen later
            optimizer = super().create_optimizer(model)
        if not created_before:
            set_learning_rates(optimizer, self.freezing.parts, self.learning_rates)
            if learned := self.balancing.parameters():
                rate = head_learning_rate(self.args)
                optimizer.add_param_group({"params": learned, "lr": rate, "weight_decay": 0.0})
            self._own_optimizer, self._optimizer_made_from = optimizer, made_from
        return optimizer

    def check_given_optimizer(self) -> None:
        """
        Checks an optimizer that the user gave, if any, and has [`parameter_table`] show its rates.

        Raises:
            `ValueError`: if it leaves out what is trained, or if arguments set rates that it does not have.
        """
        if self.optimizer is None or self.has_own_optimizer or self.is_deepspeed_enabled:
            return
        check_beside_given(self.args, self.optimizer, None)
        rates = {
            id(weight): group.get("initial_lr", group["lr"])
            for group in self.optimizer.param_groups
            for weight in group["params"]
        }
        left_out = [name for name, weight in self.freezing.trained_weights().items() if id(weight) not in rates]
        if any(id(parameter) not in rates for parameter in self.balancing.parameters()):
            left_out.append("the weights that `loss_balancing` learns")
        if left_out:
            more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
            raise ValueError(
                f"The optimizer that was given (`optimizers`) does not have {left_out[-1]}{more}, which would never "
                "be trained. Freeze what is not to be trained (`requires_grad_(False)`). What the Trainer itself puts "
                "in (`lora_r`, `loss_balancing`, `letter_case`) is in an optimizer that it makes: choose that by "
                "`optim` or `optimizer_cls_and_kwargs`."
            )
        for name, part in self.freezing.parts.items():
            if of_part := [rates[id(weight)] for weight in part.parameters if id(weight) in rates]:
                self.learning_rates[name] = float(max(of_part))

    @property
    def has_own_optimizer(self) -> bool:
        """Whether the optimizer is one that this Trainer has made, and not one that the user gave."""
        optimizer = self.optimizer
        if isinstance(optimizer, AcceleratedOptimizer):
            optimizer = optimizer.optimizer
        return optimizer is not None and optimizer is self._own_optimizer

    def _made_from(self) -> tuple:
        settings = [getattr(self.args, name) for name in OF_OPTIMIZER]
        learned = [id(parameter) for parameter in self.balancing.parameters()]
        rates = dict(self.learning_rates), head_learning_rate(self.args)
        weights = [id(weight) for part in self.freezing.parts.values() for weight in part.parameters]
        return settings, rates, learned, weights, set(self.freezing.fixed)

    def kept_state(self) -> dict[str, dict]:
        """What decides the form of the optimizer's state, for a run that is resumed."""
        return super().kept_state() | {OPTIMIZER_STATE: self._optimizer_settings()}

    def check_kept_state(self, kept: dict[str, dict], checkpoint: str) -> None:
        super().check_kept_state(kept, checkpoint)
        saved = kept.get(OPTIMIZER_STATE, {})  # a checkpoint of version 0.1.0 does not say
        check_alike(checkpoint, "optimizer", saved, self._optimizer_settings())

    def _optimizer_settings(self) -> dict:
        """The class of the optimizer, and what its parameter groups follow from. Other flags leave them alone."""
        kind, _ = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, self.model)
        of_heads = head_learning_rate(self.args)
        of_heads = None if of_heads == self.args.learning_rate else of_heads
        flags = {name: getattr(self.args, name) for name in ("layer_decay", "bitfit", "freeze_modules")}
        flags |= {"optim": kind.__name__, "head_learning_rate": of_heads}
        return flags | {"weights_left_out": self._weights_left_out()}

    def _weights_left_out(self) -> str:
        """How many weights are in no group, and a checksum of their names. Adapters have a check of their own."""
        fixed, weights = self.freezing.fixed, self.freezing.model.named_parameters()
        names = [name for name, weight in weights if id(weight) in fixed] if self.args.lora_r is None else []
        return f"{len(names)} ({zlib.crc32(' '.join(names).encode()):08x})" if names else "0"

    def end_backward(self) -> bool:
        is_left_out = super().end_backward()
        counts = [self.num_items[task] + self.num_items.get(taught(task), 0) for task in self.model.config.tasks]
        counts = torch.stack(counts).tolist()
        let_unlabelled_rest(self.model, dict(zip(self.model.config.tasks, counts, strict=True)))
        return is_left_out

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        if self.args.step_decay_every is None or self.lr_scheduler is not None:
            kind, settings = self.args.lr_scheduler_type.value, self.args.lr_scheduler_kwargs
            with being_made("schedule", lr_scheduler_type=kind, lr_scheduler_kwargs=settings):
                return super().create_scheduler(num_training_steps, optimizer)
        if self.args.max_steps > 0:
            raise ValueError("`step_decay_every` counts epochs and cannot be used with `max_steps`.")
        steps_per_epoch = num_training_steps / self.args.num_train_epochs
        self.lr_scheduler = step_decay_schedule(
            self.optimizer if optimizer is None else optimizer,
            num_warmup_steps=self.args.get_warmup_steps(num_training_steps),
            steps_between=max(1, math.ceil(self.args.step_decay_every * steps_per_epoch)),
            factor=self.args.step_decay_factor,
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler
