"""The forms in which a checkpoint answers on a CPU: the model itself and its exports."""

import os
import sys
from pathlib import Path

from datasets import load_dataset
from machine import LIMITS
from quality import ROOT


sys.path.insert(0, str(ROOT))

from mtsbert.commands.export import MOST_CALIBRATED, export_onnx, export_openvino
from mtsbert.exports.pipeline import load_pipeline
from mtsbert.machine import has_native_bf16
from pipeline_mtsbert import MTSBertPipeline


TORCH = "torch fp32"


def forms_of(model: str, data: Path, folder: Path) -> dict[str, MTSBertPipeline]:
    """
    Exports a checkpoint in every form.

    Args:
        model (`str`): The checkpoint.
        data (`Path`): Dataset folder written by data_prep, whose validation texts give the ranges of activations.
        folder (`Path`): Where to write the exports.
    """
    rows = load_dataset("parquet", data_files={"validation": str(data / "validation.parquet")})["validation"]
    calibration = rows.shuffle(seed=0).select(range(min(MOST_CALIBRATED, len(rows))))["text"][:]
    export_openvino(model, folder / "openvino")
    export_openvino(model, folder / "openvino_int8", calibration=calibration)
    limited = {
        TORCH: load_pipeline(model),
        "OpenVINO fp32": load_pipeline(folder / "openvino"),
        "OpenVINO int8": load_pipeline(folder / "openvino_int8"),
    }
    if is_limited():
        return limited
    export_onnx(model, folder / "onnx")
    export_onnx(model, folder / "onnx_int8", int8=True)
    forms = limited | {
        "ONNX fp32": load_pipeline(folder / "onnx"),
        "ONNX int8": load_pipeline(folder / "onnx_int8"),
    }
    if has_native_bf16():
        forms["OpenVINO bf16"] = load_pipeline(folder / "openvino", precision="bf16")
    return forms


def is_limited() -> bool:
    """
    Whether variables keep torch and OpenVINO from using the newest instructions of the CPU, as on an older one. Only
    what obeys them is measured then, and nothing in bf16.
    """
    return any(name in os.environ for name in LIMITS)
