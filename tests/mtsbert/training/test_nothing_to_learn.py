"""Tests that a run which could learn nothing is refused before its first step."""

import pytest
from datasets import Dataset

from modeling_mtsbert import MTSBertModel
from mtsbert import MTLTrainingArguments, MTSBertTrainer


PAIRS = [
    {"text": "Oslo wins", "text_pair": "Lima loses", "text_negative": "Shares rise", "near": 3.0},
    {"text": "The final ends", "text_pair": "The race", "text_negative": "Oil rises", "near": 1.0},
]
RANKING = {"fits": {"type": "pair_ranking"}}
COSENT = {"near": {"type": "pair_similarity", "score_range": [0, 5], "loss": "cosent"}}
COSINE = {"near": {"type": "pair_similarity", "score_range": [0, 5]}}
ONE_ROW = {"per_device_train_batch_size": 1}


@pytest.fixture
def train(encoder_folder, tokenizer, tmp_path):
    def train(tasks: dict, *columns: str, **settings) -> float:
        """Trains on the pairs, and returns by how much a weight has moved."""
        model = MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks)
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        settings = {"precision": "fp32", "max_steps": 2, "learning_rate": 1e-3, "save_strategy": "no", **settings}
        args = MTLTrainingArguments(str(tmp_path / "run"), disable_tqdm=True, **settings)
        rows = Dataset.from_list(PAIRS).select_columns(["text", "text_pair", *columns])
        MTSBertTrainer(model, args, processing_class=tokenizer, train_dataset=rows).train()
        return max((weight - before[name]).abs().max().item() for name, weight in model.state_dict().items())

    return train


@pytest.mark.parametrize(
    ("tasks", "columns"), [(RANKING, []), (COSENT, ["near"]), ({**COSENT, **RANKING}, ["near"])], ids=str
)
def test_pairs_that_are_compared_need_others_beside_them(train, tasks, columns):
    with pytest.raises(
        ValueError, match=r"Task '\w+' compares the pairs of a step with each other, and a step has one"
    ):
        train(tasks, *columns, **ONE_ROW)


@pytest.mark.parametrize(
    ("tasks", "columns", "settings"),
    [
        (RANKING, [], {"per_device_train_batch_size": 2}),
        (RANKING, [], ONE_ROW | {"gradient_accumulation_steps": 2}),  # which makes one step of two rows
        (RANKING, ["text_negative"], ONE_ROW),
        (COSENT, ["near"], {"per_device_train_batch_size": 2}),
        (COSINE, ["near"], ONE_ROW),
    ],
    ids=str,
)
def test_with_something_to_compare_with_they_are_learned(train, tasks, columns, settings):
    assert train(tasks, *columns, **settings) > 1e-4


def test_tasks_that_weigh_nothing_teach_nothing(train):
    with pytest.raises(ValueError, match="`task_weights` are 0 for all tasks, so there is nothing to learn"):
        train(COSINE, "near", task_weights={"near": 0})
    assert train(COSINE, "near", task_weights={"near": 0}, embedding_distillation=1.0) > 0.0
