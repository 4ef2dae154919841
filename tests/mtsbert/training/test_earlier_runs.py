"""Tests which checkpoint is resumed where an earlier run has left its own in the same folder."""

import copy
import json
import shutil
import signal

import pytest
import torch

from mtsbert.training.checkpoints import checkpoints, newest_whole
from mtsbert.training.resuming import Interrupted
from tests.mtsbert.training.test_interruption import SignalAt


EARLIER = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 4, "per_device_train_batch_size": 2}
LATER = EARLIER | {"save_steps": 2, "learning_rate": 3e-3, "seed": 7}


@pytest.fixture
def folder(trainer_of, model, tmp_path):
    """The folder of a run that has saved `checkpoint-4` and `checkpoint-8`."""
    trainer_of(of=copy.deepcopy(model), **EARLIER).train()
    return tmp_path / "run"


def names(folder) -> list[str]:
    return [path.name.removeprefix("checkpoint-") for path in checkpoints(folder)]


def test_a_run_goes_on_from_its_own_checkpoint(folder, trainer_of, model, caplog):
    straight = copy.deepcopy(model)
    trainer_of(of=straight, **LATER | {"save_strategy": "no"}).train()
    assert names(folder) == ["8", "4"]
    trainer = trainer_of(of=copy.deepcopy(model), **LATER)
    trainer.add_callback(SignalAt("on_step_end", 4, signal.SIGTERM))
    with pytest.raises(Interrupted):
        trainer.train()
    assert f"{folder}/checkpoint-5 is saved" in caplog.text
    assert names(folder) == ["5", "4", "2", "8"]  # of the first run, the last one is left
    resumed = copy.deepcopy(model)
    trainer = trainer_of(of=resumed, **LATER)
    trainer.train(resume_from_checkpoint=True)
    assert all(torch.equal(weight, resumed.state_dict()[name]) for name, weight in straight.state_dict().items())
    assert names(folder)[0] == "8"  # of the second run by now
    assert trainer.state.stateful_callbacks["run"] == json_of(folder, 8)["run"] == json_of(folder, 5)["run"]


def test_copies_in_any_order_and_checkpoints_that_say_nothing_are_told_apart(folder, trainer_of, model, tmp_path):
    trainer_of(of=copy.deepcopy(model), **LATER | {"max_steps": 2}).train()
    for number in (2, 4, 8):  # the oldest is copied last
        shutil.copytree(folder / f"checkpoint-{number}", tmp_path / "copy" / f"checkpoint-{number}")
    assert newest_whole(tmp_path / "copy").name == "checkpoint-2"
    state_file = folder / "checkpoint-2" / "trainer_state.json"
    state = json.loads(state_file.read_text())
    del state["stateful_callbacks"]["run"]  # as version 0.1.0 wrote it
    state_file.write_text(json.dumps(state))
    assert names(folder) == ["8", "4", "2"]
    for path in checkpoints(folder):
        (path / "trainer_state.json").write_text("[]")
    assert names(folder) == ["8", "4", "2"]


def json_of(folder, number: int) -> dict:
    return json.loads((folder / f"checkpoint-{number}" / "trainer_state.json").read_text())["stateful_callbacks"]
