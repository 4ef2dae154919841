"""Helpers for the machine a program runs on: precision, threads and peak memory."""

import argparse
import logging
import os
import sys
from pathlib import Path

import psutil
import torch
from transformers import TrainingArguments

from mtsbert.threads import cpu_quota, num_allowed_cores


PRECISIONS = ("auto", "fp32", "bf16", "fp16")  # for training
ANSWER_PRECISIONS = ("auto", "fp32", "bf16")  # for inference
SET_BY_ACCELERATE = "ACCELERATE_MIXED_PRECISION"  # environment variable that `accelerate launch` sets

logger = logging.getLogger(__name__)


def has_native_bf16(use_cpu: bool = False) -> bool:
    """Whether the accelerator, or the CPU if there is none, supports bfloat16 in hardware."""
    if not use_cpu and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not use_cpu and torch.accelerator.is_available():
        return False  # other accelerators: only if the user asks for bf16
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def has_only_avx2() -> bool:
    """Whether the CPU is an x86 without AVX-512, where OpenVINO was measured to be no faster than torch."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx2")) and not capabilities.get("avx512_f")


def add_precision_option(parser: argparse.ArgumentParser, *, default: str = "auto") -> None:
    parser.add_argument(
        "--precision",
        choices=ANSWER_PRECISIONS,
        default=default,
        help="Precision of the model. auto uses bf16 autocast if the CPU or GPU supports it natively, which is "
        "faster; probabilities then differ from fp32 in the third digit. Default: %(default)s",
    )


def uses_bf16(device: torch.device, precision: str) -> bool:
    """Whether inference runs under bf16 autocast: always with `"bf16"`, and with `"auto"` if it is native."""
    return precision == "bf16" or (precision == "auto" and has_native_bf16(device.type == "cpu"))


def autocast(device: torch.device, precision: str = "auto") -> torch.autocast:
    """Returns the autocast context for inference on a device."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=uses_bf16(device, precision))


def number_format(args: TrainingArguments) -> str:
    """Returns the precision of a run in words, such as `"bf16 autocast"`."""
    return "bf16 autocast" if args.bf16 else "fp16 autocast" if args.fp16 else "fp32"


def use_all_cores(args: TrainingArguments) -> None:
    """
    Lets a single CPU process use one thread per core when `accelerate launch` has limited it to one thread.

    Unless `--num_cpu_threads_per_process` is given, `accelerate launch` (1.15) allows one thread, which halves the
    speed on two cores. If there are several processes, they share the cores and nothing is changed. A limit of one
    thread that the user asked for looks the same as accelerate's default: to get it, bind the process to a core with
    `taskset`.
    """
    cores = min(psutil.cpu_count(logical=False) or 1, num_allowed_cores(), cpu_quota())
    is_alone_on_cpu = args.device.type == "cpu" and args.world_size == 1
    if SET_BY_ACCELERATE in os.environ and is_alone_on_cpu and torch.get_num_threads() == 1 < cores:
        torch.set_num_threads(cores)
        logger.info(f"`accelerate launch` allows 1 thread; using {cores}, one for each core.")


def reset_peak_memory() -> None:
    """Resets the peak memory statistics, if the system supports it (accelerators and Linux)."""
    if torch.accelerator.is_available():
        torch.accelerator.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # see proc(5): resets VmHWM
    except OSError:
        pass  # then the peak covers the whole lifetime of the process


def peak_memory_gb() -> float:
    """Peak memory since the last reset, in 10^9 bytes: allocated on the accelerator, or resident if there is none."""
    if torch.accelerator.is_available():
        return torch.accelerator.max_memory_allocated() / 1e9
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")) / 1e9
    except (OSError, StopIteration):
        return _peak_of_process() / 1e9


def _peak_of_process() -> int:
    """Peak memory over the whole lifetime of the process, in bytes."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # which Windows does not have

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
