"""Which number formats the machine computes natively, and which one a run computes in."""

import argparse

import torch
from transformers import TrainingArguments


PRECISIONS = ("auto", "fp32", "bf16")  # that answers are computed in


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
        choices=PRECISIONS,
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
