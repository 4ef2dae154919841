"""The most memory that training takes."""

import resource
from pathlib import Path

import torch


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
