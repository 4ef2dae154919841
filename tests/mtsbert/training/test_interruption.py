"""Tests SIGTERM, Ctrl-C and SIGKILL: what is saved, how a run ends, and that it continues as if uninterrupted."""

import copy
import multiprocessing
import os
import signal
import subprocess
import threading

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from mtsbert.training.checkpoints import flaw_of
from mtsbert.training.resuming import STANDARD_ERROR, STOPPING_SIGNALS, Interrupted, Interruption, deaf_to_signals
from mtsbert.training.trainer import MTSBertTrainer


class SignalAt(TrainerCallback):
    """Sends signals to this very process when an event of the given step comes."""

    def __init__(self, event: str, step: int, *numbers: signal.Signals):
        self.step, self.numbers = step, numbers
        setattr(self, event, self._send)

    def _send(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            for number in self.numbers:
                os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """Also where the tests run in the background, which a shell lets ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


FLAGS = {  # four epochs of four steps, with dropout
    "num_train_epochs": 4,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "train_sampling_strategy": "group_by_length",
    "loss_balancing": "uncertainty",
    "gradual_unfreezing": True,
    "unfreeze_every": 3,
}


@pytest.fixture
def start(trainer_of, model, features):
    def start(*callbacks: TrainerCallback, **flags) -> MTSBertTrainer:
        trainer = trainer_of(of=copy.deepcopy(model), eval_dataset=features, **FLAGS, **flags)
        for callback in callbacks:
            trainer.add_callback(callback)
        return trainer

    return start


@pytest.fixture(scope="module")
def kept() -> dict[str, MTSBertTrainer]:
    return {}


@pytest.fixture
def straight(start, kept) -> MTSBertTrainer:
    """After a run without interruption, which is the same for all tests."""
    if not kept:
        kept["straight"] = start()
        kept["straight"].train()
    return kept["straight"]


def assert_same_weights(one: MTSBertTrainer, other: MTSBertTrainer) -> None:
    for name, weight in one.model.state_dict().items():
        assert torch.equal(weight, other.model.state_dict()[name]), name


@pytest.mark.parametrize("number", STOPPING_SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize(
    ("event", "step", "saved"),
    [("on_step_begin", 5, 6), ("on_substep_end", 5, 6), ("on_step_end", 5, 6), ("on_step_begin", 15, 16)],
)
def test_the_step_is_finished_and_saved_and_the_resumed_run_ends_the_same(
    start, straight, tmp_path, caplog, number, event, step, saved
):
    told = start(SignalAt(event, step, number))
    with pytest.raises(Interrupted) as stopped:
        told.train()
    assert stopped.value.code == 128 + number
    assert [path.name for path in (tmp_path / "run").iterdir()] == [f"checkpoint-{saved}"]
    assert flaw_of(tmp_path / "run" / f"checkpoint-{saved}") is None
    assert f"Stopped by {number.name} after step {saved} of 16" in caplog.text
    assert f"checkpoint-{saved} is saved; the same command and --resume_from_checkpoint true go on" in caplog.text
    resumed = start()
    resumed.train(resume_from_checkpoint=True)
    assert_same_weights(straight, resumed)


def test_at_the_end_of_an_epoch_what_is_due_there_is_done_first(start, tmp_path):
    told = start(SignalAt("on_step_begin", 3, signal.SIGTERM), eval_strategy="epoch", save_strategy="epoch")
    with pytest.raises(Interrupted):
        told.train()
    assert [line["step"] for line in told.state.log_history if "eval_loss" in line] == [4]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint-4"]
    resumed = start(eval_strategy="epoch", save_strategy="epoch")
    resumed.train(resume_from_checkpoint=True)
    assert [line["step"] for line in resumed.state.log_history if "eval_loss" in line] == [4, 8, 12, 16]


@pytest.mark.parametrize("stops", [True, False])
def test_no_step_follows_the_last_one_though_it_is_within_an_epoch(start, stops):
    flags = {"max_steps": 6, "lr_scheduler_type": "constant", "eval_strategy": "epoch"}
    straight = start(**flags)
    straight.train()
    if stops:
        told = start(SignalAt("on_step_begin", 5, signal.SIGTERM), **flags)
        with pytest.raises(Interrupted):
            told.train()
        assert [line["step"] for line in told.state.log_history if "eval_loss" in line] == [4, 6]
    else:
        start(**flags, save_strategy="steps", save_steps=6).train()
    resumed = start(**flags)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    assert_same_weights(straight, resumed)


@pytest.mark.parametrize("event", ["on_evaluate", "on_train_end"])
def test_a_run_that_is_told_after_its_last_step_stops_as_well(start, straight, tmp_path, event):
    told = start(SignalAt(event, 16, signal.SIGTERM), eval_strategy="epoch")
    with pytest.raises(Interrupted):
        told.train()
    assert flaw_of(tmp_path / "run" / "checkpoint-16") is None
    resumed = start()
    resumed.train(resume_from_checkpoint=True)
    assert_same_weights(straight, resumed)


def test_the_best_weights_are_not_saved_as_those_of_the_last_step(start, tmp_path, caplog):
    flags = {"eval_strategy": "epoch", "save_strategy": "best", "metric_for_best_model": "eval_loss"}
    flags |= {"learning_rate": 0.0, "load_best_model_at_end": True}  # the first is the best: none gets better
    told = start(SignalAt("on_train_end", 16, signal.SIGTERM), **flags)
    with pytest.raises(Interrupted):
        told.train()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint-4"]
    assert f"{tmp_path / 'run' / 'checkpoint-4'} is saved; the same command" in caplog.text


def test_a_step_is_saved_though_the_strategy_saves_the_best_only(start, tmp_path):
    flags = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "best", "metric_for_best_model": "eval_loss"}
    told = start(SignalAt("on_step_begin", 5, signal.SIGTERM), **flags, learning_rate=0.0)
    with pytest.raises(Interrupted):
        told.train()
    assert flaw_of(tmp_path / "run" / "checkpoint-6") is None


def test_a_second_ctrl_c_stops_at_once(start, tmp_path):
    before = [signal.getsignal(number) for number in STOPPING_SIGNALS]
    for first in STOPPING_SIGNALS:
        told = start(SignalAt("on_step_begin", 5, first, signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            told.train()
        assert told.state.global_step == 5
        assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())
    assert [signal.getsignal(number) for number in STOPPING_SIGNALS] == before


def test_a_second_sigterm_changes_nothing(start, tmp_path):
    told = start(SignalAt("on_step_begin", 5, signal.SIGINT, signal.SIGTERM))
    with pytest.raises(Interrupted) as stopped:
        told.train()
    assert stopped.value.code == 130
    assert flaw_of(tmp_path / "run" / "checkpoint-6") is None


def test_signals_mean_what_they_meant_before_and_after_training(start):
    before = [signal.getsignal(number) for number in STOPPING_SIGNALS]
    start(max_steps=1).train()
    assert [signal.getsignal(number) for number in STOPPING_SIGNALS] == before


def test_an_ignored_signal_stays_ignored(start):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        trainer = start(SignalAt("on_step_begin", 2, signal.SIGINT), max_steps=4)
        trainer.train()
        assert trainer.state.global_step == 4
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_a_run_trains_without_hearing_signals(start):
    trainer = start(max_steps=2)
    thread = threading.Thread(target=trainer.train)
    thread.start()
    thread.join()
    assert trainer.state.global_step == 2


def test_the_first_signal_is_answered_at_once_by_one_process(capfd):
    for speaks in (True, False):
        interruption = Interruption()
        interruption.speaks = speaks
        with interruption.awaited():
            os.kill(os.getpid(), signal.SIGINT)
            assert interruption.signal == signal.SIGINT
    assert (
        capfd.readouterr().err.count("SIGINT: the step will be finished and a checkpoint saved. Another Ctrl-C") == 1
    )


def test_a_signal_is_noted_though_nobody_reads_the_answer_any_more():
    reader, writer = os.pipe()
    os.close(reader)
    before = os.dup(STANDARD_ERROR)
    os.dup2(writer, STANDARD_ERROR)
    try:
        interruption = Interruption()
        with interruption.awaited():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        os.dup2(before, STANDARD_ERROR)
        os.close(before)
        os.close(writer)
    assert interruption.signal == signal.SIGINT


def test_workers_that_read_the_data_outlive_the_signal_that_stops_the_run(start, tmp_path):
    flags = {"dataloader_num_workers": 1, "max_steps": 8}
    straight = start(**flags)
    straight.train()
    told = start(**flags)
    told.add_callback(SignalGroupAt(1))
    with pytest.raises(Interrupted):
        told.train()
    resumed = start(**flags)
    resumed.train(resume_from_checkpoint=True)
    assert_same_weights(straight, resumed)


class SignalGroupAt(TrainerCallback):
    """Has SIGTERM sent to this process and to its workers, as a launcher sends it to a whole process group."""

    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            workers = [str(worker.pid) for worker in multiprocessing.active_children()]
            assert workers
            # By another process: a worker takes what its parent sends for the end of its work.
            subprocess.run(["kill", "-TERM", *workers, str(os.getpid())], check=True)


def test_a_worker_begins_as_it_would_have_begun(tmp_path):
    noted = []
    deaf = deaf_to_signals(noted.append)
    handlers = [signal.getsignal(number) for number in STOPPING_SIGNALS]
    try:
        deaf(3)
        assert [signal.getsignal(number) for number in STOPPING_SIGNALS] == [signal.SIG_IGN] * 2
    finally:
        for number, handler in zip(STOPPING_SIGNALS, handlers, strict=True):
            signal.signal(number, handler)
    assert noted == [3]
    assert list(DataLoader([1, 2], num_workers=1, worker_init_fn=deaf_to_signals(None)))


KILLING = """
import multiprocessing, os, runpy, sys
from pathlib import Path
from types import SimpleNamespace
import torch

torch.set_num_threads(1)  # the threads of this process would be missing in its forks
script = Path(sys.argv[1])
sys.path.insert(0, str(script.parent))
import small_run

class Forked:
    # Starts `python SCRIPT ARGUMENTS` as `subprocess.Popen` does, but with the libraries of this process.
    def __init__(self, words, *, env, cwd, preexec_fn, **streams):
        reader, writer = os.pipe()
        def become():
            preexec_fn()
            for descriptor in (1, 2):
                os.dup2(writer, descriptor)
            os.close(reader)
            os.close(writer)
            os.chdir(cwd)
            os.environ.update(env)
            sys.argv[:], sys.path[0] = words[1:], str(cwd)
            for stream in (sys.stdout, sys.stderr):
                stream.reconfigure(line_buffering=True)
            runpy.run_path(words[1], run_name="__main__")
        self._process = multiprocessing.get_context("fork").Process(target=become)
        self._process.start()
        os.close(writer)
        self.stdout = os.fdopen(reader, encoding="utf-8")
    def poll(self):
        return self._process.exitcode
    def wait(self, timeout):
        self._process.join(timeout)
        return self._process.exitcode
    def send_signal(self, number):
        os.kill(self._process.pid, number)

small_run.subprocess = SimpleNamespace(Popen=Forked, PIPE=None, STDOUT=None)
del sys.argv[0]
runpy.run_path(str(script), run_name="__main__")
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(root, tmp_path, warm_python):
    words = ["--kills", "1", "--signals", "SIGTERM", "SIGKILL", "--folder", tmp_path]
    done = warm_python.run("-c", KILLING, root / "benchmarks" / "faults" / "kill_and_resume.py", *words)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    for line in ("SIGTERM: ended by it: 1", "SIGKILL: ended by it: 1", "chains with other weights: 0"):
        assert line in done.stdout.splitlines(), done.stdout
