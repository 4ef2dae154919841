"""Fixtures: a Trainer on the eight rows of `tests/conftest.py`, and exports of its checkpoint, which take seconds."""

import copy
import json
import subprocess
from types import SimpleNamespace

import pytest
from transformers import (
    AutoModel,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    set_seed,
)

from modeling_mtsbert import MTSBertModel
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.commands.export import main as export
from mtsbert.data.features import build_features
from mtsbert.training.trainer import MTSBertTrainer
from tests.mtsbert.rows import examples_of


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
ENCODERS = {
    "distilbert": DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=64),
    "roberta": RobertaConfig(**SMALL, pad_token_id=0),
    "electra": ElectraConfig(**SMALL, embedding_size=16),  # a projection between embeddings and layers
    "mpnet": MPNetConfig(**SMALL, pad_token_id=0),  # a position bias that all layers share
    "modernbert": ModernBertConfig(**SMALL, pad_token_id=0),
}


@pytest.fixture(scope="session")
def built_features():
    """The features of tests that have the same examples and tasks, which are built once."""
    return {}


@pytest.fixture(scope="session")
def onnx_export(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "onnx"
    export(["--model", str(checkpoint), "--output", str(folder)])
    return folder


@pytest.fixture(scope="session")
def openvino_export(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "openvino"
    export(["--model", str(checkpoint), "--output", str(folder), "--format", "openvino"])
    return folder


@pytest.fixture(params=["onnx", "openvino"])
def exported(request):
    return request.getfixturevalue(f"{request.param}_export")


@pytest.fixture
def features(examples, tasks, tokenizer, built_features):
    examples[1]["topic"] = None  # unequal numbers of labels in the micro-batches
    examples[2]["ner"] = None
    key = json.dumps([examples, tasks])
    if key not in built_features:
        rows = examples_of(examples, tasks)
        built_features[key] = build_features(rows, tasks, tokenizer, max_length=32, split="train")[0]
    return copy.copy(built_features[key])


@pytest.fixture
def trainer_of(model, features, tokenizer, tmp_path):
    """Builds a Trainer on the eight rows; keyword arguments are training arguments."""

    def build(*, of: MTSBertModel = model, train_dataset=features, eval_dataset=None, **arguments) -> MTSBertTrainer:
        settings = {
            "output_dir": str(tmp_path / "run"),
            "precision": "fp32",
            "per_device_train_batch_size": 8,
            "num_train_epochs": 1,
            "learning_rate": 1e-2,
            "save_strategy": "no",
            "disable_tqdm": True,
            "logging_steps": 1,
            "train_sampling_strategy": "sequential",
            **arguments,
        }
        set_seed(3)
        return MTSBertTrainer(
            of,
            MTLTrainingArguments(**settings),
            processing_class=tokenizer,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
        )

    return build


@pytest.fixture
def warm_runs(warm_python, monkeypatch):
    """Has `mtsbert.runs.run_once` start its processes warm."""

    def run(command: list[str], *, stdout, stderr, env: dict[str, str]):
        assert stderr == subprocess.STDOUT
        done = warm_python.run(*command[1:], variables=env)
        stdout.write(done.stdout + done.stderr)
        return done

    monkeypatch.setattr("mtsbert.runs.subprocess", SimpleNamespace(run=run, STDOUT=subprocess.STDOUT))


@pytest.fixture
def shallow_model(model_on):
    """A model with one layer. Each layer takes the exporters a second or two."""
    return model_on(BertConfig(**{**SMALL, "num_hidden_layers": 1}, max_position_embeddings=64)).eval()


@pytest.fixture
def model_on(tokenizer, tasks, tmp_path):
    """A model on an encoder with random weights."""

    def build(config) -> MTSBertModel:
        config.vocab_size = len(tokenizer)
        set_seed(0)
        AutoModel.from_config(config).save_pretrained(tmp_path / "encoder")
        return MTSBertModel.from_encoder(str(tmp_path / "encoder"), tasks=tasks)

    return build
