"""A Trainer on the eight rows of `tests/conftest.py`."""

import pytest
from transformers import set_seed

from modeling_mtsbert import MTSBertModel
from mtl.arguments import MTLTrainingArguments
from mtl.features import build_features
from mtl.trainer import MTSBertTrainer


@pytest.fixture
def features(examples, tasks, tokenizer):
    examples[1]["topic"] = None  # unequal numbers of labels in the micro-batches
    examples[2]["ner"] = None
    return build_features(examples, tasks, tokenizer, max_length=32, split="train")[0]


@pytest.fixture
def trainer_of(model, features, tokenizer, tmp_path):
    """Builds a Trainer on the eight rows; keyword arguments are training arguments."""

    def build(*, of: MTSBertModel = model, eval_dataset=None, dataset_names=("train",), **arguments) -> MTSBertTrainer:
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
            tokenizer,
            dataset_names=dataset_names,
            train_dataset=features,
            eval_dataset=eval_dataset,
        )

    return build
