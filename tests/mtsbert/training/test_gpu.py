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
