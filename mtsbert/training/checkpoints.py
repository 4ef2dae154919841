"""Checks whether checkpoints are complete, and finds the one to resume from."""

import json
import logging
import math
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb

from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError, safe_open
from torch import serialization
from transformers import TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME

from configuration_mtsbert import MTSBertConfig
from mtsbert.data.labels import OF_HEADS, setting_of_head
from mtsbert.network.adapters import settings_of_model


PARTS = {  # part of a checkpoint → patterns of its files (or folders, with FSDP and DeepSpeed)
    "weights": ("model*.safetensors", "pytorch_model*"),
    "optimizer": ("optimizer*", "global_step*"),
    "learning rate": ("scheduler.pt",),
    "random state": ("rng_state*.pth",),
}

RUN_STATE, BEGAN = "run", "began"  # keys in the state of the Trainer: when the run was begun
OTHER_TASKS = "Write the recipe as it was, or begin a new run with the checkpoint as its `model_name_or_path`."
OTHER_SETTINGS = "Resume it with the settings that it was trained with, or begin a new run."

logger = logging.getLogger(__name__)


class DiskError(OSError):
    """A file could not be written. The message names the disk and its free space."""


def checkpoint_to_resume(args: TrainingArguments, asked: str | None) -> str | None:
    """
    Returns the checkpoint to resume from; None to start a new run. All ranks must call this; the main process decides.

    Args:
        args (`TrainingArguments`): The arguments of the run.
        asked (`str`, *optional*): The value of `resume_from_checkpoint`: a checkpoint folder, or `"true"` for the
            newest complete checkpoint in the output folder.

    Raises:
        `ValueError`: if there is no complete checkpoint, or a rank does not find it on its machine.
    """
    if asked is None or asked.lower() == "false":
        return None
    answer: list[str | None] = [None, None]  # a checkpoint, or the problem
    if args.process_index == 0:
        try:
            answer[0] = str(_chosen(asked, args))
        except ValueError as error:
            answer[1] = str(error)
    if args.world_size > 1:
        broadcast_object_list(answer)
    checkpoint, problem = answer
    if problem is not None:
        raise ValueError(problem)
    _check_found_by_all(checkpoint, args)
    if args.process_index == 0:
        logger.info(f"Going on from {checkpoint}.")
        if (number := num_processes_of(Path(checkpoint))) != args.world_size:
            logger.warning(
                f"{checkpoint} is of {number} process(es), and this run has {args.world_size}: it will not give the "
                "numbers that the run would have given without a break."
            )
    return checkpoint


def _chosen(asked: str, args: TrainingArguments) -> Path:
    if asked.lower() != "true":
        check_whole(Path(asked))
        return Path(asked)
    flaws = {}
    for checkpoint in checkpoints(args.output_dir):
        if (flaw := flaw_of(checkpoint)) is None:
            for name, why in flaws.items():
                logger.warning(f"{name} is passed over, because it is not whole: {why}.")
            return checkpoint
        flaws[checkpoint.name] = flaw
    if not flaws:
        raise ValueError(f"`resume_from_checkpoint` is true, but {args.output_dir} has no checkpoint in it.")
    described = "; ".join(f"{name}: {why}" for name, why in flaws.items())
    raise ValueError(
        f"`resume_from_checkpoint` is true, but {args.output_dir} has no whole checkpoint in it ({described}). Leave "
        "the flag out to begin anew."
    )


def check_same_tasks(checkpoint: Path, tasks: dict[str, dict]) -> None:
    """
    Raises `ValueError`, naming the difference, if a checkpoint is of a model with other heads.

    Args:
        checkpoint (`Path`): The checkpoint to resume from. One without a config is not compared.
        tasks (`dict[str, dict]`): The tasks of the model that is trained.
    """
    path = checkpoint / CONFIG_NAME
    if not path.is_file():
        return
    saved = json.loads(path.read_text(encoding="utf-8")).get("tasks", {})
    for name in dict.fromkeys([*saved, *tasks]):
        if name not in saved or name not in tasks:
            whose = "the checkpoint" if name in saved else "this run"
            raise ValueError(f"{checkpoint} cannot be resumed: only {whose} has the task {name!r}. {OTHER_TASKS}")
        for key in OF_HEADS:
            before, now = setting_of_head(saved[name], key), setting_of_head(tasks[name], key)
            if json.dumps(before) != json.dumps(now):
                raise ValueError(
                    f"{checkpoint} cannot be resumed: task {name!r} has {key} {before} there, and {now} in this run. "
                    f"{OTHER_TASKS}"
                )


def check_same_settings(checkpoint: Path, config: MTSBertConfig) -> None:
    """
    Raises `ValueError`, naming the difference, if a checkpoint is of a model with other settings.

    Args:
        checkpoint (`Path`): The checkpoint to resume from. One without a config is not compared.
        config ([`MTSBertConfig`]): That of the model that is trained.
    """
    if not (checkpoint / CONFIG_NAME).is_file():
        return
    saved, current = (
        settings_of_model(one)
        | {
            "num_layers": getattr(one.encoder_config, "num_hidden_layers", None),
            "letter_case": getattr(one, "letter_case", False),
        }
        for one in (MTSBertConfig.from_pretrained(checkpoint), config)
    )
    check_alike(checkpoint, "model", saved, current)


def check_alike(checkpoint: Path | str, what: str, saved: dict, current: dict) -> None:
    """Raises `ValueError`, naming the first one, for settings of the checkpoint's `what` that are others now."""
    for name, before in saved.items():
        if before != current[name]:
            raise ValueError(
                f"{checkpoint} cannot be resumed: its {what} has {name} {before}, and that of this run has "
                f"{current[name]}. {OTHER_SETTINGS}"
            )


def _check_found_by_all(checkpoint: str, args: TrainingArguments) -> None:
    if args.world_size == 1:
        return
    without = [process for process, found in enumerate(gather_object([Path(checkpoint).is_dir()])) if not found]
    if without:
        raise ValueError(
            f"Processes {without} of {args.world_size} do not find the checkpoint {checkpoint} on their machine. Copy "
            "it there, or choose an `output_dir` that all machines share."
        )


def checkpoints(folder: str | Path) -> list[Path]:
    """
    Lists the checkpoint folders in an output folder, including incomplete ones: those of the last run that was begun
    there first, and of a run those of later steps first.
    """
    found = []
    for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if (match := re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", path.name)) and path.is_dir():
            found.append((_began(path), int(match[1]), path))
    return [path for _, _, path in sorted(found, reverse=True)]


def _began(checkpoint: Path) -> float:
    """
    When the run of a checkpoint was begun, in seconds since 1970: 0 if it does not say, as in version 0.1.0, and
    infinite if the checkpoint is not whole.
    """
    try:
        kept = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["stateful_callbacks"]
    except (OSError, ValueError, KeyError, TypeError):
        return math.inf
    return kept.get(RUN_STATE, {}).get(BEGAN, 0.0)


def newest_whole(folder: str | Path) -> Path | None:
    return next((path for path in checkpoints(folder) if flaw_of(path) is None), None)


def num_processes_of(checkpoint: Path) -> int:
    """Returns the number of ranks of the run that saved a checkpoint, from its random states."""
    return len(list(checkpoint.glob("rng_state*.pth")))


def check_whole(checkpoint: Path) -> None:
    """Raises `ValueError` for a folder that no run can be resumed from exactly."""
    if (flaw := flaw_of(checkpoint)) is not None:
        raise ValueError(
            f"`resume_from_checkpoint` is {checkpoint}, which is no whole checkpoint: {flaw}. A new run can begin "
            "with weights alone, as its `model_name_or_path`."
        )


def flaw_of(checkpoint: Path) -> str | None:
    """
    Returns why a run cannot be resumed exactly from a checkpoint; None if it can.

    The Trainer writes `trainer_state.json` last (in this project, also after the files of all other ranks), and
    truncated JSON is invalid. If it can be read, everything was written. The other files are checked as well because a
    checkpoint may have been copied or deleted incompletely. Only their headers and ends are read, not their content.
    """
    if not checkpoint.is_dir():
        return "there is no such folder"
    try:
        state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except OSError:
        return f"it has no {TRAINER_STATE_NAME}, which is written last"
    except ValueError:
        return f"{TRAINER_STATE_NAME} is not whole"
    if not isinstance(state, dict) or "global_step" not in state:
        return f"{TRAINER_STATE_NAME} does not say which step it is of"
    for kind, patterns in PARTS.items():
        if not any(True for pattern in patterns for _ in checkpoint.glob(pattern)):
            return f"it has no {kind} ({' or '.join(patterns)})"
    for path in sorted(checkpoint.iterdir()):
        if not _is_readable(path):
            return f"{path.name} is not whole"
    return None


def _is_readable(path: Path) -> bool:
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt"):
                return True
        except (SafetensorError, OSError):
            return False
    if path.is_file() and path.suffix in (".pt", ".pth", ".bin"):  # `torch.save` writes ZIP archives
        return zipfile.is_zipfile(path)
    return True


@contextmanager
def checkpoint_being_written(folder: Path) -> Iterator[None]:
    """
    Context in which the main process writes a checkpoint. An older checkpoint of the same step is removed first,
    because a mix of both would look complete. After an error, an incomplete checkpoint is removed.
    """
    _remove(folder)
    try:
        with disk_named(folder):
            yield
    except Exception:
        if flaw_of(folder) is not None:
            _remove(folder)
        raise


def _remove(folder: Path) -> None:
    (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)  # first: without it, the rest counts as incomplete
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def disk_named(folder: Path) -> Iterator[None]:
    """
    Turns write errors into a [`DiskError`]. torch, safetensors and Python report them in different ways, and none of
    them names the disk.
    """
    try:
        yield
    except DiskError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:
        if not _is_of_writing(error):
            raise
        raise DiskError(_advice(folder, error)) from error


def _is_of_writing(error: Exception) -> bool:
    """Whether an error is a write error. A `RuntimeError` is one only if it comes from `torch.save`."""
    if not isinstance(error, RuntimeError):
        return True
    return any(frame.f_code.co_filename == serialization.__file__ for frame, _ in walk_tb(error.__traceback__))


def _advice(folder: Path, error: Exception) -> str:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    usage = shutil.disk_usage(existing)
    message = (
        f"{folder} could not be written: {error}. The disk mounted at {_mount_point(existing)} has "
        f"{usage.free / 1e6:,.0f} MB free of {usage.total / 1e6:,.0f} MB."
    )
    last = newest_whole(folder.parent if folder.name.startswith(PREFIX_CHECKPOINT_DIR) else folder)
    if last is not None and last != folder:
        message += f" {last} is whole: make room, and go on from it with --resume_from_checkpoint true."
    return message


def _mount_point(path: Path) -> Path:
    path = path.absolute()
    while not os.path.ismount(path):
        path = path.parent
    return path
