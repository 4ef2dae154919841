"""Describes the machine and the library versions of a benchmark."""

import os
import platform
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch


# The variables that keep torch and OpenVINO from using more than this; onnxruntime has none.
LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")
LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "spacy")
INSTRUCTION_SETS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


def describe_machine() -> dict[str, Any]:
    limits = {name: os.environ[name] for name in LIMITS if name in os.environ}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "instruction_sets": _instruction_sets(),
        **({"limited_by": limits} if limits else {}),
        "native_bf16": bool(torch.cpu.get_capabilities().get("avx512_bf16")),
        "gpu": gpu or "none",
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES if find_spec(name)},
    }


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor()


def _instruction_sets() -> list[str]:
    """Those that decide how fast matrix products are."""
    found = _cpuinfo("flags").split()
    return [name for name in INSTRUCTION_SETS if name in found]


def _cpuinfo(field: str) -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field), "")
