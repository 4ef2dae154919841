"""Runs `mtsbert train` in subprocesses, for studies and benchmarks. A finished run is not repeated."""

import hashlib
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from mtsbert.preparation import data_prep, prepare
from mtsbert.settings import parse_mapping


ROOT = Path(__file__).parents[1]  # the clone, or the folder that packages are installed in
RESULTS_FILE = "all_results.json"
LIBRARIES = ("torch", "transformers", "tokenizers", "datasets", "accelerate")
LOG_LINES = 20  # shown if a run fails

logger = logging.getLogger(__name__)


def copy_recipe(
    config: Path, folder: Path, *, without: Collection[str], changes: dict[str, Any] | None = None
) -> Path:
    """Writes a copy of a recipe without some keys, and with others changed, into a folder; returns its path."""
    recipe = yaml.safe_load(config.read_text(encoding="utf-8"))
    kept = {key: value for key, value in recipe.items() if key not in without}
    path = folder / "recipe.yaml"
    if path.resolve() == config.resolve():
        raise ValueError(f"{config} would be written over by the copy with other settings; name another folder.")
    path.write_text(yaml.safe_dump(kept | (changes or {}), sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def folder_of_run(config: Path, flags: list[str], *, folder: Path, name: str) -> Path:
    """
    Returns the folder of a run of [`run_once`], whose name has a hash of code, library versions, recipe, flags and the
    files of the recipe's datasets. A dataset that the recipe builds is built first.
    """
    text = config.read_text(encoding="utf-8")
    recipe = yaml.safe_load(text)
    datasets, build = (parse_mapping(recipe.get(key), key) for key in ("datasets", "prepare"))
    check_data(datasets, build)
    if build and not Path(build["output"]).exists():
        prepare(**build)
    versions = [f"{name} {version(name)}" for name in LIBRARIES]
    digest = hashlib.sha256("\n".join([_code(), *versions, text, _data(datasets), *flags]).encode()).hexdigest()
    return folder / f"{name}_{digest[:8]}"


def run_once(
    config: Path, flags: list[str], *, folder: Path, name: str, keeps_weights: bool = False
) -> dict[str, float]:
    """
    Trains with a recipe and returns all metrics. If the same run (see [`folder_of_run`]) has finished before, its
    metrics are returned instead. The run's folder keeps the results and the log, but no weights and no checkpoints.

    Args:
        config (`Path`): The recipe.
        flags (`list[str]`): Further flags of `mtsbert train`.
        folder (`Path`): Where to create the folder of the run.
        name (`str`): Prefix of the folder's name, see [`folder_of_run`].
        keeps_weights (`bool`, *optional*, defaults to `False`): Whether to keep the weights, for a run that goes on.

    Raises:
        `RuntimeError`: with the end of the log, if the run fails.
    """
    output = folder_of_run(config, flags, folder=folder, name=name)
    results = output / RESULTS_FILE
    if (finished := _read(results)) is not None:
        return finished
    logger.info(f"{name} ...")
    output.mkdir(parents=True, exist_ok=True)
    log = output / "log.txt"
    command = [sys.executable, "-m", "mtsbert", "train", "--config", str(config), "--output_dir", str(output), *flags]
    found_first = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": found_first}
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    if done.returncode:
        end = "\n".join(log.read_text(encoding="utf-8").splitlines()[-LOG_LINES:])
        raise RuntimeError(f"{name} failed; the end of {log}:\n{end}")
    if not keeps_weights:
        for weights in output.glob("*.safetensors"):
            weights.unlink()
        for checkpoint in output.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
            shutil.rmtree(checkpoint)
    return json.loads(results.read_text(encoding="utf-8"))


def _read(results: Path) -> dict[str, float] | None:
    """Reads the results of a run; None if it has not finished."""
    try:
        return json.loads(results.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _code() -> str:
    """Returns a hash of the project's code."""
    files = sorted([*ROOT.glob("*_mtsbert.py"), *(ROOT / "mtsbert").rglob("*.py")])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def check_data(datasets: dict[str, dict], build: dict) -> None:
    """
    Raises `ValueError` if a dataset of a recipe has no path, or if its `prepare` cannot be used. More is checked when
    they are read.
    """
    for name, spec in datasets.items():
        if not _paths(spec):
            raise ValueError(f"Dataset {name!r} needs either 'path' or 'files'; got {spec!r}.")
    if build:
        data_prep("build").check_options(build)


def _paths(spec: Any) -> list[str]:
    """The path of a dataset, or those of its files; empty where they are no texts."""
    if not isinstance(spec, dict):
        return []
    files = spec.get("files")
    paths = [spec["path"]] if "path" in spec else list(files.values()) if isinstance(files, dict) else []
    return paths if all(isinstance(path, str) and "\0" not in path for path in paths) else []


def _data(datasets: dict[str, dict]) -> str:
    """Returns a hash of the local files of a recipe's datasets."""
    digest = hashlib.sha256()
    for name, spec in datasets.items():
        for path in map(Path, _paths(spec)):
            files = sorted(path.rglob("*")) if path.is_dir() else [path]
            for file in filter(Path.is_file, files):
                checksum = hashlib.sha256(file.read_bytes()).hexdigest()
                digest.update(f"{name} {file.name} {checksum}\n".encode())
    return digest.hexdigest()


def mean_and_sd(values: list[float]) -> dict[str, float]:
    """Returns the mean and the sample standard deviation, which is 0 for a single value."""
    return {"mean": statistics.mean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}
