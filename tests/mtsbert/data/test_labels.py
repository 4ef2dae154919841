"""Tests where the labels of a task come from: the recipe, a ClassLabel column, or the values in the data."""

import re

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from mtsbert.data.labels import check_recipe_tasks, complete_tasks, merge_tasks
from mtsbert.data.loading import load_data
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


def labelled(**splits: list) -> dict:
    """Split → labels of its rows, as the examples of a dataset called news."""
    return {
        "news": {
            split: examples_of([{"text": "x", "topic": label} for label in labels], SEQUENCE)
            for split, labels in splits.items()
        }
    }


def declared(name: str, labels: list[str]) -> SourceDataset:
    rows = Dataset.from_dict(
        {"text": ["x"], "label": [0]}, features=Features({"text": Value("string"), "label": ClassLabel(names=labels)})
    )
    return SourceDataset(name, DatasetDict({"train": rows}), {"text": "text", "topic": "label"})


def test_labels_are_those_of_the_training_rows_sorted():
    assert complete_tasks(SEQUENCE, [], labelled(train=["b", "a"]))["topic"]["labels"] == ["a", "b"]
    assert complete_tasks(SEQUENCE, [], labelled(test=["b", "a"]))["topic"]["labels"] == ["a", "b"]
    assert complete_tasks(TOKENS, [], ENTITIES)["ner"]["labels"] == ["O", "B-GPE", "I-GPE"]


def test_the_names_of_a_class_label_column_are_taken_in_their_order():
    tasks = complete_tasks(SEQUENCE, [declared("news", ["c", "b", "a"])], labelled(train=["a", "b"]))
    assert tasks["topic"]["labels"] == ["c", "b", "a"]


def test_the_labels_of_the_recipe_win():
    recipe = {"topic": {**SEQUENCE["topic"], "labels": ["b", "a", "z"]}}
    assert complete_tasks(recipe, [declared("news", ["a", "b"])], ROWS)["topic"]["labels"] == ["b", "a", "z"]


def test_entity_types_or_their_tags_may_be_given():
    for labels in (["GPE", "ORG"], ["O", "B-GPE", "I-GPE", "B-ORG", "I-ORG"]):
        recipe = {"ner": {**TOKENS["ner"], "labels": labels}}
        assert complete_tasks(recipe, [], ENTITIES)["ner"]["labels"] == ["O", "B-GPE", "I-GPE", "B-ORG", "I-ORG"]


def test_datasets_that_declare_different_labels_are_named():
    with pytest.raises(
        ValueError, match=r"Task 'topic': the datasets declare different labels: .*'one': \['a', 'b'\]"
    ):
        complete_tasks(SEQUENCE, [declared("one", ["a", "b"]), declared("two", ["b", "c"])], ROWS)


def test_datasets_that_declare_the_same_labels_in_another_order_agree():
    sources = [declared("one", ["b", "a"]), declared("two", ["a", "b"])]
    assert complete_tasks(SEQUENCE, sources, labelled(train=["a", "b"]))["topic"]["labels"] == ["b", "a"]


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
    with pytest.raises(ValueError, match="Task 'topic': no row has a label, and the recipe names none"):
        complete_tasks(SEQUENCE, [], {"news": {"train": examples_of([{"text": "x", "topic": None}], SEQUENCE)}})


@pytest.mark.parametrize(
    "labels", [[1, 2], [True, False], ["1", 2], ["1", None], ["1", ""], "ab", {"1": 0, "2": 1}, 2, [["a"]]], ids=str
)
def test_labels_that_are_no_list_of_texts_are_refused(labels):
    message = re.escape(f"Task 'topic': 'labels' is {labels!r}; it is a list of texts. In YAML, put numbers")
    for tasks in (SEQUENCE, {"topic": TOKENS["ner"]}):
        with pytest.raises(ValueError, match=message):
            check_recipe_tasks({"topic": {**tasks["topic"], "labels": labels}})


@pytest.mark.parametrize("labels", [["1", "2"], ("1", "2"), None, []], ids=str)
def test_labels_may_be_texts_or_left_to_the_data(labels):
    recipe = {"topic": {**SEQUENCE["topic"], "labels": labels}}
    check_recipe_tasks(recipe)
    assert complete_tasks(recipe, [], labelled(train=["2", "1"]))["topic"]["labels"] == ["1", "2"]


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


def test_a_checkpoint_that_is_only_evaluated_keeps_its_calibration_and_its_thresholds():
    tuned = {"platt": [0.9, 0.1], "thresholds": {"GPE": 0.4}}
    checkpoint = {"ner": {**CHECKPOINT["ner"], **tuned}}
    assert merge_tasks(TOKENS, checkpoint)["ner"] == checkpoint["ner"]
    own = {"ner": {**TOKENS["ner"], "thresholds": {}}}
    assert merge_tasks(own, checkpoint)["ner"] == {**checkpoint["ner"], "thresholds": {}}


@pytest.mark.parametrize(
    ("written", "labels", "read"),
    [
        ({"train": ["0", "1"], "validation": ["0.0", "1.0"]}, ["0", "1"], {"validation": ["0", "1"]}),
        ({"train": ["0.0", "1.0"], "validation": ["0", "1"]}, ["0.0", "1.0"], {"validation": ["0.0", "1.0"]}),
        ({"train": ["1", "1.0", "2"]}, ["1", "2"], {"train": ["1", "1", "2"]}),
        ({"train": ["pos", "neg"], "test": ["pos ", "\u00a0neg"]}, ["neg", "pos"], {"test": ["pos", "neg"]}),
        ({"train": ["True", "False"], "test": ["true", "FALSE"]}, ["False", "True"], {"test": ["True", "False"]}),
        ({"train": ["Sci/Tech", "a"], "test": ["Sci/Tech\ufeff"]}, ["Sci/Tech", "a"], {"test": ["Sci/Tech"]}),
        ({"train": ["caf\u00e9", "a"], "test": ["cafe\u0301"]}, ["a", "caf\u00e9"], {"test": ["caf\u00e9"]}),
        ({"train": ["two  words", "a"], "test": ["two words"]}, ["a", "two  words"], {"test": ["two  words"]}),
        ({"train": ["US", "us"]}, ["US", "us"], {"train": ["US", "us"]}),
    ],
)
def test_labels_that_differ_only_in_how_they_are_written_are_one(written, labels, read, caplog):
    examples = labelled(**written)
    assert complete_tasks(SEQUENCE, [], examples)["topic"]["labels"] == labels
    for split, expected in read.items():
        assert examples["news"][split]["topic"][:] == expected
    assert ("differ only in how they are written" in caplog.text) == any(
        read[split] != written[split] for split in read
    )


def test_labels_of_a_recipe_are_found_however_they_are_written():
    recipe = {"topic": {**SEQUENCE["topic"], "labels": ["1.0", "2.0"]}}
    examples = labelled(train=["1", "2.0"])
    assert complete_tasks(recipe, [], examples)["topic"]["labels"] == ["1.0", "2.0"]
    assert examples["news"]["train"]["topic"][:] == ["1.0", "2.0"]
    both = {"topic": {**SEQUENCE["topic"], "labels": ["1.0", "1"]}}
    examples = labelled(train=["1", "1.0"])
    assert complete_tasks(both, [], examples)["topic"]["labels"] == ["1.0", "1"]
    assert examples["news"]["train"]["topic"][:] == ["1", "1.0"]


def test_entity_types_that_differ_in_whitespace_are_one():
    spans = [{"start": 0, "end": 4, "label": "GPE "}]
    examples = ENTITIES["news"] | {"test": examples_of([{"text": "Oslo", "ner": spans}], TOKENS)}
    assert complete_tasks(TOKENS, [], {"news": examples})["ner"]["labels"] == ["O", "B-GPE", "I-GPE"]
    assert examples["test"]["ner"][0] == [{"start": 0, "end": 4, "label": "GPE"}]


@pytest.mark.parametrize("labels", [["01", "1"], ["1", "2", "02"]])
def test_numbers_that_may_be_the_same_label_or_not_are_named(labels):
    with pytest.raises(
        ValueError, match=r"Task 'topic': the data has the label '0\d', and '\d' may be the same or not"
    ):
        complete_tasks(SEQUENCE, [], labelled(train=labels))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_label_that_no_training_row_has_is_named_with_its_rows(split):
    examples = labelled(**{"train": ["a", "b"], split: ["a", "c", "b", "c"]})
    message = (
        f"Row 1 of dataset 'news', split '{split}': label 'c' of task 'topic' is in no training row.* So are rows 3."
    )
    with pytest.raises(ValueError, match=message):
        complete_tasks(SEQUENCE, [], examples)
    named = {"topic": {**SEQUENCE["topic"], "labels": ["a", "b", "c"]}}
    assert complete_tasks(named, [], examples)["topic"]["labels"] == ["a", "b", "c"]


def test_a_declared_label_or_an_entity_type_that_no_training_row_has_is_named():
    with pytest.raises(ValueError, match="label 'c' of task 'topic' is in no training row"):
        complete_tasks(SEQUENCE, [declared("news", ["a", "b", "c"])], labelled(train=["a", "b"], test=["c"]))
    with pytest.raises(ValueError, match=r"split 'test': label '2\.0' of task 'topic' is in no training row"):
        complete_tasks(SEQUENCE, [declared("news", ["1", "2"])], labelled(train=["1"], test=["2.0"]))
    spans = [{"start": 0, "end": 4, "label": "ORG"}]
    examples = ENTITIES["news"] | {"test": examples_of([{"text": "Oslo", "ner": spans}], TOKENS)}
    with pytest.raises(ValueError, match="split 'test': label 'ORG' of task 'ner' is in no training row"):
        complete_tasks(TOKENS, [], {"news": examples})


def test_a_row_with_a_label_that_cannot_be_learned_may_be_skipped():
    examples, skipped = labelled(train=["a", "b"], test=["a", "c"]), []
    complete_tasks(SEQUENCE, [], examples, skipped)
    assert examples["news"]["test"]["topic"][:] == ["a"]
    assert [(one.split, one.row) for one in skipped] == [("test", 1)]


@pytest.mark.parametrize("labels", [None, ["GPE"], ["O", "B-GPE", "I-GPE"]])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_entity_type_that_is_called_like_no_entity_is_named_with_its_row(split, labels):
    message = rf"Row 1 of dataset 'news', split '{split}': an entity has the type 'O', which stands for no entity"
    recipe = {"ner": {**TOKENS["ner"], **({"labels": labels} if labels else {})}}
    rows = [OSLO, {"text": "Oslo", "ner": [{"start": 0, "end": 4, "label": "O"}]}]
    examples = {"news": {"train": examples_of(rows[:1], TOKENS), split: examples_of(rows, TOKENS)}}
    with pytest.raises(ValueError, match=message):
        complete_tasks(recipe, [], examples)
    skipped = []
    tasks = complete_tasks(recipe, [], examples, skipped)
    assert tasks["ner"]["labels"] == ["O", "B-GPE", "I-GPE"]
    assert [one.row for one in skipped] == [1]


def test_a_tag_of_an_entity_type_that_is_called_like_no_entity_is_named_with_its_row():
    rows = Dataset.from_dict({"text": [["Oslo"], ["Oslo"]], "ner": [["B-GPE"], ["B-O"]]})
    with pytest.raises(ValueError, match="Row 1 of dataset 'data', split 'train': an entity has the type 'O'"):
        load_data(rows, TOKENS)


def test_a_task_whose_only_entity_type_is_called_like_no_entity_is_named():
    rows = [{"text": "Oslo", "ner": [{"start": 0, "end": 4, "label": "O"}]}]
    with pytest.raises(ValueError, match=r"Task 'ner': an entity has the type 'O'"):
        complete_tasks(TOKENS, [], {"news": {"train": examples_of(rows, TOKENS)}})


def test_a_sample_of_the_training_rows_may_lack_a_label():
    tasks = complete_tasks(SEQUENCE, [], labelled(train=["a"], test=["c"]), trains_on_sample=True)
    assert tasks["topic"]["labels"] == ["a", "c"]


def test_numbers_are_sorted_as_numbers():
    labels = [str(number) for number in range(12)]
    assert complete_tasks(SEQUENCE, [], labelled(train=labels[::-1]))["topic"]["labels"] == labels
    assert complete_tasks(SEQUENCE, [], labelled(train=["10", "-1", "2.0"]))["topic"]["labels"] == ["-1", "2.0", "10"]
    assert complete_tasks(SEQUENCE, [], labelled(train=["10", "2", "x"]))["topic"]["labels"] == ["10", "2", "x"]


def test_numbers_that_are_not_whole_are_no_labels_unless_the_recipe_names_them():
    prices = labelled(train=["10", "2.5", "-1"])
    with pytest.raises(
        ValueError, match=r"Task 'topic': its labels are numbers \(-1, 2\.5, 10\), .*'sequence_regression'"
    ):
        complete_tasks(SEQUENCE, [], prices)
    named = {"topic": SEQUENCE["topic"] | {"labels": ["2.5", "10", "-1"]}}
    assert complete_tasks(named, [], prices)["topic"]["labels"] == ["2.5", "10", "-1"]
    versions = ["1.5", "2.x"]
    assert complete_tasks(SEQUENCE, [], labelled(train=versions))["topic"]["labels"] == versions


def weighted(task: dict, weights, **more) -> dict:
    return {name: {**settings, "class_weights": weights, **more} for name, settings in task.items()}


def test_weights_by_position_need_an_order_of_the_labels():
    examples = labelled(train=["0", "1", "2"])
    with pytest.raises(
        ValueError, match=r"'class_weights' is a list, and the order .* comes from the data \(\['0', '1'"
    ):
        complete_tasks(weighted(SEQUENCE, [1, 2, 3]), [], examples)
    tasks = complete_tasks(weighted(SEQUENCE, [1, 2, 3], labels=["2", "1", "0"]), [], examples)
    assert tasks["topic"]["class_weights"] == [1, 2, 3]
    tasks = complete_tasks(weighted(SEQUENCE, [1, 2, 3]), [declared("news", ["2", "1", "0"])], examples)
    assert tasks["topic"]["labels"] == ["2", "1", "0"]


def test_weights_by_label_take_the_order_of_the_labels():
    tasks = complete_tasks(weighted(SEQUENCE, {"10": 3, 9: 2.5}), [], labelled(train=["10", "8", "9"]))
    assert tasks["topic"]["labels"] == ["8", "9", "10"]
    assert tasks["topic"]["class_weights"] == [1.0, 2.5, 3]
    with pytest.raises(ValueError, match=r"Task 'topic': 'class_weights' names \['z'\]; the labels are \['a', 'b'\]"):
        complete_tasks(weighted(SEQUENCE, {"z": 3}), [], labelled(train=["a", "b"]))


def test_weights_of_entity_types_are_those_of_their_tags():
    tasks = complete_tasks(weighted(TOKENS, {"GPE": 2, "O": 0.5, "I-GPE": 3}), [], ENTITIES)
    assert tasks["ner"]["class_weights"] == [0.5, 2, 3]


@pytest.mark.parametrize(
    ("tasks", "name"),
    [
        ({"a": "sequence_classification", "a_macro": "token_classification"}, "a_macro_f1"),
        ({"a": "pair_classification", "a_macro": "token_classification"}, "a_macro_f1"),
        ({"a_macro": "token_classification", "a": "sequence_classification"}, "a_macro_f1"),
    ],
)
def test_tasks_whose_results_would_have_the_same_name_are_refused(tasks, name):
    with pytest.raises(ValueError, match=f"'a.*' and 'a.*' would both report '{name}'; rename one"):
        check_recipe_tasks({task: {"type": kind} for task, kind in tasks.items()})
    check_recipe_tasks({"a": {"type": "sequence_classification"}, "macro_a": {"type": "token_classification"}})
