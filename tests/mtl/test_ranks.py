"""Two processes equal one: the gradients of a step, whatever labels each process happens to see, and frozen parts."""

import json
import os
import subprocess
import sys

import pytest
import torch

from modeling_mtsbert import MTSBertModel
from mtl.features import build_features
from tests.mtl.rows import examples_of


TRAINING = """
import json, os, sys
import torch
from datasets import load_from_disk
from transformers import AutoTokenizer
from modeling_mtsbert import MTSBertModel
from mtl.arguments import MTLTrainingArguments
from mtl.trainer import MTSBertTrainer

folder, settings, answer = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
model = MTSBertModel.from_pretrained(folder)
for module in model.modules():
    if isinstance(module, torch.nn.Dropout):
        module.p = 0.0
arguments = MTLTrainingArguments(
    output_dir=folder + "/run", precision="fp32", use_cpu=True, max_grad_norm=0.0, save_strategy="no",
    train_sampling_strategy="sequential", task_weights={"ner": 3.0}, disable_tqdm=True, **settings,
)
trainer = MTSBertTrainer(
    model, arguments, AutoTokenizer.from_pretrained(folder, config=model.config.encoder_config),
    train_dataset=load_from_disk(folder + "/features"),
)
optimizer = trainer.create_optimizer()
step = optimizer.step
gradients = {}
def record(*args, **kwargs):
    if not gradients:
        gradients.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        learned = getattr(trainer.balancing, "log_variances", {})
        gradients.update({"s_" + task: value.grad.clone() for task, value in learned.items()})
    return step(*args, **kwargs)
optimizer.step = record
trainer.train()
assert arguments.world_size == int(os.environ.get("WORLD_SIZE", 1))
if arguments.process_index == 0:
    torch.save({"gradients": gradients, "weights": model.state_dict()}, answer)
trainer.accelerator.end_training()
sys.stdout.flush()
os._exit(0)  # now and then the interpreter's own end aborts ("terminate called"), when everything is done
"""


@pytest.fixture
def train(model, tokenizer, tasks, examples, tmp_path, root):
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

    def run(num_processes: int, batch_size: int, accumulation: int, **settings) -> dict[str, dict[str, torch.Tensor]]:
        settings |= {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
        command = [sys.executable, *(launcher if num_processes == 2 else []), script, tmp_path, json.dumps(settings)]
        done = subprocess.run(
            [*map(str, command), str(tmp_path / "answer.pt")],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "PYTHONFAULTHANDLER": "1"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return torch.load(tmp_path / "answer.pt")

    return run


def test_one_process_accumulation_and_two_processes_give_the_same_gradients(train):
    settings = {"max_steps": 1, "loss_balancing": "uncertainty"}
    whole = train(1, 8, 1, **settings)["gradients"]
    for split in ((1, 2, 4), (2, 4, 1), (2, 2, 2)):
        found = train(*split, **settings)["gradients"]
        assert set(found) == set(whole)
        for name, gradient in found.items():
            assert torch.allclose(gradient, whole[name], atol=1e-6), (split, name)


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


def test_a_feature_cache_serves_two_processes(train, tmp_path):
    settings = {"max_steps": 3, "learning_rate": 0.1, "optim": "sgd", "freeze_encoder": True}
    cache = {"feature_cache_dir": str(tmp_path / "cache"), "feature_cache_dtype": "fp32"}
    one = train(1, 8, 1, **settings, feature_cache=False)["weights"]
    two = train(2, 4, 1, **settings, **cache)["weights"]
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 1
    for name, weight in one.items():
        assert torch.allclose(weight, two[name], atol=1e-6), name
