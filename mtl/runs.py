"""Runs of `run_mtl.py` in processes of their own, each done once: what studies and benchmarks are made of."""

import hashlib
import json
import logging
import statistics
import subprocess
import sys
from pathlib import Path


PROGRAM = Path(__file__).parent.parent / "run_mtl.py"
RESULTS_FILE = "all_results.json"
LOG_LINES = 20  # of a run that failed

logger = logging.getLogger(__name__)


def run_once(config: Path, flags: list[str], *, folder: Path, name: str, version: str = "") -> dict[str, float]:
    """
    Trains by a recipe and returns all metrics of the run; a finished run of the same recipe and flags is not repeated.
    Its folder keeps the results and the log, not the weights.

    Args:
        folder, name: Where the run's folder lies, and how its name begins; the rest is made from recipe and flags.
        version: Whatever else must be the same for a finished run to count.

    Raises:
        `RuntimeError`: with the end of the log, where the run failed.
    """
    key = hashlib.sha256("\n".join([version, config.read_text(encoding="utf-8"), *flags]).encode()).hexdigest()[:8]
    output = folder / f"{name}_{key}"
    results = output / RESULTS_FILE
    if not results.exists():
        logger.info(f"{name} ...")
        output.mkdir(parents=True, exist_ok=True)
        log = output / "log.txt"
        command = [sys.executable, str(PROGRAM), "--config", str(config), "--output_dir", str(output), *flags]
        with log.open("w", encoding="utf-8") as file:
            done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT)
        if done.returncode:
            end = "\n".join(log.read_text(encoding="utf-8").splitlines()[-LOG_LINES:])
            raise RuntimeError(f"{name} failed; the end of {log}:\n{end}")
        for weights in output.glob("*.safetensors"):
            weights.unlink()
    return json.loads(results.read_text(encoding="utf-8"))


def mean_and_sd(values: list[float]) -> dict[str, float]:
    """The sample's standard deviation; 0 for a single value."""
    return {"mean": statistics.mean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}
