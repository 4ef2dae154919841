"""A Trainer that can be interrupted at any step and resumed with the results of an uninterrupted run."""

import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import gather_object
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput

from mtsbert.training.checkpoints import (
    BEGAN,
    RUN_STATE,
    check_whole,
    checkpoint_being_written,
    checkpoint_to_resume,
    disk_named,
    newest_whole,
)
from mtsbert.training.hub import PushingTrainer


# Messages of gloo and of the rendezvous store when another rank has died. NCCL has an error class for it.
SIGNS_OF_LOSS = ("gloo/", "Connection closed by peer", "Connection reset by peer", "Broken pipe")

# If ranks received different signals, the first in this list counts.
STOPPING_SIGNALS = (signal.SIGTERM, signal.SIGINT)
STANDARD_ERROR = 2
NOTED = "\n{}: the step will be finished and a checkpoint saved. Another Ctrl-C stops at once.\n"

logger = logging.getLogger(__name__)


class Interrupted(SystemExit):
    """Raised after the checkpoint was saved. Exits with status 128 + signal number, as is usual in a shell."""

    def __init__(self, stopped_by: signal.Signals):
        super().__init__(128 + stopped_by)


class Interruption:
    """Records the signal that tells this process to stop."""

    def __init__(self):
        self.signal: signal.Signals | None = None
        self.speaks = True  # whether to print a message to stderr after the first signal
        self._process = 0

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """
        Context in which the first signal is only recorded, and a Ctrl-C after it raises `KeyboardInterrupt`. Signals
        that the process was started to ignore (as by `nohup` and `&`) are still ignored.
        """
        self.signal, before = None, {}
        if threading.current_thread() is threading.main_thread():  # only the main thread may set handlers
            self._process = os.getpid()
            for number in STOPPING_SIGNALS:
                handler = signal.getsignal(number)
                if handler is not None and handler != signal.SIG_IGN:  # None: not set by Python
                    before[number] = signal.signal(number, self._note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        if os.getpid() != self._process:
            return  # a forked worker that inherited this handler; its parent gets the signal as well
        if self.signal is None:
            self.signal = signal.Signals(number)
            if self.speaks:  # not with the logger, which the signal may have interrupted
                with suppress(OSError):  # the reader of stderr may have been stopped by the same signal
                    os.write(STANDARD_ERROR, NOTED.format(self.signal.name).encode())
        elif number == signal.SIGINT:
            raise KeyboardInterrupt


def deaf_to_signals(initialize: Callable[[int], None] | None) -> Callable[[int], None]:
    """
    Wraps the `worker_init_fn` of a DataLoader so that its workers ignore the signals that stop the run.

    Signals reach a whole process group, and without its workers a run could not finish the step. Workers exit by
    themselves when their parent process has ended.
    """
    return partial(_begin_deaf, initialize)


def _begin_deaf(initialize: Callable[[int], None] | None, worker: int) -> None:
    for number in STOPPING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if initialize is not None:
        initialize(worker)


class ResumableTrainer(PushingTrainer):
    """
    A Trainer that only saves complete checkpoints, also when it is told to stop (see [`Interruption`]). A resumed
    run gives exactly the results of an uninterrupted one.

    Subclasses must call `begin_training` before the first step, and `agree` once in each step on all ranks.
    """

    def __init__(self, *args, **kwargs):
        self.interruption = Interruption()
        self._stops_by: int | None = None  # the signal that all ranks have agreed to stop by
        self._is_epoch_over = False
        self._saved_step: int | None = None
        self._began = 0.0  # when the run took its first step, in seconds since 1970
        super().__init__(*args, **kwargs)
        self.interruption.speaks = self.args.process_index == 0
        self.add_callback(_EpochCallback(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """
        Like `Trainer.train`, but `resume_from_checkpoint=True` resumes from the newest complete checkpoint in the
        output folder.

        Raises:
            `ValueError`: if there is no such checkpoint, or it is not complete.
            `Interrupted`: if the process is told to stop, after a checkpoint was saved.
            `RuntimeError`: if another rank has died.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = checkpoint_to_resume(self.args, "true")
        elif resume_from_checkpoint:
            check_whole(Path(resume_from_checkpoint))
        if resume_from_checkpoint:
            state = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / TRAINER_STATE_NAME))
            self.check_kept_state(state.stateful_callbacks, resume_from_checkpoint)
        self._stops_by, self._saved_step = None, None
        for callback in self._early_stopping():
            callback.early_stopping_patience_counter = 0  # reset after an earlier call; a checkpoint restores its own
        with ExitStack() as self._while_stepping:
            try:
                output = super().train(resume_from_checkpoint, *args, **kwargs)
            except RuntimeError as error:
                if self.args.world_size == 1 or not _is_of_lost_process(error):
                    raise
                last = newest_whole(self.args.output_dir)
                remedy = (
                    f"--resume_from_checkpoint true goes on from {last}." if last else "There is no checkpoint yet."
                )
                message = (
                    f"Another process of this run has ended, so process {self.args.process_index} of "
                    f"{self.args.world_size} ends as well (step {self.state.global_step}). {remedy}"
                )
                logger.error(message)  # while signals are held back: the launcher's may come before the traceback
                raise RuntimeError(message) from error
            self.agree(torch.zeros(0, device=self.args.device))  # a signal may arrive in the last evaluation
            if self._stops_by is not None:
                self._save_and_stop(self.model, has_last_weights=not self.args.load_best_model_at_end)
            return output

    def begin_training(self) -> None:
        """Called before the first step. Until then, a signal stops the run without a checkpoint."""
        self._began = self.state.stateful_callbacks.get(RUN_STATE, {}).get(BEGAN, time.time())  # resumed or new
        self._while_stepping.close()  # `auto_find_batch_size` calls this again
        self._while_stepping.enter_context(self.interruption.awaited())
        saved = self.state.stateful_callbacks.get(EarlyStoppingCallback.__name__)
        for callback in self._early_stopping():
            if isinstance(saved, dict):  # restore the counter of the checkpoint; transformers starts at 0
                callback.early_stopping_patience_counter = saved["attributes"]["early_stopping_patience_counter"]

    def _early_stopping(self) -> list[EarlyStoppingCallback]:
        return [one for one in self.callback_handler.callbacks if isinstance(one, EarlyStoppingCallback)]

    def _run_epoch(self, **kwargs):
        # A run that was killed after its last step, or after early stopping, must not take another step.
        is_stopped_early = any(
            one.early_stopping_patience_counter >= one.early_stopping_patience for one in self._early_stopping()
        )
        if is_stopped_early or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return None
        return super()._run_epoch(**kwargs)

    def agree(self, flags: torch.Tensor) -> list[float]:
        """
        Sums numbers over all ranks during an optimizer step, and lets the ranks agree whether this is the last step.
        Synchronizes with the device once.
        """
        told = torch.tensor([float(self.interruption.signal == one) for one in STOPPING_SIGNALS], device=flags.device)
        together = torch.cat([flags, told])
        if self.args.world_size > 1:
            together = self.accelerator.reduce(together, reduction="sum")
        *sums, first, second = together.tolist()
        if self._stops_by is None and (first or second):
            self._stops_by = STOPPING_SIGNALS[0 if first else 1]
        return sums

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, model, *args, **kwargs):
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, *args, **kwargs)
        # After the last step of an epoch, or of the run, this is called twice, and the second call must run as well.
        is_called_again = self.state.epoch % 1 == 0 or self.control.should_training_stop
        if self._stops_by is not None and (self._is_epoch_over or not is_called_again):
            self._save_and_stop(model)

    def _save_and_stop(self, model: torch.nn.Module, *, has_last_weights: bool = True) -> None:
        if has_last_weights and self._saved_step != self.state.global_step:
            self._save_checkpoint(model, trial=None)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        self.accelerator.wait_for_everyone()  # when one rank exits, the launcher stops the others
        # At the end of training, only the best checkpoint may be left; other machines may not have any on their disk.
        saved = newest_whole(self.args.output_dir) or self._checkpoint_folder()
        logger.warning(
            f"Stopped by {self._stops_by.name} after step {self.state.global_step} of {self.state.max_steps}. "
            f"{saved} is saved; the same command and --resume_from_checkpoint true go on from it."
        )
        if self.args.world_size > 1:
            self.accelerator.end_training()
        raise Interrupted(self._stops_by)

    # Checkpoints

    def _checkpoint_folder(self, trial=None) -> Path:
        return Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"

    def _save_checkpoint(self, model: torch.nn.Module, trial) -> None:
        with ExitStack() as stack:
            if self.args.should_save:
                stack.enter_context(checkpoint_being_written(self._checkpoint_folder(trial)))
            self.accelerator.wait_for_everyone()
            self.state.stateful_callbacks |= self.kept_state()
            super()._save_checkpoint(model, trial)
        self._saved_step = self.state.global_step

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        with disk_named(Path(self.args.output_dir if output_dir is None else output_dir)):
            super().save_model(output_dir, _internal_call)

    def kept_state(self) -> dict[str, dict]:
        """Returns additional state to save in `trainer_state.json`: name → JSON."""
        return {RUN_STATE: {BEGAN: self._began}}

    def check_kept_state(self, kept: dict[str, dict], checkpoint: str) -> None:
        """Raises `ValueError` if a checkpoint with this state cannot be resumed with the current arguments."""

    def _save_rng_state(self, output_dir: str) -> None:
        """Writes the random states of all ranks on the main process, so that `trainer_state.json` is written last."""
        if self.args.world_size == 1:
            super()._save_rng_state(output_dir)
            return
        with tempfile.TemporaryDirectory() as folder:
            super()._save_rng_state(folder)
            files = gather_object([(path.name, path.read_bytes()) for path in Path(folder).iterdir()])
        if self.args.should_save:
            for name, content in files:
                (Path(output_dir) / name).write_bytes(content)

    # Keeping resumed and uninterrupted runs identical

    def evaluation_loop(self, *args, **kwargs) -> EvalLoopOutput:
        # A DataLoader draws a random number at its start. A run that is resumed at the end of an epoch does not repeat
        # the evaluation there, but must draw the same numbers afterwards.
        with torch.random.fork_rng(devices=[]):
            return super().evaluation_loop(*args, **kwargs)

    def _get_dataloader(self, *args, **kwargs) -> DataLoader:
        loader = super()._get_dataloader(*args, **kwargs)
        if self.args.dataloader_num_workers > 0:
            inner = getattr(loader, "base_dataloader", loader)  # unwrap accelerate's loader
            inner.worker_init_fn = deaf_to_signals(inner.worker_init_fn)
        return loader


class StepCallback(TrainerCallback):
    """Calls the Trainer when training, epochs and optimizer steps begin and end."""

    def __init__(self, trainer: ResumableTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.begin_training()

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.trainer.begin_epoch(int(state.epoch or 0))

    def on_step_begin(self, args, state, control, **kwargs):
        self.trainer.begin_step()

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.trainer.end_backward()

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.end_step()

    def on_push_begin(self, args, state, control, **kwargs):
        if self.trainer.is_training:  # otherwise `push_to_hub` writes the card, after the weights
            self.trainer.create_model_card()


class _EpochCallback(TrainerCallback):
    def __init__(self, trainer: ResumableTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer._is_epoch_over = False

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.trainer._is_epoch_over = False

    def on_epoch_end(self, args, state, control, **kwargs):
        self.trainer._is_epoch_over = True


def _is_of_lost_process(error: RuntimeError) -> bool:
    return isinstance(error, torch.distributed.DistError) or any(sign in str(error) for sign in SIGNS_OF_LOSS)
