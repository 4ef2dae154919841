"""Tests that each Parquet file gives its labels by its own names."""

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from mtsbert.data.examples import read_examples
from mtsbert.data.loading import load_data
from mtsbert.data.sources import open_datasets


TOPIC = {"label": {"type": "sequence_classification"}}
NER = {"ner": {"type": "token_classification"}}


def write(path, texts: list[str], labels: list[int], names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    Dataset.from_dict({"text": texts, "label": labels}, features=features).to_parquet(path)


def labels_of(folder, split: str, tasks: dict = TOPIC) -> list:
    (source,) = open_datasets({"news": {"path": str(folder)}}, tasks)
    return read_examples(source, split, tasks)[next(iter(tasks))][:]


def test_splits_may_name_their_labels_in_another_order(tmp_path):
    write(tmp_path / "train.parquet", ["good", "bad"], [1, 0], ["neg", "pos"])
    write(tmp_path / "validation.parquet", ["fine", "poor"], [0, 1], ["pos", "neg"])
    assert labels_of(tmp_path, "train") == ["pos", "neg"]
    assert labels_of(tmp_path, "validation") == ["pos", "neg"]
    data = load_data({"news": {"path": str(tmp_path)}}, TOPIC)
    assert data.tasks["label"]["labels"] == ["neg", "pos"]


def test_files_of_one_split_may_name_their_labels_in_another_order(tmp_path):
    write(tmp_path / "train-00000.parquet", ["good", "bad", "none"], [1, 0, -1], ["neg", "pos"])
    write(tmp_path / "train-00001.parquet", ["fine", "poor"], [0, 1], ["pos", "neg"])
    assert labels_of(tmp_path, "train") == ["pos", "neg", None, "pos", "neg"]


def test_tags_and_entities_too(tmp_path):
    for number, names in enumerate((["O", "B-A", "I-A"], ["B-A", "I-A", "O"])):
        features = Features({"text": List(Value("string")), "ner": List(ClassLabel(names=names))})
        rows = {"text": [["In", "Oslo"]], "ner": [[names.index("O"), names.index("B-A")]]}
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"train-{number}.parquet")
    assert labels_of(tmp_path, "train", NER) == [[{"start": 3, "end": 7, "label": "A"}]] * 2
    folder = tmp_path / "spans"
    folder.mkdir()
    for number, names in enumerate((["A", "B"], ["B", "A"])):
        span = {"start": Value("int32"), "end": Value("int32"), "label": ClassLabel(names=names)}
        rows = {"text": ["Oslo"], "ner": [[{"start": 0, "end": 4, "label": names.index("B")}]]}
        features = Features({"text": Value("string"), "ner": List(span)})
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"train-{number}.parquet")
    assert labels_of(folder, "train", NER) == [[{"start": 0, "end": 4, "label": "B"}]] * 2


def test_lists_of_labels_too(tmp_path):
    tasks = {"label": {"type": "sequence_classification", "multi_label": True}}
    for split, names in {"train": ["a", "b"], "test": ["b", "a"]}.items():
        features = Features({"text": Value("string"), "label": List(ClassLabel(names=names))})
        Dataset.from_dict({"text": ["x"], "label": [[1]]}, features=features).to_parquet(tmp_path / f"{split}.parquet")
    assert labels_of(tmp_path, "train", tasks) == [["b"]]
    assert labels_of(tmp_path, "test", tasks) == [["a"]]


def test_files_with_integers_of_another_width_are_joined(tmp_path):
    for number, kind in enumerate(("int32", "int64")):
        features = Features({"text": Value("string"), "label": Value(kind)})
        rows = Dataset.from_dict({"text": ["x"], "label": [number]}, features=features)
        rows.to_parquet(tmp_path / f"train-{number}.parquet")
    assert labels_of(tmp_path, "train") == ["0", "1"]


@pytest.mark.parametrize("folder", ["data[2024]", "what?", "a*b", ".hidden", "{x}", "10%", "a b"])
def test_paths_are_literal(tmp_path, folder):
    write(tmp_path / folder / "train.parquet", ["good", "bad"], [1, 0], ["neg", "pos"])
    assert labels_of(tmp_path / folder, "train") == ["pos", "neg"]
    assert labels_of(tmp_path / folder / "train.parquet", "train") == ["pos", "neg"]
    write(tmp_path / folder / "train.parquet", ["good", "bad"], [1, 0], ["no", "yes"])  # built again
    assert labels_of(tmp_path / folder, "train") == ["yes", "no"]
