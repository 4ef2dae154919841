"""Tests where the labels of a task come from: the recipe, a ClassLabel column, or the values in the data."""

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from mtsbert.data.labels import check_recipe_tasks, complete_tasks, merge_tasks
from mtsbert.data.sources import SourceDataset
from tests.mtsbert.rows import examples_of


SEQUENCE = {"topic": {"type": "sequence_classification"}}
TOKENS = {"ner": {"type": "token_classification"}}
ROWS = {
    "news": {
        "train": examples_of([{"text": "x", "topic": "b"}, {"text": "y", "topic": None}], SEQUENCE),
        "test": examples_of([{"text": "z", "topic": "a"}], SEQUENCE),
    }
}
OSLO = {"text": "Oslo", "ner": [{"start": 0, "end": 4, "label": "GPE"}]}
ENTITIES = {"news": {"train": examples_of([OSLO], TOKENS)}}


def declared(name: str, labels: list[str]) -> SourceDataset:
    rows = Dataset.from_dict(
        {"text": ["x"], "label": [0]}, features=Features({"text": Value("string"), "label": ClassLabel(names=labels)})
    )
    return SourceDataset(name, DatasetDict({"train": rows}), {"text": "text", "topic": "label"})


def test_labels_are_found_over_all_splits_and_sorted():
    assert complete_tasks(SEQUENCE, [], ROWS)["topic"]["labels"] == ["a", "b"]
    assert complete_tasks(TOKENS, [], ENTITIES)["ner"]["labels"] == ["O", "B-GPE", "I-GPE"]


def test_the_names_of_a_class_label_column_are_taken_in_their_order():
    tasks = complete_tasks(SEQUENCE, [declared("news", ["c", "b", "a"])], ROWS)
    assert tasks["topic"]["labels"] == ["c", "b", "a"]


def test_the_labels_of_the_recipe_win():
    recipe = {"topic": {**SEQUENCE["topic"], "labels": ["b", "a", "z"]}}
    assert complete_tasks(recipe, [declared("news", ["a", "b"])], ROWS)["topic"]["labels"] == ["b", "a", "z"]


def test_entity_types_or_their_tags_may_be_given():
    for labels in (["GPE", "ORG"], ["O", "B-GPE", "I-GPE", "B-ORG", "I-ORG"]):
        recipe = {"ner": {**TOKENS["ner"], "labels": labels}}
        assert complete_tasks(recipe, [], ENTITIES)["ner"]["labels"] == ["O", "B-GPE", "I-GPE", "B-ORG", "I-ORG"]


def test_datasets_that_declare_different_labels_are_named():
    with pytest.raises(ValueError, match=r"declare different labels for task 'topic': .*'one': \['a', 'b'\]"):
        complete_tasks(SEQUENCE, [declared("one", ["a", "b"]), declared("two", ["b", "a"])], ROWS)


def test_a_label_that_is_not_in_the_list_is_named_with_its_row():
    recipe = {"topic": {**SEQUENCE["topic"], "labels": ["b", "c"]}}
    with pytest.raises(
        ValueError, match=r"Row 0 of dataset 'news', split 'test': label 'a' is not one of task 'topic'"
    ):
        complete_tasks(recipe, [], ROWS)
    recipe = {"ner": {**TOKENS["ner"], "labels": ["ORG"]}}
    with pytest.raises(ValueError, match=r"label 'GPE' is not one of task 'ner', which has \['ORG'\]"):
        complete_tasks(recipe, [], ENTITIES)


def test_a_task_without_any_label_is_named():
    with pytest.raises(ValueError, match="Task 'topic' has no label in any row, and the recipe names none"):
        complete_tasks(SEQUENCE, [], {"news": {"train": examples_of([{"text": "x", "topic": None}], SEQUENCE)}})


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"text": SEQUENCE["topic"]}, "Task 'text': this name has a meaning of its own"),
        ({"topic": "sequence_classification"}, "Task 'topic': a task is a mapping with a 'type'"),
        ({"topic": {"type": "regression"}}, "with a 'type', one of"),
        ({"topic": {"type": "sequence_classification", "label": []}}, r"Task 'topic': unknown keys \['label'\]"),
    ],
)
def test_a_wrong_task_of_a_recipe_is_named(task, message):
    with pytest.raises(ValueError, match=message):
        check_recipe_tasks(task)


CHECKPOINT = {
    "topic": {"type": "sequence_classification", "labels": ["a", "b"], "label_smoothing": 0.1},
    "ner": {"type": "token_classification", "labels": ["O", "B-GPE", "I-GPE"]},
    "sts": {"type": "pair_similarity", "score_range": [0, 5]},
}


def test_a_recipe_adds_tasks_to_those_of_a_checkpoint_and_decides_about_smoothing():
    new = {"mood": {"type": "sequence_classification"}}
    recipe = {
        "topic": {"type": "sequence_classification", "class_weights": [1, 2]},
        "ner": {"type": "token_classification"},
    }
    merged = merge_tasks(recipe | new, CHECKPOINT)
    assert list(merged) == ["topic", "ner", "sts", "mood"]
    assert merged["topic"] == {"type": "sequence_classification", "labels": ["a", "b"], "class_weights": [1, 2]}
    assert merged["ner"] == CHECKPOINT["ner"]
    assert merge_tasks(recipe, {}) == recipe


def test_a_recipe_decides_about_the_loss_of_a_similarity():
    cosent = {"sts": {"type": "pair_similarity", "score_range": [0, 5], "loss": "cosent", "scale": 10}}
    assert merge_tasks(cosent, CHECKPOINT)["sts"] == cosent["sts"]
    assert merge_tasks({"sts": CHECKPOINT["sts"]}, cosent)["sts"] == CHECKPOINT["sts"]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            {"topic": {"type": "token_classification"}},
            "says type: token_classification, and the checkpoint was trained with",
        ),
        ({"topic": {"type": "sequence_classification", "labels": ["b", "a"]}}, r"says labels: \['b', 'a'\]"),
        ({"ner": {"type": "token_classification", "labels": ["ORG"]}}, "Task 'ner': the recipe says labels"),
        ({"sts": {"type": "pair_similarity", "score_range": [0, 1]}}, r"score_range: \[0, 1\], .* with \[0, 5\]"),
    ],
)
def test_a_recipe_that_contradicts_its_checkpoint_is_refused(task, message):
    with pytest.raises(ValueError, match=message):
        merge_tasks(task, CHECKPOINT)


def test_entity_types_may_stand_for_the_tags_of_a_checkpoint():
    task = {"ner": {"type": "token_classification", "labels": ["GPE"]}}
    assert merge_tasks(task, CHECKPOINT)["ner"] == CHECKPOINT["ner"]


def test_a_recipe_may_ask_for_another_least_score_than_its_checkpoint():
    checkpoint = {"ner": {**CHECKPOINT["ner"], "min_score": 0.5}}
    assert merge_tasks(TOKENS, checkpoint)["ner"]["min_score"] == 0.5
    assert merge_tasks({"ner": {**TOKENS["ner"], "min_score": 0.0}}, checkpoint)["ner"]["min_score"] == 0.0
