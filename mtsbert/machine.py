"""What the machine can do: number formats that it computes natively, threads, and the peak of memory."""

import argparse
import logging
import os
import resource
from pathlib import Path

import psutil
import torch
from transformers import TrainingArguments


PRECISIONS = ("auto", "fp32", "bf16", "fp16")  # that a run is trained in
ANSWER_PRECISIONS = ("auto", "fp32", "bf16")  # that answers are computed in
SET_BY_ACCELERATE = "ACCELERATE_MIXED_PRECISION"  # in the environment of what `accelerate launch` starts

logger = logging.getLogger(__name__)


def has_native_bf16(use_cpu: bool = False) -> bool:
    """Whether the accelerator, or without one the processor, multiplies bfloat16 in hardware."""
    if not use_cpu and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not use_cpu and torch.accelerator.is_available():
        return False  # other accelerators: only when the user asks for it
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def add_precision_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=ANSWER_PRECISIONS,
        default="auto",
        help="Of the model: bf16 autocast is faster where the processor or GPU computes it natively, and that is when "
        "auto (the default) uses it; probabilities differ in the third digit from those of fp32.",
    )


def uses_bf16(device: torch.device, precision: str) -> bool:
    """Whether answers are computed under bf16 autocast: with `bf16`, and with `auto` where it is native."""
    return precision == "bf16" or (precision == "auto" and has_native_bf16(device.type == "cpu"))


def autocast(device: torch.device, precision: str = "auto") -> torch.autocast:
    """The context that answers are computed in."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=uses_bf16(device, precision))


def number_format(args: TrainingArguments) -> str:
    """In words."""
    return "bf16 autocast" if args.bf16 else "fp16 autocast" if args.fp16 else "fp32"


def use_all_cores(args: TrainingArguments) -> None:
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


def reset_peak_memory() -> None:
    """Begins to measure anew, where the system can: on an accelerator, and on Linux."""
    if torch.accelerator.is_available():
        torch.accelerator.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # see proc(5): resets VmHWM
    except OSError:
        pass  # then the peak is that of the whole process


def peak_memory_gb() -> float:
    """In 10^9 bytes since the last reset: allocated on the accelerator, or else resident in this process."""
    if torch.accelerator.is_available():
        return torch.accelerator.max_memory_allocated() / 1e9
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")) / 1e9
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
