"""Tests which checkpoint a run is resumed from, failed saves, and that resuming does not change any result."""

import copy
import json
import logging
import os
import resource
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from modeling_mtsbert import MTSBertModel
from mtsbert import keep_layers
from mtsbert.training.checkpoints import DiskError, check_same_tasks, checkpoint_to_resume, disk_named, flaw_of
from mtsbert.training.trainer import MTSBertTrainer


EVERY_STEP = {"save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 2}


@pytest.fixture
def trained(trainer_of, model) -> MTSBertTrainer:
    """A Trainer that has saved `checkpoint-1` to `checkpoint-4`."""
    trainer = trainer_of(of=copy.deepcopy(model), **EVERY_STEP)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("kept") / "run"


@pytest.fixture
def run(kept, request, tmp_path) -> Path:
    """The folder of such a Trainer, in a copy for every test."""
    if not kept.exists():
        request.getfixturevalue("trained")
        (tmp_path / "run").rename(kept)
    return shutil.copytree(kept, tmp_path / "run")


def cut(name: str):
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def remove(name: str):
    return lambda folder: (folder / name).unlink()


def empty(folder) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def forget_the_step(folder) -> None:
    (folder / "trainer_state.json").write_text("{}")


DAMAGE = [
    (empty, "it has no trainer_state.json, which is written last"),
    (remove("trainer_state.json"), "it has no trainer_state.json"),
    (cut("trainer_state.json"), "trainer_state.json is not whole"),
    (forget_the_step, "does not say which step it is of"),
    (remove("model.safetensors"), r"it has no weights \(model\*.safetensors or"),
    (cut("model.safetensors"), "model.safetensors is not whole"),
    (remove("optimizer.pt"), "it has no optimizer"),
    (cut("optimizer.pt"), "optimizer.pt is not whole"),
    (remove("scheduler.pt"), "it has no learning rate"),
    (remove("rng_state.pth"), "it has no random state"),
    (cut("rng_state.pth"), "rng_state.pth is not whole"),
]


@pytest.mark.parametrize(("damage", "flaw"), DAMAGE, ids=[flaw for _, flaw in DAMAGE])
def test_the_newest_whole_checkpoint_is_chosen_and_what_is_passed_over_is_told(trainer_of, run, caplog, damage, flaw):
    damage(run / "checkpoint-4")
    with caplog.at_level(logging.INFO, "mtsbert"):
        chosen = checkpoint_to_resume(trainer_of(**EVERY_STEP).args, "true")
    assert chosen == str(run / "checkpoint-3")
    assert f"Going on from {chosen}" in caplog.text
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    with pytest.raises(AssertionError, match=f"checkpoint-4 is passed over, because it is not whole: .*{flaw}"):
        raise AssertionError(warning)


def test_a_named_checkpoint_that_is_not_whole_is_refused(trained, tmp_path):
    remove("optimizer.pt")(tmp_path / "run" / "checkpoint-2")
    named = str(tmp_path / "run" / "checkpoint-2")
    with pytest.raises(ValueError, match=r"checkpoint-2, which is no whole checkpoint: it has no optimizer"):
        checkpoint_to_resume(trained.args, named)
    with pytest.raises(ValueError, match="there is no such folder"):
        checkpoint_to_resume(trained.args, str(tmp_path / "nowhere"))
    assert checkpoint_to_resume(trained.args, "False") is None


def test_where_no_checkpoint_is_whole_nothing_is_resumed(trained, tmp_path):
    for number in range(1, 5):
        remove("trainer_state.json")(tmp_path / "run" / f"checkpoint-{number}")
    with pytest.raises(
        ValueError, match=r"has no whole checkpoint in it \(checkpoint-4: it has no trainer_state.json"
    ):
        trained.train(resume_from_checkpoint=True)


def test_the_trainer_itself_goes_on_from_the_newest_whole_one(trained, trainer_of, model, tmp_path):
    cut("model.safetensors")(tmp_path / "run" / "checkpoint-4")
    resumed = trainer_of(of=copy.deepcopy(model), **EVERY_STEP)
    seen = []
    resumed.add_callback(_Each(on_step_begin=lambda state: seen.append(state.global_step)))
    resumed.train(resume_from_checkpoint=True)
    assert seen == [3]
    assert_same_weights(trained, resumed)


def test_a_run_that_was_killed_after_its_last_step_has_no_loss_of_steps_that_it_did_not_take(run, trainer_of):
    resumed = trainer_of(**EVERY_STEP)
    metrics = resumed.train(resume_from_checkpoint=str(run / "checkpoint-4")).metrics
    assert "train_loss" not in metrics
    assert not [line for line in resumed.state.log_history if "train_loss" in line]
    assert metrics["train_runtime"] > 0


def test_checkpoints_of_plain_transformers_are_known(trained, model, features, tmp_path):
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "plain"), max_steps=1, save_steps=1, disable_tqdm=True, remove_unused_columns=False,
        per_device_train_batch_size=4, use_cpu=True,
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=features, data_collator=trained.data_collator).train()
    assert flaw_of(tmp_path / "plain" / "checkpoint-1") is None


def test_another_number_of_processes_is_told(trained, tmp_path, caplog):
    folder = tmp_path / "run" / "checkpoint-4"
    shutil.copy(folder / "rng_state.pth", folder / "rng_state_1.pth")
    (folder / "rng_state.pth").rename(folder / "rng_state_0.pth")
    checkpoint_to_resume(trained.args, "true")
    assert "checkpoint-4 is of 2 process(es), and this run has 1" in caplog.text


def test_nothing_of_an_older_checkpoint_of_the_same_step_is_left(trained, trainer_of, model, tmp_path):
    leftover = tmp_path / "run" / "checkpoint-2" / "pytorch_model.bin"
    leftover.write_bytes(b"of another run")
    trainer_of(of=model, **EVERY_STEP).train()
    assert not leftover.exists()


class _Each(TrainerCallback):
    """Calls a function with the state at an event."""

    def __init__(self, **functions):
        for event, function in functions.items():
            setattr(self, event, lambda args, state, control, function=function, **kwargs: function(state))


def limit_files(num_bytes: int) -> None:
    """Files of this process may not grow beyond it: what a full disk is like, for whoever writes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture
def files_without_limit():
    yield
    limit_files(resource.getrlimit(resource.RLIMIT_FSIZE)[1])


@pytest.mark.usefixtures("files_without_limit")
def test_a_full_disk_leaves_the_last_checkpoint_and_the_error_names_the_disk(trainer_of, model, tmp_path):
    trainer = trainer_of(of=model, **EVERY_STEP)
    trainer.add_callback(_Each(on_step_begin=lambda state: limit_files(50_000) if state.global_step == 2 else None))
    with pytest.raises(DiskError, match=r"checkpoint-3 could not be written: .*The disk mounted at /.* has [\d,]+ MB"):
        trainer.train()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoint-1", "checkpoint-2"]
    assert flaw_of(tmp_path / "run" / "checkpoint-2") is None


@pytest.mark.usefixtures("files_without_limit")
def test_each_file_that_does_not_fit_is_an_error_of_the_disk_that_names_the_last_checkpoint(trained, tmp_path):
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "run" / "checkpoint-4").iterdir()}
    assert sizes["optimizer.pt"] > sizes["model.safetensors"]
    for name in ("optimizer.pt", "model.safetensors", "tokenizer.json"):
        trained.state.global_step = 9
        limit_files(sizes[name] - 1)
        with pytest.raises(DiskError, match="checkpoint-4 is whole: make room, and go on from it"):
            trained._save_checkpoint(trained.model, None)
    limit_files(sizes["model.safetensors"] - 1)
    with pytest.raises(DiskError, match=r"run could not be written: .*checkpoint-4 is whole"):
        trained.save_model()


def test_other_errors_are_not_taken_for_the_disk(tmp_path):
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), disk_named(tmp_path):
        raise RuntimeError("shapes differ")


def assert_same_weights(one: MTSBertTrainer, other: MTSBertTrainer) -> None:
    for name, weight in one.model.state_dict().items():
        assert torch.equal(weight, other.model.state_dict()[name]), name


def test_evaluating_changes_no_later_number(trainer_of, model, features):
    runs = []
    for eval_strategy in ("no", "steps"):
        trainer = trainer_of(
            of=copy.deepcopy(model),
            eval_dataset=features,
            eval_strategy=eval_strategy,
            eval_steps=1,
            num_train_epochs=3,
        )
        trainer.train()
        runs.append(trainer)
    assert_same_weights(*runs)


PATIENCE = {
    "learning_rate": 0.0,  # never better than at first
    "num_train_epochs": 9,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_composite",
    "early_stopping_patience": 3,
}


@pytest.mark.parametrize("checkpoint", [2, 3, 4])
def test_early_stopping_goes_on_counting(trainer_of, features, tmp_path, checkpoint):
    trainer_of(eval_dataset=features, **PATIENCE).train()
    resumed = trainer_of(eval_dataset=features, **PATIENCE)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{checkpoint}"))
    assert resumed.state.global_step == 4


@pytest.fixture
def saved(run):
    """The folder of a checkpoint."""
    return run / "checkpoint-2"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["Sports", "World", "Business", "Sci/Tech"]}, "task 'topic' has labels .* there, and"),
        ({"labels": ["World", "Sports", "Business", "Other"]}, "task 'topic' has labels"),
        ({"labels": ["World", "Sports", "Business", "Sci/Tech", "Other"]}, "task 'topic' has labels"),
        ({"hidden_size": 8}, "task 'topic' has hidden_size None there, and 8 in this run"),
    ],
)
def test_a_checkpoint_of_other_heads_is_not_resumed(saved, change, message):
    tasks = json.loads((saved / "config.json").read_text())["tasks"]
    tasks["topic"] |= {"labels": ["World", "Sports", "Business", "Sci/Tech"], "hidden_size": None}
    (saved / "config.json").write_text(json.dumps({"tasks": tasks}))
    check_same_tasks(saved, tasks)
    with pytest.raises(ValueError, match=f"cannot be resumed: {message}"):
        check_same_tasks(saved, tasks | {"topic": tasks["topic"] | change})


def test_a_checkpoint_with_other_tasks_is_not_resumed(saved):
    tasks = json.loads((saved / "config.json").read_text())["tasks"]
    for wrong, whose in ((dict(list(tasks.items())[:1]), "the checkpoint"), (tasks | {"mood": {}}, "this run")):
        with pytest.raises(ValueError, match=f"only {whose} has the task"):
            check_same_tasks(saved, wrong)


def test_the_trainer_compares_the_tasks_before_it_resumes(saved, trainer_of, model):
    config = json.loads((saved / "config.json").read_text())
    config["tasks"]["topic"]["labels"].reverse()
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="task 'topic' has labels"):
        trainer_of(of=model).train(resume_from_checkpoint=str(saved))


@pytest.mark.parametrize(
    ("name", "before", "now"),
    [
        ("pooling", "mean", "cls"),
        ("normalize", True, False),
        ("embedding_size", 32, 8),
        ("num_task_layers", 0, 1),
        ("letter_case", False, True),
    ],
)
def test_a_checkpoint_of_a_model_with_other_settings_is_not_resumed(
    saved, trainer_of, encoder_folder, examples, tasks, name, before, now
):
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks, **{name: now})
    other = trainer_of(of=model, train_dataset=Dataset.from_list(examples))
    with pytest.raises(ValueError, match=f"cannot be resumed: its model has {name} {before}, and .* run has {now}"):
        other.train(resume_from_checkpoint=str(saved))
    assert other.state.global_step == 0


def test_a_checkpoint_of_a_model_with_more_layers_is_not_resumed(saved, trainer_of, model):
    other = trainer_of(of=keep_layers(model, 1))
    with pytest.raises(ValueError, match="its model has num_layers 2, and that of this run has 1"):
        other.train(resume_from_checkpoint=str(saved))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"head_learning_rate": 0.1}, "its optimizer has head_learning_rate None, and that of this run has 0.1"),
        ({"layer_decay": 0.9}, "its optimizer has layer_decay None, and that of this run has 0.9"),
        ({"optim": "adafactor"}, "its optimizer has optim AdamW, and that of this run has Adafactor"),
        ({"optim": "sgd"}, "its optimizer has optim AdamW, and that of this run has SGD"),
        ({"bitfit": True}, "its optimizer has bitfit False, and that of this run has True"),
        ({"freeze_modules": "bias"}, "its optimizer has freeze_modules None, and that of this run has bias"),
    ],
)
def test_a_checkpoint_of_another_optimizer_is_not_resumed(saved, trainer_of, flags, message):
    other = trainer_of(**EVERY_STEP | flags)
    with pytest.raises(ValueError, match=f"cannot be resumed: {message}"):
        other.train(resume_from_checkpoint=str(saved))
    assert other.state.global_step == 0


@pytest.mark.parametrize("flags", [{"head_learning_rate": 1e-2}, {"optim": "adamw_torch"}, {"learning_rate": 1e-3}])
def test_a_checkpoint_whose_optimizer_has_the_same_form_is_resumed(saved, trainer_of, flags):
    resumed = trainer_of(**EVERY_STEP | flags)
    resumed.train(resume_from_checkpoint=str(saved))
    assert resumed.state.global_step == 4


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ({"freeze_modules": "layer.0"}, {"freeze_modules": "layer.1"}, "freeze_modules layer.0, and that of this run"),
        ({"freeze_modules": "layer.0"}, {}, "freeze_modules layer.0, and that of this run has None"),
        ({"bitfit": True}, {}, "bitfit True, and that of this run has False"),
    ],
)
def test_moments_of_other_weights_are_not_taken(trainer_of, tmp_path, before, now, message):
    trainer_of(**EVERY_STEP | before).train()
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    with pytest.raises(ValueError, match=f"cannot be resumed: its optimizer has {message}"):
        trainer_of(**EVERY_STEP | now).train(resume_from_checkpoint=checkpoint)
    resumed = trainer_of(**EVERY_STEP | before)
    resumed.train(resume_from_checkpoint=checkpoint)
    assert resumed.state.global_step == 4


def test_moments_of_weights_that_the_user_froze_are_not_taken_for_others(trainer_of, encoder_folder, tasks, tmp_path):
    def model_without(layer: int) -> MTSBertModel:
        model = MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks)
        model.encoder.encoder.layer[layer].requires_grad_(False)
        return model

    trainer_of(of=model_without(0), **EVERY_STEP).train()
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    with pytest.raises(ValueError, match=r"has weights_left_out 16 \(.*\), and that of this run has 16 \("):
        trainer_of(of=model_without(1), **EVERY_STEP).train(resume_from_checkpoint=checkpoint)
    resumed = trainer_of(of=model_without(0), **EVERY_STEP)
    resumed.train(resume_from_checkpoint=checkpoint)
    assert resumed.state.global_step == 4


@pytest.mark.parametrize(
    ("missing", "flaw"),
    [
        (None, "there is no such folder"),
        ("trainer_state.json", "it has no trainer_state.json"),
        ("optimizer.pt", "it has no optimizer"),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_refused_in_python(saved, trainer_of, tmp_path, missing, flaw):
    if missing is not None:
        (saved / missing).unlink()
    folder = str(saved if missing else tmp_path / "missing")
    trainer = trainer_of(**EVERY_STEP)
    with pytest.raises(
        ValueError, match=f"`resume_from_checkpoint` is {folder}, which is no whole checkpoint: {flaw}"
    ):
        trainer.train(resume_from_checkpoint=folder)
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("flags", [{"freeze_layers": [0]}, {"freeze_encoder": True}, {"freeze_heads": ["topic"]}])
def test_a_checkpoint_is_resumed_with_other_frozen_parts(saved, trainer_of, flags):
    """Their parameters are in the groups all the same."""
    resumed = trainer_of(**EVERY_STEP | flags)
    resumed.train(resume_from_checkpoint=str(saved))
    assert resumed.state.global_step == 4


def test_a_checkpoint_that_does_not_name_its_optimizer_is_resumed(saved, trainer_of):
    state = json.loads((saved / "trainer_state.json").read_text())
    assert state["stateful_callbacks"].pop("optimizer")["optim"] == "AdamW"
    (saved / "trainer_state.json").write_text(json.dumps(state))
    resumed = trainer_of(**EVERY_STEP)
    resumed.train(resume_from_checkpoint=str(saved))
    assert resumed.state.global_step == 4


def test_a_checkpoint_that_does_not_say_what_was_in_no_group_is_resumed(trainer_of, tmp_path):
    trainer_of(**EVERY_STEP, freeze_modules="bias").train()
    path = tmp_path / "run" / "checkpoint-2" / "trainer_state.json"
    state = json.loads(path.read_text())
    for name in ("bitfit", "freeze_modules", "weights_left_out"):
        state["stateful_callbacks"]["optimizer"].pop(name)
    path.write_text(json.dumps(state))
    resumed = trainer_of(**EVERY_STEP, freeze_modules="bias")
    resumed.train(resume_from_checkpoint=str(path.parent))
    assert resumed.state.global_step == 4
