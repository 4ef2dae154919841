"""Tests that features which were made for another model are refused, however their rows were chosen since."""

import pytest
from datasets import Dataset, concatenate_datasets, load_from_disk

from modeling_mtsbert import MTSBertModel
from mtsbert import MTLTrainingArguments, MTSBertTrainer, load_data
from mtsbert.letter_case.tokenizer import with_letter_case


TYPES = {"topic": "sequence_classification", "ner": "token_classification"}


@pytest.fixture
def rows(examples) -> Dataset:
    return Dataset.from_list(examples)


@pytest.fixture
def trainer_on(encoder_folder, tokenizer, tmp_path):
    """Builds a Trainer for tasks on an encoder of 64 positions."""

    def build(tasks: dict, train_dataset: Dataset, **config) -> MTSBertTrainer:
        model = MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks, **config)
        settings = {"precision": "fp32", "max_steps": 1, "save_strategy": "no", "disable_tqdm": True}
        args = MTLTrainingArguments(str(tmp_path / "run"), **settings)
        return MTSBertTrainer(model, args, processing_class=tokenizer, train_dataset=train_dataset)

    return build


def reversed_labels(tasks: dict[str, dict], name: str) -> dict[str, dict]:
    labels = tasks[name]["labels"]
    return tasks | {name: tasks[name] | {"labels": [*labels[:1], *labels[:0:-1]] if name == "ner" else labels[::-1]}}


@pytest.mark.parametrize("name", ["topic", "ner"])
def test_ids_of_labels_in_another_order_are_refused(rows, trainer_on, tokenizer, name):
    data = load_data(rows, TYPES, tokenizer, max_length=32)
    other = reversed_labels(data.tasks, name)
    assert other != data.tasks
    with pytest.raises(ValueError, match=rf"`train_dataset` has ids of task '{name}' .*checkpoint_tasks=model.config"):
        trainer_on(other, data["train"])
    trainer = trainer_on(other, load_data(rows, TYPES, tokenizer, max_length=32, checkpoint_tasks=other)["train"])
    assert trainer.train_dataset[name][:] == trainer_on(other, rows).train_dataset[name][:]
    with pytest.raises(ValueError, match=rf"`eval_dataset` has ids of task '{name}'"):
        trainer.evaluate(data["train"])
    with pytest.raises(ValueError, match=rf"`test_dataset` has ids of task '{name}'"):
        trainer.predict(data["train"])


@pytest.mark.parametrize("task", [{"multi_label": True}, {"soft_labels": True}])
def test_numbers_for_other_labels_of_a_text_are_refused(trainer_on, tokenizer, task):
    def tags(*labels: str):
        of_row = list(labels) if "multi_label" in task else dict.fromkeys(labels, 1 / len(labels))
        return Dataset.from_list([{"text": "Oil rises", "tags": of_row}, {"text": "Lima wins", "tags": of_row}])

    asked = {"tags": {"type": "sequence_classification", **task}}
    few, more = (load_data(tags(*labels), asked, tokenizer, max_length=32) for labels in (["b", "c"], ["a", "b", "c"]))
    assert trainer_on(more.tasks, more["train"]).train_dataset is more["train"]
    with pytest.raises(ValueError, match=r"ids of task 'tags' .*\['b', 'c'\].*\['a', 'b', 'c'\]"):
        trainer_on(more.tasks, few["train"])


@pytest.mark.parametrize(
    "change",
    [
        lambda features, folder: features.select(range(4)),
        lambda features, folder: features.shuffle(seed=0),
        lambda features, folder: features.filter(lambda row: row["length"] > 2),
        lambda features, folder: features.map(lambda row: {"length": row["length"]}),
        lambda features, folder: features.save_to_disk(folder) or load_from_disk(folder),
        lambda features, folder: concatenate_datasets([features, features.select(range(2))]),
        lambda features, folder: features.train_test_split(test_size=2, seed=0)["train"],
    ],
)
def test_features_remember_what_they_were_made_for(rows, trainer_on, tokenizer, tmp_path, change):
    data = load_data(rows, TYPES, tokenizer, max_length=32)
    features = change(data["train"], str(tmp_path / "features"))
    assert trainer_on(data.tasks, features).train_dataset is features
    with pytest.raises(ValueError, match="has ids of task 'topic'"):
        trainer_on(reversed_labels(data.tasks, "topic"), features)


def test_two_kinds_of_features_do_not_mix(rows, trainer_on, tokenizer):
    one = load_data(rows, TYPES, tokenizer, max_length=32)
    other = load_data(rows, TYPES, tokenizer, max_length=32, checkpoint_tasks=reversed_labels(one.tasks, "topic"))
    with pytest.raises(ValueError, match="has ids of task 'topic'"):
        trainer_on(one.tasks, concatenate_datasets([one["train"], other["train"]]))


def test_tokens_of_another_tokenizer_are_refused(rows, trainer_on, tokenizer):
    data = load_data(rows, TYPES, tokenizer, max_length=32)
    with pytest.raises(ValueError, match=r"tokenized by another tokenizer .*`letter_case`"):
        trainer_on(data.tasks, data["train"], letter_case=True)
    cased = load_data(rows, TYPES, with_letter_case(tokenizer), max_length=32)
    assert cased["train"]["input_ids"][:] != data["train"]["input_ids"][:]
    trainer = trainer_on(data.tasks, cased["train"], letter_case=True)
    assert trainer.train_dataset is cased["train"]
    assert (
        trainer_on(data.tasks, rows, letter_case=True).train_dataset["input_ids"][:] == cased["train"]["input_ids"][:]
    )


def test_features_longer_than_the_encoder_reads_are_refused(rows, trainer_on, tokenizer):
    data = load_data(rows, TYPES, tokenizer)  # up to 128 tokens, of which none of these texts has 64
    assert trainer_on(data.tasks, data["train"]).train_dataset is data["train"]
    long = rows.map(lambda row: {"text": row["text"] + " and on" * 40})
    with pytest.raises(
        ValueError, match=r"texts of more tokens than the 64 that the encoder reads: .*`max_length` of 64"
    ):
        trainer_on(data.tasks, load_data(long, TYPES, tokenizer)["train"])
    cut = load_data(long, TYPES, tokenizer, max_length=64)
    assert trainer_on(data.tasks, cut["train"]).train_dataset is cut["train"]
