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


def read_with_map(write, labels: list, names: dict, task: dict | None = None) -> list:
    rows = [{"text": f"text {row}", "mood": label} for row, label in enumerate(labels)]
    spec = {"path": write("mapped.jsonl", rows), "label_map": {"mood": names}}
    task = task or {"type": "sequence_classification"}
    return load_data({"a": spec}, {"mood": task}).examples["train"]["mood"][:]


@pytest.mark.parametrize(
    ("labels", "names", "read"),
    [
        ([1.0, 2.0, None], {"1": "neg", "2": "pos"}, ["neg", "pos", None]),
        (["1", "2.0"], {"1.0": "neg", "2": "pos"}, ["neg", "pos"]),
        ([True, False], {"true": "spam", "false": "ham"}, ["spam", "ham"]),
        (["a", "unknown ", "unknown", "b"], {"unknown": None}, ["a", None, None, "b"]),
        (["a", "cafe\u0301", "caf\u00e9", "b"], {"caf\u00e9": "x"}, ["a", "x", "x", "b"]),
        (["Sci  Tech", "World"], {"Sci Tech": "Tech", "World": "Sports"}, ["Tech", "Sports"]),
        (["a", "b", "a"], {"a": "b", "b": "a"}, ["b", "a", "b"]),
        (["us", "US"], {"US": "country"}, ["us", "country"]),
        (["01", "1"], {"01": "first", "1": "one"}, ["first", "one"]),
    ],
    ids=str,
)
def test_labels_are_renamed_however_they_are_written(write, caplog, labels, names, read):
    assert read_with_map(write, labels, names) == read
    assert "label_map" not in caplog.text


def test_several_labels_and_probabilities_are_renamed_however_they_are_written(write):
    assert read_with_map(write, [["war ", "spy"], ["spy"]], {"war": "drama", "spy": "comedy"}, KINDS["kind"]) == [
        ["drama", "comedy"],
        ["comedy"],
    ]
    soft = {"type": "sequence_classification", "soft_labels": True}
    shares = ['{"1.0": 0.25, "2": 0.75}', "2.0"]
    assert read_with_map(write, shares, {"1": "neg", "2": "pos"}, soft) == [
        [{"label": "neg", "probability": 0.25}, {"label": "pos", "probability": 0.75}],
        [{"label": "pos", "probability": 1.0}],
    ]


def test_entity_types_are_renamed_however_they_are_written(write):
    spans = [{"start": 0, "end": 4, "label": "GPE "}, {"start": 5, "end": 8, "label": "PERSON"}]
    path = write("a.jsonl", [{"text": "Oslo Ada", "ner": spans}])
    data = load_data({"a": {"path": path, "label_map": {"ner": {"GPE": None}}}}, {"ner": "token_classification"})
    assert labels(data.examples["train"]) == [["PERSON"]]


def test_declared_labels_are_renamed_however_they_are_written():
    features = Features({"text": Value("string"), "mood": ClassLabel(names=["neg ", "pos", "unclear"])})
    rows = Dataset.from_dict({"text": ["a", "b"], "mood": [0, 1]}, features=features)
    spec = {"dataset": {"train": rows}, "label_map": {"mood": {"neg": "bad", "pos": "good", "unclear": None}}}
    data = load_data({"a": spec}, {"mood": "sequence_classification"})
    assert data.tasks["mood"]["labels"] == ["bad", "good"]
    assert data.examples["train"]["mood"][:] == ["bad", "good"]


def test_names_in_a_label_map_that_no_label_has_are_warned_of(write, caplog):
    assert read_with_map(write, ["Sports", "World"], {"Sprots": None, "World": "News"}) == ["Sports", "News"]
    (warning,) = [record.message for record in caplog.records if "label_map" in record.message]
    assert "Dataset 'a': 'label_map' of 'mood' names ['Sprots'], which are no labels of the rows" in warning
    assert "they have ['Sports', 'World']" in warning


def test_a_name_in_a_label_map_may_be_a_label_of_one_split_alone(write, caplog):
    files = {
        split: write(f"{split}.jsonl", [{"text": f"a {label}", "mood": label} for label in of_split])
        for split, of_split in {"train": ["a", "b"], "test": ["a", "c"]}.items()
    }
    spec = {"files": files, "label_map": {"mood": {"c": "b"}}}
    data = load_data({"a": spec}, {"mood": "sequence_classification"})
    assert data.examples["test"]["mood"][:] == ["a", "b"]
    assert "label_map" not in caplog.text


def test_a_label_that_a_label_map_may_mean_or_not_is_named(write):
    message = r"Dataset 'a', 'label_map' of 'mood': the data has the label '01', and '1' may be the same or not"
    with pytest.raises(ValueError, match=message):
        read_with_map(write, ["01", "2"], {"1": "one"})


def test_a_pair_whose_label_is_none_in_a_label_map_needs_no_second_text(write):
    rows = [{"text": "a", "text_pair": None, "nli": "-"}, {"text": "b", "text_pair": "c", "nli": "yes"}]
    spec = {"path": write("pairs.jsonl", rows), "label_map": {"nli": {"-": None}}}
    tasks = {"nli": {"type": "pair_classification", "labels": ["no", "yes"]}}
    assert load_data({"a": spec}, tasks).examples["train"]["nli"][:] == [None, "yes"]


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
