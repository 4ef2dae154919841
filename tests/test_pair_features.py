"""Tests what the head of a pair classification reads: u, v and |u - v|, scaled to numbers that it can learn from."""

import json

import pytest
import torch
from torch.nn import functional as F

from configuration_mtsbert import MTSBertConfig
from modeling_mtsbert import MTSBertModel
from mtsbert.data.labels import merge_tasks
from mtsbert.input_arguments import ModelArguments
from mtsbert.network.starting_point import load_model
from mtsbert.training.checkpoints import check_same_tasks


FOLLOWS = {"type": "pair_classification", "labels": ["no", "yes"]}
PAIR = {"input_ids": torch.tensor([[2, 8, 9, 3]]), "pair_input_ids": torch.tensor([[2, 7, 3]])}


def logits_by_hand(model: MTSBertModel, scale: float) -> torch.Tensor:
    output = model(**PAIR)
    u, v = output.pooler_output, output.pair_pooler_output
    return model.heads["follows"].classifier(scale * torch.cat([u, v, (u - v).abs()], dim=-1))


def test_a_new_head_reads_numbers_of_about_one(encoder_folder):
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks={"follows": FOLLOWS}).eval()
    assert model.config.tasks["follows"]["feature_scale"] == pytest.approx(32**0.5, abs=1e-6)
    assert torch.allclose(model(**PAIR).logits["follows"], logits_by_hand(model, 32**0.5), atol=1e-5)
    u = model(**PAIR).pooler_output
    assert torch.allclose(F.normalize(u) * 32**0.5, u * model.config.tasks["follows"]["feature_scale"], atol=1e-5)


def test_an_older_checkpoint_answers_as_before(encoder_folder, tmp_path):
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks={"follows": FOLLOWS}).eval()
    del model.config.tasks["follows"]["feature_scale"]
    model.save_pretrained(tmp_path)
    again = MTSBertModel.from_pretrained(tmp_path).eval()
    assert "feature_scale" not in again.config.tasks["follows"]
    assert torch.allclose(again(**PAIR).logits["follows"], logits_by_hand(again, 1.0), atol=1e-6)
    again.add_task("near", FOLLOWS)
    assert again.config.tasks["near"]["feature_scale"] == pytest.approx(32**0.5, abs=1e-6)
    assert "feature_scale" not in again.config.tasks["follows"]


def test_embeddings_that_are_not_scaled_are_read_as_they_are(encoder_folder):
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks={"follows": FOLLOWS}, normalize=False)
    assert "feature_scale" not in model.config.tasks["follows"]
    asked = MTSBertModel.from_encoder(str(encoder_folder), tasks={"follows": FOLLOWS | {"feature_scale": 2.0}})
    assert asked.config.tasks["follows"]["feature_scale"] == 2.0


def test_the_size_of_the_embedding_counts(encoder_folder):
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks={"follows": FOLLOWS}, embedding_size=16)
    assert model.config.tasks["follows"]["feature_scale"] == 4.0


def test_training_goes_on_with_the_scale_of_the_checkpoint():
    kept = FOLLOWS | {"feature_scale": 4.0}
    assert merge_tasks({"follows": FOLLOWS}, {"follows": kept}) == {"follows": kept}
    assert merge_tasks({"follows": FOLLOWS}, {"follows": FOLLOWS}) == {"follows": FOLLOWS}
    with pytest.raises(ValueError, match=r"the recipe says feature_scale: 2.0, and the checkpoint .* 4.0"):
        merge_tasks({"follows": FOLLOWS | {"feature_scale": 2.0}}, {"follows": kept})


def test_an_older_checkpoint_takes_a_scale_of_one_for_its_own():
    one = FOLLOWS | {"feature_scale": 1}
    assert merge_tasks({"follows": one}, {"follows": FOLLOWS}) == {"follows": FOLLOWS}


def test_a_run_of_an_older_version_is_resumed_with_a_scale_of_one(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"tasks": {"follows": FOLLOWS}}))
    check_same_tasks(tmp_path, {"follows": FOLLOWS | {"feature_scale": 1}})
    with pytest.raises(ValueError, match=r"has feature_scale 1\.0 there, and 5\.6 in this run"):
        check_same_tasks(tmp_path, {"follows": FOLLOWS | {"feature_scale": 5.6}})


def test_a_new_task_of_a_checkpoint_is_scaled(checkpoint):
    kept = MTSBertConfig.from_pretrained(checkpoint).tasks
    model = load_model(ModelArguments(model_name_or_path=str(checkpoint)), kept | {"new": FOLLOWS})
    assert model.config.tasks["new"]["feature_scale"] == pytest.approx(32**0.5, abs=1e-6)
    assert model.config.tasks["follows"] == kept["follows"]


@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), "2", True])
def test_a_scale_is_a_number_above_zero(scale):
    with pytest.raises(ValueError, match=r"'feature_scale' is .*; it must be a number above 0"):
        MTSBertConfig(tasks={"follows": FOLLOWS | {"feature_scale": scale}})
