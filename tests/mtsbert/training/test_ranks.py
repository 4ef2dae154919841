"""Tests that two ranks give the gradients of a single process, whatever labels each rank has and what is frozen."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from typing import Any

import pytest
import torch

from modeling_mtsbert import MTSBertModel
from mtsbert.data.features import build_features
from mtsbert.training.checkpoints import flaw_of, newest_whole
from mtsbert.training.losses.nonfinite import SKIPPED_STEPS
from tests.mtsbert.rows import examples_of


TRAINING = """
import json, os, signal, sys
import torch
from datasets import load_from_disk
from transformers import AutoTokenizer, TrainerCallback
from modeling_mtsbert import MTSBertModel
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.training.trainer import MTSBertTrainer

folder, settings, answer = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
rank, num_processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
event = settings.pop("event", None)  # what happens in this very process at the second step
model = MTSBertModel.from_pretrained(folder)
for module in model.modules():
    if isinstance(module, torch.nn.Dropout):
        module.p = 0.0
arguments = MTLTrainingArguments(
    output_dir=f"{folder}/run_{num_processes}_{rank}", precision="fp32", use_cpu=True, max_grad_norm=0.0,
    task_weights={"ner": 3.0}, disable_tqdm=True,
    **{"train_sampling_strategy": "sequential", "save_strategy": "no", **settings},
)
trainer = MTSBertTrainer(
    model, arguments, processing_class=AutoTokenizer.from_pretrained(folder, config=model.config.encoder_config),
    train_dataset=load_from_disk(folder + "/features"), eval_dataset=load_from_disk(folder + "/features"),
)
if arguments.embedding_distillation:  # from somewhere else, or there would be nothing to learn
    trainer.targets = trainer.targets_of(trainer.train_dataset)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.encoder.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
class Event(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1 and event in ("SIGTERM", "SIGKILL") and rank == num_processes - 1:
            open(f"{folder}/killed", "w").close()
            os.kill(os.getpid(), getattr(signal, event))
trainer.add_callback(Event())
if event == "nan" and rank == num_processes - 1:
    head, calls = model.heads["topic"], []
    forward = head.forward
    def poisoned(states):
        calls.extend([1] * head.training)
        logits = forward(states)
        return logits * torch.nan if len(calls) == 2 and head.training else logits
    head.forward = poisoned
optimizer = trainer.create_optimizer()
step = optimizer.step
gradients = {}
def record(*args, **kwargs):
    if not gradients:
        gradients.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        learned = getattr(trainer.balancing, "log_variances", {})
        learned = {"s_" + task: value.grad for task, value in learned.items() if value.grad is not None}
        gradients.update({name: gradient.clone() for name, gradient in learned.items()})
    return step(*args, **kwargs)
optimizer.step = record
try:
    metrics = trainer.train(arguments.resume_from_checkpoint).metrics
except RuntimeError:
    if event == "SIGKILL":
        os.kill(os.getpid(), signal.SIGTERM)  # as the launcher does, which may be faster than the traceback
    raise
assert arguments.world_size == num_processes
metrics |= trainer.evaluate()
if arguments.process_index == 0:
    torch.save({"gradients": gradients, "weights": model.state_dict(), "metrics": metrics}, answer)
trainer.accelerator.end_training()
sys.stdout.flush()
os._exit(0)  # now and then the interpreter's own end aborts ("terminate called"), when everything is done
"""


def under_torchrun(*words: object) -> subprocess.CompletedProcess:
    """Runs a script in two processes of torchrun, which says what becomes of one when the other is killed."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    environment = os.environ | {"PYTHONFAULTHANDLER": "1"}
    command = [*launcher, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=800, env=environment)


@pytest.fixture
def train(model, tokenizer, tasks, examples, tmp_path, root, warm_python):
    """Trains on the eight rows in one process or two, and returns the first step's gradients and the last weights."""
    examples[1]["topic"] = None  # unequal numbers of labels; the second half has no entities at all
    for row in range(4, 8):
        examples[row]["ner"] = None
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    build_features(examples_of(examples, tasks), tasks, tokenizer, max_length=32, split="train")[0].save_to_disk(
        tmp_path / "features"
    )
    script = tmp_path / "training.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(root)!r})\n" + TRAINING)

    def run(num_processes: int, batch_size: int, accumulation: int, *, fails: bool = False, **settings) -> Any:
        """With `fails`: what the processes said before they failed."""
        settings |= {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
        words = [script, tmp_path, json.dumps(settings), tmp_path / "answer.pt"]
        if fails:
            is_killed = settings.get("event") == "SIGKILL"
            done = under_torchrun(*words) if is_killed else warm_python.run(*words, num_ranks=2, awaits_all=True)
            assert done.returncode != 0
            return done.stderr
        done = warm_python.run(*words, num_ranks=num_processes)
        assert done.returncode == 0, done.stderr[-3000:]
        return torch.load(tmp_path / "answer.pt")

    return run


def test_one_process_accumulation_and_two_processes_give_the_same_gradients(train):
    settings = {"max_steps": 1, "loss_balancing": "uncertainty", "embedding_distillation": 5.0}
    whole = train(1, 8, 1, **settings)["gradients"]
    for split in ((1, 2, 4), (2, 4, 1), (2, 2, 2)):
        found = train(*split, **settings)["gradients"]
        assert set(found) == set(whole)
        for name, gradient in found.items():
            assert torch.allclose(gradient, whole[name], atol=1e-6), (split, name)


@pytest.mark.parametrize("distillation", [0.0, 5.0])
def test_task_layers_learn_the_same_in_two_processes(train, layered_model, tmp_path, distillation):
    layered_model.save_pretrained(tmp_path)  # in place of the plain model
    settings = {"max_steps": 2, "embedding_distillation": distillation}
    whole, found = (train(*split, **settings)["gradients"] for split in ((1, 8, 1), (2, 2, 2)))
    assert any(name.startswith("task_layers.") for name in whole)
    assert any(name.startswith("encoder.encoder.layer.1.") for name in whole) == bool(distillation)
    for name, gradient in found.items():
        assert torch.allclose(gradient, whole[name], atol=1e-6), name


def test_two_processes_learn_the_same_from_a_teacher(train, layered_model, tokenizer, tmp_path):
    """Of six rows of a step, or two in the last one, which filler rows complete."""
    for head in layered_model.heads.values():
        torch.nn.init.normal_(head.classifier.weight, std=0.5)  # another one's answers
    layered_model.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    settings = {"teacher": str(tmp_path / "teacher"), "feature_cache_dir": str(tmp_path / "cache")}
    settings |= {"num_train_epochs": 2, "learning_rate": 0.1, "optim": "sgd", "embedding_distillation": 5.0}
    one, two = train(1, 6, 1, **settings)["weights"], train(2, 3, 1, **settings)["weights"]
    for name, weight in one.items():
        assert torch.allclose(weight, two[name], atol=1e-6), name


@pytest.mark.parametrize("order", ["sequential", "random"])
def test_rows_that_do_not_come_out_even_are_learned_as_in_one_process(train, order):
    settings = {"num_train_epochs": 2, "learning_rate": 0.1, "optim": "sgd", "train_sampling_strategy": order}
    settings["embedding_distillation"] = 5.0  # which must not learn from the rows that fill up a batch
    one, two = train(1, 6, 1, **settings)["weights"], train(2, 3, 1, **settings)["weights"]  # the second step: 2 rows
    for name, weight in one.items():
        assert torch.allclose(weight, two[name], atol=1e-6), name


@pytest.mark.parametrize(
    ("flags", "frozen"),
    [
        ({"freeze_embeddings": True, "num_frozen_layers": 1}, ("encoder.embeddings", "encoder.encoder.layer.0")),
        ({"gradual_unfreezing": True, "unfreeze_every": 1}, ("encoder.embeddings",)),
    ],
)
def test_freezing_and_thawing_are_the_same_in_two_processes(train, model: MTSBertModel, flags, frozen):
    settings = {"max_steps": 3, "learning_rate": 0.1, "optim": "sgd", "weight_decay": 0.1, **flags}
    one, two = train(1, 8, 1, **settings)["weights"], train(2, 4, 1, **settings)["weights"]
    for name, before in model.state_dict().items():
        assert torch.equal(two[name], before) == name.startswith(frozen), name
        assert torch.allclose(one[name], two[name], atol=1e-6), name


def test_adaptive_freezing_decides_the_same_in_two_processes(train, tmp_path):
    settings = {"learning_rate": 0.05, "optim": "sgd", "lr_scheduler_type": "constant", "adaptive_freezing": True}
    settings |= {"adaptive_freezing_change": 100, "feature_cache_dtype": "fp32"}
    settings |= {"feature_cache_dir": str(tmp_path / "cache")}
    one, two = train(1, 8, 1, max_steps=16, **settings), train(2, 4, 1, max_steps=16, **settings)
    a_step_before = train(2, 4, 1, max_steps=15, **settings)["weights"]
    assert (
        two["metrics"]["frozen_from_step_encoder.layer.0"] == one["metrics"]["frozen_from_step_encoder.layer.0"] == 12
    )
    for name, weight in two["weights"].items():
        assert torch.allclose(weight, one["weights"][name], atol=1e-5), name
        is_frozen = name.startswith(("encoder.embeddings.", "encoder.encoder.layer.0."))
        assert torch.equal(weight, a_step_before[name]) == is_frozen, name


def test_a_feature_cache_serves_two_processes(train, tmp_path):
    settings = {"max_steps": 3, "learning_rate": 0.1, "optim": "sgd", "freeze_encoder": True}
    cache = {"feature_cache_dir": str(tmp_path / "cache"), "feature_cache_dtype": "fp32"}
    one = train(1, 8, 1, **settings, feature_cache=False)["weights"]
    two = train(2, 4, 1, **settings, **cache)["weights"]
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 1
    for name, weight in one.items():
        assert torch.allclose(weight, two[name], atol=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("drop_last", [False, True])
def test_metrics_of_uneven_last_batches_are_exact_in_two_processes(train, drop_last):
    settings = {"max_steps": 1, "learning_rate": 0.0, "dataloader_drop_last": drop_last}
    one = train(1, 8, 1, **settings, per_device_eval_batch_size=8)["metrics"]
    two = train(2, 4, 1, **settings, per_device_eval_batch_size=3)["metrics"]  # 3 + 3 rows, then 2
    for key, value in one.items():
        if key.startswith("eval_") and not key.endswith(("runtime", "per_second")):
            assert two[key] == pytest.approx(value, abs=1e-6 if key.endswith("loss") else 0.0), key


@pytest.mark.slow
def test_a_loss_that_is_no_number_in_one_process_stops_both_and_names_its_row(train):
    said = train(2, 2, 1, fails=True, max_steps=4, event="nan")
    line = (
        r"FloatingPointError: Step 2: the loss of task 'topic' is not a finite number, with row 6 of dataset 'train'"
    )
    assert len(re.findall(line, said)) >= 2, said[-3000:]  # each of them says so


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_both_leave_a_step_out_for_a_loss_that_is_no_number_in_one(train, tmp_path, accumulation):
    flags = {"learning_rate": 0.1, "optim": "sgd", "lr_scheduler_type": "constant", "loss_balancing": "uncertainty"}
    taken = 1 if accumulation == 1 else 0
    answer = train(2, 2, accumulation, max_steps=taken + 1, skip_nonfinite=True, event="nan", **flags)
    assert answer["metrics"][SKIPPED_STEPS] == 1
    expected = train(2, 2, 1, max_steps=1, **flags)["weights"] if taken else MTSBertModel.from_pretrained(tmp_path)
    for name, weight in (expected if taken else expected.state_dict()).items():
        assert torch.equal(answer["weights"][name], weight), name


@pytest.mark.slow
def test_both_stop_where_one_is_told_to_and_go_on_to_the_same_weights(train, tmp_path):
    flags = {"max_steps": 4, "learning_rate": 0.1, "loss_balancing": "uncertainty", "gradual_unfreezing": True}
    flags |= {"unfreeze_every": 2}
    straight = train(2, 2, 1, **flags)["weights"]
    said = train(2, 2, 1, fails=True, event="SIGTERM", **flags)
    assert "Stopped by SIGTERM after step 2 of 4" in said, said[-3000:]
    assert [path.name for path in (tmp_path / "run_2_0").iterdir()] == ["checkpoint-2"]
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {
        path.name for path in newest_whole(tmp_path / "run_2_0").iterdir()
    }
    assert not (tmp_path / "run_2_1").exists()  # the other process has a folder of its own, and writes nothing
    resumed = train(2, 2, 1, resume_from_checkpoint=str(tmp_path / "run_2_0" / "checkpoint-2"), **flags)["weights"]
    for name, weight in straight.items():
        assert torch.equal(weight, resumed[name]), name


@pytest.mark.slow
def test_where_one_is_killed_the_other_says_so_and_ends(train, tmp_path):
    said = train(2, 2, 1, fails=True, max_steps=4, event="SIGKILL", save_strategy="steps", save_steps=1)
    assert "Another process of this run has ended, so process 0 of 2 ends as well (step 1)" in said, said[-3000:]
    assert f"--resume_from_checkpoint true goes on from {tmp_path / 'run_2_0' / 'checkpoint-1'}" in said
    assert flaw_of(tmp_path / "run_2_0" / "checkpoint-1") is None
    assert time.time() - (tmp_path / "killed").stat().st_mtime < 60


RESUMING = """
import os, sys
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.training.checkpoints import checkpoint_to_resume

os.chdir(os.path.join(sys.argv[1], os.environ["RANK"]))  # as on a machine with a disk of its own
arguments = MTLTrainingArguments(output_dir="run", use_cpu=True)
assert arguments.world_size == 2
try:
    checkpoint_to_resume(arguments, "true")
except ValueError as error:
    sys.stdout.write(f"{arguments.process_index}: {error}\\n")
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.slow
def test_a_checkpoint_that_one_process_does_not_find_is_refused_by_both(trainer_of, tmp_path, root, warm_python):
    trainer_of(max_steps=1, save_strategy="steps", save_steps=1).train()
    for rank in (0, 1):
        (tmp_path / str(rank)).mkdir()
    shutil.move(tmp_path / "run", tmp_path / "0" / "run")
    script = tmp_path / "resuming.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(root)!r})\n" + RESUMING)
    done = warm_python.run(script, tmp_path, num_ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        assert (
            f"{rank}: Processes [1] of 2 do not find the checkpoint run/checkpoint-1 on their machine" in done.stdout
        )
