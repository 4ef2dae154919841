"""Two processes equal one: the gradients of a step, whatever labels each process happens to see."""

import subprocess
import sys

import torch


GRADIENTS_OF_A_STEP = """
import os, sys
import torch
from transformers import set_seed
from modeling_mtsbert import MTSBertModel
from mtl.arguments import MTLTrainingArguments
from mtl.trainer import MTSBertTrainer
from datasets import load_from_disk
from transformers import AutoTokenizer

folder, batch_size, accumulation = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = MTSBertModel.from_pretrained(folder)
for module in model.modules():
    if isinstance(module, torch.nn.Dropout):
        module.p = 0.0
arguments = MTLTrainingArguments(
    output_dir=folder + "/run", precision="fp32", use_cpu=True, per_device_train_batch_size=batch_size,
    gradient_accumulation_steps=accumulation, max_grad_norm=0.0, train_sampling_strategy="sequential", max_steps=1,
    task_weights={"ner": 3.0}, save_strategy="no", disable_tqdm=True, loss_balancing="uncertainty",
)
trainer = MTSBertTrainer(
    model, arguments, AutoTokenizer.from_pretrained(folder, config=model.config.encoder_config),
    train_dataset=load_from_disk(folder + "/features"),
)
optimizer = trainer.create_optimizer()
step = optimizer.step
def record(*args, **kwargs):
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    found |= {"s_" + task: value.grad.clone() for task, value in trainer.balancing.log_variances.items()}
    if arguments.process_index == 0:
        torch.save(found, sys.argv[4])
    return step(*args, **kwargs)
optimizer.step = record
trainer.train()
assert arguments.world_size == int(os.environ.get("WORLD_SIZE", 1))
"""


def test_one_process_accumulation_and_two_processes_give_the_same_gradients(
    model, tokenizer, tasks, examples, tmp_path, root
):
    from mtl.features import build_features

    examples[1]["topic"] = None  # unequal numbers of labels; the second half has no entities at all
    for row in range(4, 8):
        examples[row]["ner"] = None
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    build_features(examples, tasks, tokenizer, max_length=32, split="train")[0].save_to_disk(tmp_path / "features")
    script = tmp_path / "step.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(root)!r})\n" + GRADIENTS_OF_A_STEP)
    two = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29533"]
    found = {}
    for name, launcher, batch_size, accumulation in (
        ("one batch", [], 8, 1),
        ("accumulated", [], 2, 4),
        ("two processes", two, 4, 1),
        ("both", two, 2, 2),
    ):
        answer = tmp_path / f"{name}.pt"
        command = [sys.executable, *launcher, script, tmp_path, batch_size, accumulation, answer]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        found[name] = torch.load(answer)
    for name, gradients in found.items():
        assert set(gradients) == set(found["one batch"])
        for parameter, gradient in gradients.items():
            assert torch.allclose(gradient, found["one batch"][parameter], atol=1e-6), (name, parameter)
