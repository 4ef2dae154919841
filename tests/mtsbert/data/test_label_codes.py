"""Tests values of labels that mean something else: flags instead of names, lists in cells, codes for no label."""

import logging

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from mtsbert import infer_tasks, load_data


TAGS = {"tags": {"type": "sequence_classification", "multi_label": True}}
TOPIC = {"topic": "sequence_classification"}
NAMED = {"topic": {"type": "sequence_classification", "labels": ["-1", "0", "1", "2"]}}


def tagged(*rows: list, kind=None) -> Dataset:
    features = None if kind is None else Features({"text": Value("string"), "tags": List(kind)})
    texts = [f"text {number}" for number in range(len(rows))]
    return Dataset.from_dict({"text": texts, "tags": list(rows)}, features=features)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tagged([1, 0, 0], [0, 1, 1]), r"\[1, 0, 0\] says yes or no for every label; a list of the labels' names"),
        (tagged([1.0, 0.0, 0.0]), r"\[1.0, 0.0, 0.0\] says yes or no"),
        (tagged([True, False, False]), r"\[True, False, False\] says yes or no"),
        (tagged(["no", "no", "yes"]), "says yes or no"),
        (tagged([1, 0, 0], kind=ClassLabel(names=["a", "b", "c"])), r"\[1, 0, 0\] says yes or no"),
        (tagged([1, 0], [0, 1]), r"its labels are \['0', '1'\]: do the lists say yes or no for every label"),
        (tagged([True, False]), r"its labels are \['False', 'True'\]: do the lists"),
    ],
)
def test_flags_for_every_label_are_no_names(data, message):
    with pytest.raises(ValueError, match=message):
        infer_tasks(data, TAGS)


def test_ids_and_names_are_read_as_before():
    assert infer_tasks(tagged([3, 0], [1], []), TAGS)["tags"]["labels"] == ["0", "1", "3"]
    assert infer_tasks(tagged(["drama", "drama"], ["war"]), TAGS)["tags"]["labels"] == ["drama", "war"]
    named = {"tags": TAGS["tags"] | {"labels": ["0", "1"]}}
    assert infer_tasks(tagged([1], [0, 1]), named)["tags"]["labels"] == ["0", "1"]
    of_ids = tagged([0, 1], [1], kind=ClassLabel(names=["a", "b"]))
    assert load_data(of_ids, TAGS).examples["train"]["tags"][:] == [["a", "b"], ["b"]]


def test_a_label_that_a_list_names_twice_counts_once(tmp_path):
    rows = tagged(["war", "drama", "war"], ["drama"])
    assert load_data(rows, TAGS).examples["train"]["tags"][:] == [["war", "drama"], ["drama"]]
    (tmp_path / "films.csv").write_text("text,tags\nOil rises,war;drama;war\n")
    cells = {"films": {"path": str(tmp_path / "films.csv"), "separator": ";"}}
    assert load_data(cells, TAGS).examples["train"]["tags"][:] == [["war", "drama"]]


@pytest.mark.parametrize("options", [{}, {"separator": "|"}, {"separator": ","}])
def test_a_cell_may_hold_a_list_in_json(tmp_path, options):
    path = tmp_path / "films.csv"
    path.write_text('text,tags\nOil rises,"[""drama"", ""war""]"\nLima wins,"[""war""]"\nOslo,[]\n')
    data = load_data({"films": {"path": str(path), **options}}, TAGS)
    assert data.tasks["tags"]["labels"] == ["drama", "war"]
    assert data.examples["train"]["tags"][:] == [["drama", "war"], ["war"], []]


@pytest.mark.parametrize("options", [{}, {"separator": "|"}, {"separator": ","}])
def test_a_list_as_python_prints_it_is_refused(tmp_path, options):
    path = tmp_path / "films.csv"
    path.write_text("text,tags\nOil rises,\"['drama', 'war']\"\n")
    with pytest.raises(ValueError, match=r"'tags': \"\['drama', 'war'\]\" is a list as Python prints it; write JSON"):
        load_data({"films": {"path": str(path), **options}}, TAGS)


def test_brackets_may_stand_in_names(tmp_path):
    path = tmp_path / "films.csv"
    path.write_text("text,tags\nOil rises,[a]|[b]\nLima wins,[b]\n")
    data = load_data({"films": {"path": str(path), "separator": "|"}}, TAGS)
    assert data.examples["train"]["tags"][:] == [["[a]", "[b]"], ["[b]"]]


def topics(*labels, kind=None) -> Dataset:
    features = None if kind is None else Features({"text": Value("string"), "topic": kind})
    texts = [f"text {number}" for number in range(len(labels))]
    return Dataset.from_dict({"text": texts, "topic": list(labels)}, features=features)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (topics(0, 1, 2, -1), "-1"),
        (topics("0", "1", "2", "-1"), "-1"),
        (topics(0, 1, -100), "-100"),
        (topics(0.0, 1.0, 2.0, -1.0), "-1"),
    ],
)
def test_a_code_for_no_label_is_not_learned(data, code):
    message = rf'{code} is among its labels .* often stands for no label. Then write null, .*"{code}": null'
    with pytest.raises(ValueError, match=message):
        infer_tasks(data, TOPIC)
    spec = {"news": {"dataset": {"train": data}, "label_map": {"topic": {code: None}}}}
    mapped = load_data(spec, TOPIC)
    assert code not in mapped.tasks["topic"]["labels"]
    assert mapped.examples["train"]["topic"][-1] is None


def test_minus_one_may_be_a_class(caplog):
    assert infer_tasks(topics(0, 1, 2, -1), NAMED)["topic"]["labels"] == ["-1", "0", "1", "2"]
    assert infer_tasks(topics(-2, -1, 0, 1, 2), TOPIC)["topic"]["labels"] == ["-2", "-1", "0", "1", "2"]
    assert infer_tasks(topics(-1, 2, 10), TOPIC)["topic"]["labels"] == ["-1", "2", "10"]
    assert not caplog.records
    with caplog.at_level(logging.WARNING):  # how a text sounds, or the two classes of a support vector machine
        assert infer_tasks(topics(-1, 0, 1), TOPIC)["topic"]["labels"] == ["-1", "0", "1"]
    assert "The label -1 is learned as a class. Where it says that there is no label, write null." in caplog.text
    unlabelled = topics(0, 1, -1, kind=ClassLabel(names=["a", "b"]))
    assert load_data(unlabelled, TOPIC).examples["train"]["topic"][:] == ["a", "b", None]
