"""Describes the machine and the library versions of a benchmark."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch


def describe_machine() -> dict[str, str | int | bool]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "native_bf16": bool(torch.cpu.get_capabilities().get("avx512_bf16")),
        "gpu": gpu or "none",
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "datasets", "accelerate", "spacy")},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()
