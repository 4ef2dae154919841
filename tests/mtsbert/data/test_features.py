"""Tests tokenized rows and padded batches by comparing whole tensors."""

import copy
import logging

import pytest
import torch
from datasets import Dataset

from entities_mtsbert import IGNORE_INDEX
from mtsbert import MTLTrainingArguments, MTSBertTrainer
from mtsbert.data.collator import MultiTaskCollator
from mtsbert.data.features import _tokenize, build_features
from mtsbert.data.labels import _labels_of
from mtsbert.data.loading import load_recipe_data
from mtsbert.input_arguments import DataArguments
from tests.mtsbert.rows import examples_of


X = IGNORE_INDEX


def test_rows_become_ids_and_labels(tokenizer, tasks):
    rows = [
        {"text": "Nimbus Labs in Oslo", "topic": "Sports", "ner": [{"start": 0, "end": 11, "label": "ORG"}]},
        {"text": "Oslo", "topic": None, "ner": None},
        {"text": "Lima"},
    ]
    features = build_features(examples_of(rows, tasks), tasks, tokenizer, max_length=16, split="train")[0]
    pieces = tokenizer.tokenize("Nimbus Labs in Oslo")
    inside = len(tokenizer.tokenize("Nimbus Labs"))
    org = tasks["ner"]["labels"].index("B-ORG")
    assert features[0]["input_ids"] == tokenizer("Nimbus Labs in Oslo")["input_ids"]
    assert features[0]["ner"] == [X, org, *[org + 1] * (inside - 1), *[0] * (len(pieces) - inside), X]
    assert features["topic"][:] == [1, X, X]
    assert features[1]["ner"] == features[2]["ner"] == [X] * 3
    assert features["length"][:] == [len(pieces) + 2, 3, 3]


def test_what_is_cut_or_does_not_align_is_reported_once(tokenizer, tasks, caplog):
    caplog.set_level(logging.WARNING)
    cut = {
        "text": "Oslo " * 20,
        "ner": [{"start": 0, "end": 4, "label": "GPE"}, {"start": 95, "end": 99, "label": "GPE"}],
    }
    crooked = {"text": "Oslo", "ner": [{"start": 0, "end": 1, "label": "GPE"}]}
    features = build_features(examples_of([cut, crooked], tasks), tasks, tokenizer, max_length=8, split="train")[0]
    assert [record.getMessage() for record in caplog.records] == [
        "train: 1 of 2 rows are longer than `max_length`: cut.",
        "train: of 3 ner entities, 1 were cut off and 1 begin or end inside a word piece; "
        "they are neither learned nor scored.",
    ]
    assert features[1]["ner"] == [X, X, X]
    assert len(features[0]["input_ids"]) == 8


def test_an_entity_without_a_label_is_left_open(tokenizer, tasks, caplog):
    caplog.set_level(logging.WARNING)
    spans = [{"start": 0, "end": 4, "label": None}, {"start": 10, "end": 14, "label": "GPE"}]
    rows = examples_of([{"text": "Oslo beat Lima", "ner": spans}], tasks)
    features, report = build_features(rows, tasks, tokenizer, max_length=16, split="train")
    assert report.entities["ner"].total == 1
    assert not caplog.records
    tags = features[0]["ner"]
    assert tags[:2] == [X, X]
    assert tags[-2] == tasks["ner"]["labels"].index("B-GPE" if len(tokenizer.tokenize("Lima")) == 1 else "I-GPE")
    assert _labels_of(rows[0]["ner"], tasks["ner"]) == {"GPE"}


def test_clean_rows_are_silent(tokenizer, tasks, examples, caplog):
    caplog.set_level(logging.WARNING)
    build_features(examples_of(examples, tasks), tasks, tokenizer, max_length=32, split="train")[0]
    assert not caplog.records


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_is_padded_and_has_labels_for_every_task(tokenizer, tasks, side, monkeypatch):
    monkeypatch.setattr(tokenizer, "padding_side", side)
    batch = MultiTaskCollator(tokenizer, tasks)(
        [
            {"input_ids": [2, 30, 3], "length": 3, "topic": 1, "ner": [X, 1, X]},
            {"input_ids": [2, 75, 20, 3], "length": 4, "topic": X, "ner": [X, 0, 0, X]},
        ]
    )

    def row(values: list[int], padding: int) -> list[int]:
        return [*values, padding] if side == "right" else [padding, *values]

    assert list(batch) == ["input_ids", "attention_mask", "labels"]
    assert batch["input_ids"].tolist() == [row([2, 30, 3], tokenizer.pad_token_id), [2, 75, 20, 3]]
    assert batch["attention_mask"].tolist() == [row([1, 1, 1], 0), [1, 1, 1, 1]]
    assert batch["labels"]["topic"].tolist() == [1, X]
    assert batch["labels"]["ner"].tolist() == [row([X, 1, X], X), [X, 0, 0, X]]
    assert batch["labels"]["ner"].dtype == torch.int64


def test_pairs_scores_and_several_labels(tokenizer):
    tasks = {
        "tags": {"type": "sequence_classification", "multi_label": True, "labels": ["x", "y", "z"]},
        "nli": {"type": "pair_classification", "labels": ["no", "yes"]},
        "sts": {"type": "pair_similarity", "score_range": [0, 5]},
    }
    rows = [
        {"text": "Oslo", "text_pair": "Lima hosts", "nli": "yes", "sts": None, "tags": ["x", "z"]},
        {"text": "Lima"},
        {"text": "Lima", "text_pair": "Oslo", "sts": 2.5, "tags": []},
    ]
    features = build_features(examples_of(rows, tasks), tasks, tokenizer, max_length=16, split="train")[0]
    oslo, lima, hosts = (tokenizer(text)["input_ids"] for text in ("Oslo", "Lima", "Lima hosts"))
    assert features["pair_input_ids"][:] == [hosts, [], oslo]
    assert features["length"][:] == [3 + len(hosts), 3, 6]
    batch = MultiTaskCollator(tokenizer, tasks)([features[row] for row in range(3)])
    pad = tokenizer.pad_token_id
    assert batch["input_ids"].tolist() == [oslo, lima, lima]
    assert batch["pair_input_ids"].tolist() == [row + [pad] * (len(hosts) - len(row)) for row in (hosts, [], oslo)]
    assert batch["pair_attention_mask"].sum(dim=1).tolist() == [len(hosts), 0, 3]
    assert batch["labels"]["tags"].tolist() == [[1, 0, 1], [X, X, X], [0, 0, 0]]
    assert batch["labels"]["nli"].tolist() == [1, X, X]
    assert batch["labels"]["sts"].isnan().tolist() == [True, True, False]
    assert batch["labels"]["sts"][2] == 2.5


def test_a_file_is_read_and_tokenized_once(tokenizer, tasks, tmp_path, monkeypatch):
    arguments = DataArguments(
        datasets={
            "news": {
                "files": {"train": str(tmp_path / "train.parquet")},
                "columns": {"text": "text", "label": "topic"},
            }
        },
        tasks={"topic": tasks["topic"]},
    )
    rows = Dataset.from_dict({"text": ["Lima wins", "Oil rises"] * 4, "label": ["Sports", "Business"] * 4})
    rows.to_parquet(tmp_path / "train.parquet")
    first = load_recipe_data(arguments, tokenizer, ["train"])
    calls = []
    monkeypatch.setattr("mtsbert.data.features._tokenize", lambda *args: calls.append(args) or _tokenize(*args))
    monkeypatch.setattr("mtsbert.data.examples._read_example", None)
    again = load_recipe_data(arguments, tokenizer, ["train"])
    assert not calls
    assert again.features["train"][:] == first.features["train"][:]
    assert again.examples["train"][:] == first.examples["train"][:]
    arguments.max_length = 3
    shorter = load_recipe_data(arguments, tokenizer, ["train"])
    assert len(calls) == 1
    assert shorter.features["train"]["length"][:] == [3] * 8
    assert all(shorter.tokenization["train"].cut)


def test_a_tokenizer_without_a_pad_token_is_refused_before_training(model, tokenizer, examples, tmp_path):
    without = copy.deepcopy(tokenizer)
    without.pad_token = None
    rows, arguments = Dataset.from_list(examples), MTLTrainingArguments(str(tmp_path), precision="fp32", max_steps=1)
    with pytest.raises(ValueError, match=r"has no pad token, .* Set `tokenizer.pad_token = \.\.\.` to any token"):
        MTSBertTrainer(model, arguments, train_dataset=rows, processing_class=without)
    without.pad_token = "[UNK]"
    trainer = MTSBertTrainer(model, arguments, train_dataset=rows, processing_class=without)
    assert trainer.train().global_step == 1
