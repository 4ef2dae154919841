"""Learning rates: one for the heads, and steps over time."""

from collections.abc import Iterable

import torch
from torch.optim.lr_scheduler import LambdaLR


def set_head_learning_rate(
    optimizer: torch.optim.Optimizer, head_parameters: Iterable[torch.nn.Parameter], learning_rate: float
) -> None:
    """Moves the heads' parameters into groups of their own, with another learning rate and all else the same."""
    of_heads = {id(parameter) for parameter in head_parameters}
    for group in list(optimizer.param_groups):
        mine = [parameter for parameter in group["params"] if id(parameter) in of_heads]
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in of_heads]
        if mine:
            optimizer.add_param_group({**group, "params": mine, "lr": learning_rate})


def step_decay_schedule(
    optimizer: torch.optim.Optimizer, *, num_warmup_steps: int, steps_between: int, factor: float
) -> LambdaLR:
    """Linear warm-up, then `factor` once more every `steps_between` steps, like `torch.optim.lr_scheduler.StepLR`."""

    def rate(step: int) -> float:
        if step < num_warmup_steps:
            return step / num_warmup_steps
        return factor ** ((step - num_warmup_steps) // steps_between)

    return LambdaLR(optimizer, rate)
