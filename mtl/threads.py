"""As many threads as the machine has cores, also under a launcher that allows one."""

import logging
import os

import psutil
import torch

from .arguments import MTLTrainingArguments


SET_BY_ACCELERATE = "ACCELERATE_MIXED_PRECISION"  # in the environment of what `accelerate launch` starts

logger = logging.getLogger(__name__)


def use_all_cores(args: MTLTrainingArguments) -> None:
    """
    `accelerate launch` (1.15) gives a single process on a processor one thread, unless it is told another number by
    `--num_cpu_threads_per_process`: half the speed on two cores. Several processes share the cores, and keep theirs.
    One thread cannot be told from accelerate's default; who wants it binds the process to a core (`taskset`).
    """
    cores = min(psutil.cpu_count(logical=False) or 1, _num_allowed())
    is_alone_on_cpu = args.device.type == "cpu" and args.world_size == 1
    if SET_BY_ACCELERATE in os.environ and is_alone_on_cpu and torch.get_num_threads() == 1 < cores:
        torch.set_num_threads(cores)
        logger.info(f"`accelerate launch` allows 1 thread; using {cores}, one for each core.")


def _num_allowed() -> float:
    """Cores that this process may use; macOS and Windows do not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else float("inf")
