"""Tests datasets with label sets of their own, and datasets whose labels people made."""

import json

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from mtsbert.data.loading import load_data
from mtsbert.results.provenance import DatasetOrigin, _without_gold


TASKS = {
    "topic": {"type": "sequence_classification", "labels": ["World", "Sports"]},
    "ner": {"type": "token_classification"},
}
KINDS = {"kind": {"type": "sequence_classification", "multi_label": True, "labels": ["drama", "comedy"]}}
COARSE = {"PERSON": "PER", "GPE": "LOC", "DATE": None}


def row(text: str, topic: str | None = None, **names: str | None) -> dict:
    """A row with an entity for every word that is named."""
    spans = [{"start": text.index(word), "end": text.index(word) + len(word), "label": names[word]} for word in names]
    return {"text": text, "topic": topic, "ner": spans or None}


@pytest.fixture
def write(tmp_path):
    def _write(name: str, rows: list[dict]) -> str:
        path = tmp_path / name
        path.write_text("\n".join(map(json.dumps, rows)))
        return str(path)

    return _write


@pytest.fixture
def specs(write) -> dict[str, dict]:
    silver = [row("Ada left Oslo on Monday", "World", Ada="PERSON", Oslo="GPE", Monday="DATE")]
    gold = [row("Bob saw Lima", Bob="PER", Lima="LOC")]
    return {
        "news": {
            "files": {"train": write("s.jsonl", silver), "validation": write("sv.jsonl", silver * 2)},
            "label_map": {"ner": COARSE},
        },
        "marked": {"files": {"train": write("g.jsonl", gold), "validation": write("gv.jsonl", gold)}, "gold": True},
    }


def labels(rows: Dataset) -> list[list | None]:
    return [None if spans is None else [span["label"] for span in spans] for spans in rows["ner"]]


def test_labels_get_the_names_of_the_task(specs):
    data = load_data(specs, TASKS)
    assert data.tasks["ner"]["labels"] == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert labels(data.examples["train"]) == [["PER", "LOC"], ["PER", "LOC"]]  # Monday is no entity


def test_labels_of_texts_and_declared_labels_are_renamed(write):
    names = ClassLabel(names=["neg", "pos", "unclear"])
    rows = Dataset.from_dict({"text": ["a", "b", "c"], "mood": [0, 1, 2]}).cast(
        Features({"text": Value("string"), "mood": names})
    )
    path = write("rows.parquet", [])
    rows.to_parquet(path)
    of_map = {"mood": {"neg": "bad", "pos": "good", "unclear": None}}
    data = load_data({"a": {"path": path, "label_map": of_map}}, {"mood": "sequence_classification"})
    assert data.tasks["mood"]["labels"] == ["bad", "good"]
    assert data.examples["train"]["mood"][:] == ["bad", "good", None]


def test_two_labels_that_become_one_are_one(write):
    path = write("a.jsonl", [{"text": "x", "kind": ["war", "spy", "odd"]}, {"text": "y", "kind": ["odd"]}])
    spec = {"path": path, "label_map": {"kind": {"war": "drama", "spy": "drama", "odd": None}}}
    data = load_data({"a": spec}, KINDS)
    assert data.examples["train"]["kind"][:] == [["drama"], []]


def test_spans_whose_label_is_not_known_stay_open(write):
    path = write("a.jsonl", [row("Ada left Oslo", Ada="PERSON", Oslo=None)])
    data = load_data({"a": {"path": path, "label_map": {"ner": COARSE}}}, {"ner": "token_classification"})
    assert labels(data.examples["train"]) == [["PER", None]]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"label_map": ["ner"]}, "'label_map' maps tasks to mappings of labels"),
        ({"label_map": {"nre": {"A": "B"}}}, r"'label_map' names 'nre'; .* are \['topic', 'ner'\]"),
        ({"label_map": {"ner": {"A": 1}}}, "'label_map' of 'ner' is"),
        ({"label_map": {"ner": {"A": ""}}}, "'label_map' of 'ner' is"),
        ({"label_map": {"ner": {"A": "B"}}, "columns": {"text": "text", "topic": "topic"}}, "the dataset feeds"),
        ({"label_map": {"ner": {"B-GPE": "LOC"}}}, r"has the tags \['B-GPE'\]; it maps entity types"),
        ({"label_map": {"ner": {"GPE": "O"}}}, r"has the tags \['O'\]; it maps entity types, to null for none"),
        ({"gold": "yes"}, "'gold' is 'yes'; it must be true or false"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(write, keys, message):
    path = write("a.jsonl", [row("Ada left", "World", Ada="PERSON")])
    other = {"path": path}  # feeds all tasks
    with pytest.raises(ValueError, match=rf"Dataset 'a'.*{message}"):
        load_data({"a": {"path": path, **keys}, "b": other}, TASKS)


def test_gold_rows_decide_for_the_tasks_that_they_label(specs):
    validation = load_data(specs, TASKS).examples["validation"]
    assert labels(validation) == [None, None, ["PER", "LOC"]]
    assert validation["topic"][:] == ["World", "World", None]  # nobody marked topics


def test_rows_decide_as_before_without_gold_ones(specs):
    del specs["marked"]["gold"]
    assert labels(load_data(specs, TASKS).examples["validation"]) == [["PER", "LOC"]] * 3


def test_gold_training_rows_alone_decide_nothing(specs, write):
    specs["marked"]["files"]["validation"] = write("u.jsonl", [row("No name here", "World")])
    assert labels(load_data(specs, TASKS).examples["validation"]) == [["PER", "LOC"]] * 2 + [None]


def test_gold_without_validation_rows_is_told(specs, caplog):
    del specs["marked"]["files"]["validation"]
    assert labels(load_data(specs, TASKS).examples["validation"]) == [["PER", "LOC"]] * 2
    assert "Dataset 'marked' is `gold`, and has no labelled validation rows" in caplog.text


def test_machine_made_labels_that_gold_replaces_are_not_said_to_be_scored(specs):
    data = load_data(specs, TASKS)
    assert data.of_gold == ["ner"]
    origin = DatasetOrigin("news", "x", machine_labelled={"ner": ["train", "validation"], "other": ["validation"]})
    assert _without_gold(origin, data.of_gold).machine_labelled == {"ner": ["train"], "other": ["validation"]}
