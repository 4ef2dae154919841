"""Tests `mtsbert distill`: a student with fewer layers, which opens everywhere and names its teacher."""

import json

import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipeline,
)

from entities_mtsbert import bio_labels
from modeling_mtsbert import MTSBertModel
from mtsbert.commands import distill


@pytest.fixture(scope="module")
def teacher(encoder_folder, tokenizer, tmp_path_factory):
    """A checkpoint of two layers, of which the tasks have a copy of the last."""
    tasks = {
        "topic": {"type": "sequence_classification", "labels": ["Business", "Sports"]},
        "ner": {"type": "token_classification", "labels": bio_labels(["GPE", "ORG", "PERSON"])},
    }
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("teacher")
    MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks, num_task_layers=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def student(recipe, teacher, tmp_path):
    """The student that the recipe of the teacher gives, and the metrics of its run."""
    path = recipe(
        num_task_layers=1, feature_cache_dir=str(tmp_path / "cache"), do_eval=True, num_train_epochs=2, logging_steps=1
    )
    metrics = distill.main(["--model", str(teacher), "--layers", "1", "--config", str(path)])
    return tmp_path / "run", metrics


def test_the_student_has_fewer_layers_and_opens_through_every_door(student, tokenizer):
    folder, _ = student
    text = "Ada Perez wins the race in Lima"
    ours = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    assert ours.config.num_hidden_layers == 1
    inputs = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)(text, return_tensors="pt")
    with torch.no_grad():
        expected = ours(**inputs)
        for kind, task in ((AutoModelForSequenceClassification, "topic"), (AutoModelForTokenClassification, "ner")):
            view = kind.from_pretrained(folder, trust_remote_code=True, calibration=False).eval()
            assert torch.allclose(view(**inputs).logits, expected.logits[task], atol=1e-5)
    embedding = torch.tensor(SentenceTransformer(str(folder), trust_remote_code=True, device="cpu").encode(text))
    assert torch.allclose(embedding, expected.pooler_output[0], atol=1e-5)
    answer = pipeline("multi-task", model=str(folder), trust_remote_code=True, device="cpu")(text)
    assert torch.allclose(torch.tensor(answer["embedding"]), expected.pooler_output[0], atol=1e-5)


def test_the_student_learns_from_the_teacher_and_says_so(student):
    folder, metrics = student
    config = json.loads((folder / "config.json").read_text())
    assert config["distilled_from"].startswith("teacher")
    assert config["embedding_reference"] == config["distilled_from"]  # which is held to though the recipe says nothing
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    assert any("topic_distillation_loss" in line and "embedding_loss" in line for line in log)
    assert 0 < metrics["eval_embedding_cosine"] < 1


@pytest.mark.parametrize(
    ("flags", "weight"),
    [([], 2.0), (["--embedding_distillation", "5"], 5.0), (["--embedding-distillation=0"], 0.0)],
)
def test_the_embedding_is_held_unless_a_flag_says_otherwise(recipe, teacher, tmp_path, flags, weight):
    path = recipe(feature_cache_dir=str(tmp_path / "cache"), max_steps=1)
    distill.main(["--model", str(teacher), "--layers", "1", "--config", str(path), *flags])
    args = torch.load(tmp_path / "run" / "training_args.bin", weights_only=False)
    assert (args.teacher, args.embedding_distillation) == (str(teacher), weight)


@pytest.mark.parametrize(("settings", "weight"), [({}, 0.0), ({"thaw_at": "1"}, 2.0)])
def test_the_embedding_of_a_frozen_encoder_is_not_held(recipe, teacher, tmp_path, settings, weight):
    settings |= {"freeze_encoder": True, "feature_cache_dir": str(tmp_path / "cache"), "max_steps": 2}
    distill.main(["--model", str(teacher), "--layers", "1", "--config", str(recipe(**settings))])
    args = torch.load(tmp_path / "run" / "training_args.bin", weights_only=False)
    assert args.embedding_distillation == weight


def test_a_weight_in_the_recipe_is_kept(recipe):
    path = recipe(embedding_distillation=8)
    assert distill.is_set("embedding_distillation", path, [])
    assert not distill.is_set("teacher", path, ["--teachers"])


@pytest.mark.parametrize("flags", [["--embedding-distillation=0"], ["--embedding-distillation", "0"]])
def test_a_weight_in_a_flag_with_dashes_is_kept(recipe, flags):
    assert distill.is_set("embedding_distillation", recipe(), flags)


@pytest.mark.parametrize(
    "flag", ["--teacher", "--model_name_or_path", "--num_layers", "--model-name-or-path", "--num-layers"]
)
def test_what_the_command_sets_itself_is_refused(recipe, capsys, flag):
    with pytest.raises(SystemExit):
        distill.main(["--model", "big", "--layers", "3", "--config", str(recipe()), f"{flag}=1"])
    assert f"--{flag[2:].replace('-', '_')} is set by --model and --layers" in capsys.readouterr().err


def test_more_layers_than_the_teacher_has_are_refused(recipe, teacher):
    with pytest.raises(ValueError, match="`num_layers` is 3; the encoder has 2 layers, so 1 to 2"):
        distill.main(["--model", str(teacher), "--layers", "3", "--config", str(recipe(num_task_layers=1))])
