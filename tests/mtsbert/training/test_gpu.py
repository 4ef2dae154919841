"""Trains on a GPU, where there is one."""

import pytest
import torch


pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"precision": "bf16", "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        {"embedding_distillation": 1.0, "embedding_distillation_parts": 1.0},
        {"loss_balancing": "uncertainty", "gradient_statistics_steps": 1},
        {"freeze_encoder": True},
        {"num_frozen_layers": 1, "freeze_embeddings": True},
        {"gradual_unfreezing": True, "num_train_epochs": 3},
        {"padding_free": False, "activation_checkpointing": True},
    ],
    ids=str,
)
def test_the_loss_falls_on_a_gpu(trainer_of, features, settings):
    trainer = trainer_of(eval_dataset=features, **{"num_train_epochs": 6, **settings})
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()["eval_loss"]
    assert {weight.device.type for weight in trainer.model.parameters()} == {"cuda"}
    assert after < before


def test_a_teacher_answers_on_the_gpu_and_returns_to_the_cpu(trainer_of, model, features, tokenizer, tmp_path):
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "teacher")
    trainer = trainer_of(
        eval_dataset=features, teacher=str(tmp_path / "teacher"), embedding_distillation=1.0,
        feature_cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    teacher, devices = trainer.teacher.model, set()
    teacher.encoder.register_forward_pre_hook(lambda *_: devices.add(teacher.device.type))
    trainer.train()
    assert trainer.evaluate()["eval_embedding_cosine"] < 1.0
    assert devices == {"cuda"}
    assert teacher.device.type == "cpu"
