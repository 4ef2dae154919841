"""Tests that every argument of transformers' TrainingArguments works, or is refused by name."""

import re
from dataclasses import fields
from importlib.util import find_spec

import pytest
import torch
from transformers import TrainingArguments
from transformers.integrations import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from mtsbert.arguments import REFUSED, MTLTrainingArguments


WRONG = {
    "label_smoothing_factor": 0.1,
    "remove_unused_columns": True,
    "eval_do_concat_batches": False,
    "batch_eval_metrics": True,
    "label_names": ["topic"],
    "length_column_name": "size",
    "debug": "underflow_overflow",
}
TOGETHER = {"lr_scheduler_kwargs": {"lr_scheduler_type": "polynomial"}, "save_steps": {"save_strategy": "steps"}}
# Values other than the default with which a run of two steps on one CPU trains, evaluates and saves.
WORKING = {
    "max_steps": 2,
    "lr_scheduler_type": "cosine",
    "lr_scheduler_kwargs": {"power": 2.0},
    "optim": "adamw_torch",
    "optim_args": "fused=False",
    "adam_beta1": 0.8,
    "adam_beta2": 0.9,
    "adam_epsilon": 1e-6,
    "average_tokens_across_devices": False,
    "max_grad_norm": 0.5,
    "bf16_full_eval": True,
    "fp16_full_eval": True,
    "activation_checkpointing": True,
    "torch_empty_cache_steps": 1,
    "auto_find_batch_size": True,
    "logging_strategy": "epoch",
    "logging_first_step": True,
    "log_on_each_node": False,
    "logging_nan_inf_filter": True,
    "include_num_input_tokens_seen": "all",
    "log_level": "warning",
    "log_level_replica": "error",
    "run_name": "a",
    "eval_strategy": "steps",
    "eval_steps": 1,
    "eval_delay": 1,
    "prediction_loss_only": True,
    "eval_on_start": True,
    "eval_use_gather_object": True,
    "eval_accumulation_steps": 1,
    "include_for_metrics": ["loss"],
    "save_only_model": True,
    "save_strategy": "epoch",
    "save_steps": 1,
    "save_total_limit": 1,
    "save_on_each_node": True,
    "greater_is_better": True,
    "ignore_data_skip": True,
    "restore_callback_states_from_checkpoint": True,
    "full_determinism": True,
    "data_seed": 7,
    "accelerator_config": {"split_batches": True},
    "dataloader_drop_last": True,
    "dataloader_num_workers": 1,
    "dataloader_pin_memory": False,
    "dataloader_in_order": False,
    "train_sampling_strategy": "random",
    "ddp_find_unused_parameters": True,
    "ddp_timeout": 60,
    "skip_memory_metrics": False,
    "neftune_noise_alpha": 5.0,
    "weight_decay": 0.1,
    "warmup_steps": 1,
    "gradient_accumulation_steps": 2,
    "use_cpu": True,
    "seed": 1,
}


@pytest.mark.parametrize("name", WRONG)
def test_what_has_no_use_is_refused_by_name(name, tmp_path):
    with pytest.raises(ValueError, match=f"`{name}` is .*, which is not used here: {re.escape(REFUSED[name][1])}"):
        MTLTrainingArguments(output_dir=str(tmp_path), **{name: WRONG[name]})
    assert set(WRONG) == set(REFUSED)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"optim_args": "nonsense"},
            "The optimizer cannot be made from `optim: .*`, `optim_args: nonsense`: ",
        ),
        ({"optim": "lion_32bit"}, "The optimizer cannot be made from `optim: lion_32bit`: .*bitsandbytes"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "The schedule .* `lr_scheduler_type: warmup_.*'num_decay_ste"),
        ({"lr_scheduler_kwargs": {"cycles": 2}}, r"`lr_scheduler_type: linear`, `lr_scheduler_kwargs: {'cycles': 2}`"),
    ],
)
def test_what_makes_no_optimizer_or_schedule_is_refused_by_name(trainer_of, flags, message):
    if "bitsandbytes" in message and find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed")
    trainer = trainer_of(**flags)
    with pytest.raises(ValueError, match=message):
        trainer.train()


def test_reports_to_what_is_not_installed_are_refused_before_anything_is_read(tmp_path):
    absent = sorted(INTEGRATION_TO_CALLBACK.keys() - {*get_available_reporting_integrations(), "azure_ml", "flyte"})
    with pytest.raises(ValueError, match=f"`report_to` names \\['{absent[0]}'\\], which must be installed"):
        MTLTrainingArguments(output_dir=str(tmp_path), report_to=[absent[0]])
    assert MTLTrainingArguments(output_dir=str(tmp_path), report_to="none").report_to == []


@pytest.mark.parametrize("name", WORKING)
def test_a_run_with_an_inherited_argument_trains_evaluates_and_saves(trainer_of, features, tmp_path, name):
    own = {"eval_strategy": "epoch", "num_train_epochs": 2, "per_device_train_batch_size": 4}
    own |= TOGETHER.get(name, {}) | {name: WORKING[name]}
    trainer = trainer_of(eval_dataset=features, **own)
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        metrics = trainer.train().metrics | trainer.evaluate()
    finally:
        torch.use_deterministic_algorithms(deterministic)
    trainer.save_model(str(tmp_path / "saved"))
    assert metrics["train_loss"] > 0
    assert metrics["eval_loss"] > 0
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}


def test_every_inherited_argument_is_in_the_table_of_the_docs(root):
    text = (root / "docs" / "guides" / "from_trainer.md").read_text(encoding="utf-8")
    section = text.split("## Every argument of TrainingArguments")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", section))
    assert {setting.name for setting in fields(TrainingArguments)} - {"local_rank"} <= named
    for said, known in {"tested": WORKING, "refused": REFUSED}.items():
        lines = [line.split("|")[1] for line in section.splitlines() if line.endswith(f"| {said} |")]
        assert set(re.findall(r"`(\w+)`", " ".join(lines))) == set(known)
