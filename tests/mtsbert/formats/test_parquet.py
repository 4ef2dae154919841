"""Tests that each Parquet file gives its labels by its own names."""

import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, LargeList, List, Value

from mtsbert.data.examples import read_examples
from mtsbert.data.loading import load_data
from mtsbert.data.sources import open_datasets
from mtsbert.formats import parquet


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


@pytest.mark.parametrize("kinds", [(LargeList, LargeList), (List, LargeList), (LargeList, List)])
def test_files_may_name_their_labels_in_another_order_in_lists_of_any_kind(tmp_path, kinds):
    tags, labels, spans = {}, {}, {}
    for number, (kind, names) in enumerate(zip(kinds, (["a", "b"], ["b", "a"]), strict=True)):
        tags[number] = ["Oslo"], kind(ClassLabel(names=["O", *(f"B-{name}" for name in names)])), [2 - number]
        labels[number] = "x", kind(ClassLabel(names=names)), [names.index("b")]
        of_span = {"start": Value("int32"), "end": Value("int32"), "label": ClassLabel(names=names)}
        spans[number] = "Oslo", kind(of_span), [{"start": 0, "end": 4, "label": names.index("b")}]
    for name, files in {"tags": tags, "labels": labels, "spans": spans}.items():
        (tmp_path / name).mkdir()
        for number, (text, feature, value) in files.items():
            features = Features({"text": List(Value("string")) if name == "tags" else Value("string"), "x": feature})
            rows = Dataset.from_dict({"text": [text], "x": [value]}, features=features)
            rows.to_parquet(tmp_path / name / f"train-{number}.parquet")
    expected = [[{"start": 0, "end": 4, "label": "b"}]] * 2
    assert labels_of(tmp_path / "tags", "train", {"x": NER["ner"]}) == expected
    assert labels_of(tmp_path / "spans", "train", {"x": NER["ner"]}) == expected
    several = {"x": {"type": "sequence_classification", "multi_label": True}}
    assert labels_of(tmp_path / "labels", "train", several) == [["b"]] * 2


def test_names_of_labels_that_would_be_lost_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_named", lambda feature: feature)  # as if it did not know the kind of a list
    for number, names in enumerate((["a", "b"], ["b", "a"])):
        features = Features({"text": Value("string"), "label": LargeList(ClassLabel(names=names))})
        rows = Dataset.from_dict({"text": ["x"], "label": [[1]]}, features=features)
        rows.to_parquet(tmp_path / f"train-{number}.parquet")
    with pytest.raises(ValueError, match=r"train-0.parquet: the names of labels in column 'label' would be lost"):
        labels_of(tmp_path, "train")


def test_files_with_integers_of_another_width_are_joined(tmp_path):
    for number, kind in enumerate(("int32", "int64")):
        features = Features({"text": Value("string"), "label": Value(kind)})
        rows = Dataset.from_dict({"text": ["x"], "label": [number]}, features=features)
        rows.to_parquet(tmp_path / f"train-{number}.parquet")
    assert labels_of(tmp_path, "train") == ["0", "1"]


def values_of(folder, *columns: pa.Array | None) -> list:
    """The labels of a split of several files, each with a column of labels, or none."""
    for number, column in enumerate(columns):
        texts = pa.array(["x"] * (1 if column is None else len(column)))
        table = pa.table({"text": texts} | ({} if column is None else {"label": column}))
        pq.write_table(table, folder / f"train-{number}.parquet")
    (source,) = open_datasets({"news": {"path": str(folder)}}, TOPIC)
    return source.splits["train"]["label"][:]


SPAN = {"start": 0, "end": 1, "label": "A"}


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        ([pa.array([1, 0]), pa.array([2.5, None])], [1.0, 0.0, 2.5, None]),
        ([pa.array([2.5]), pa.array([1])], [2.5, 1.0]),
        ([pa.array([1], pa.int8()), pa.array([300])], [1, 300]),
        ([pa.array([1.0], pa.float32()), pa.array([1e300])], [1.0, 1e300]),
        ([pa.array([None, None]), pa.array(["a"])], [None, None, "a"]),
        ([pa.array(["a"]), pa.array([None]), pa.array([None])], ["a", None, None]),
        ([None, pa.array(["a"])], [None, "a"]),
        ([pa.array(["a"]), None], ["a", None]),
        ([pa.array(["a"]), pa.array(["b"], pa.large_string())], ["a", "b"]),
        ([pa.array([[], None], pa.list_(pa.null())), pa.array([["a"]])], [[], None, ["a"]]),
        ([pa.array([[SPAN]]), pa.array([[SPAN | {"note": "x"}]])], [[SPAN | {"note": None}], [SPAN | {"note": "x"}]]),
        ([pa.array([True]), pa.array([None]), pa.array([False])], [True, None, False]),
    ],
)
def test_files_of_one_split_are_joined_in_a_type_that_holds_the_values_of_all(tmp_path, columns, values):
    found = values_of(tmp_path, *columns)
    assert found == values
    assert list(map(type, found)) == list(map(type, values))


@pytest.mark.parametrize(
    ("columns", "types"),
    [
        ([pa.array([True]), pa.array([2])], ("bool", "int64")),
        ([pa.array([1]), pa.array([True])], ("int64", "bool")),
        ([pa.array(["a"]), pa.array([1])], ("string", "int64")),
        ([pa.array([1]), pa.array(["1"])], ("int64", "string")),
        ([pa.array([True]), pa.array(["yes"])], ("bool", "string")),
        ([pa.array([1]), pa.array([[1]])], ("int64", "list<item: int64>")),
        ([pa.array([[1]]), pa.array([["a"]])], ("list<item: int64>", "list<item: string>")),
        ([pa.array([datetime.date(2026, 1, 1)]), pa.array(["2026"])], (r"date32\[day\]", "string")),
    ],
)
def test_types_in_the_files_of_one_split_that_do_not_go_together_are_named(tmp_path, columns, types):
    message = (
        rf"Dataset 'news': .*, and column 'label' is {types[0]} in \S*train-0.parquet and {types[1]} in "
        r"\S*train-1.parquet. Write it alike"
    )
    with pytest.raises(ValueError, match=message):
        values_of(tmp_path, *columns)


@pytest.mark.parametrize(
    "columns",
    [[pa.array([2**53 + 1]), pa.array([2.5])], [pa.array([2**64 - 1], pa.uint64()), pa.array([-1])]],
    ids=["float64", "int64"],
)
def test_a_number_that_would_not_stay_the_same_is_named_with_its_file(tmp_path, columns):
    with pytest.raises(ValueError, match=r"train-0.parquet: column 'label' cannot be read as in the other files"):
        values_of(tmp_path, *columns)


@pytest.mark.parametrize("is_first", [True, False])
def test_ids_of_classes_and_plain_numbers_are_not_joined(tmp_path, is_first):
    write(tmp_path / f"train-{0 if is_first else 1}.parquet", ["good"], [1], ["1", "2"])
    table = pa.table({"text": ["bad"], "label": [1]})
    pq.write_table(table, tmp_path / f"train-{1 if is_first else 0}.parquet")
    types = ("ClassLabel", "int64") if is_first else ("int64", "ClassLabel")
    message = rf"column 'label' is {types[0]} in \S*train-0.parquet and {types[1]} in \S*train-1.parquet"
    with pytest.raises(ValueError, match=message):
        labels_of(tmp_path, "train")


def test_names_of_classes_are_joined_with_names(tmp_path):
    write(tmp_path / "train-0.parquet", ["good", "none"], [1, -1], ["neg", "pos"])
    pq.write_table(pa.table({"text": ["bad"], "label": ["neg"]}), tmp_path / "train-1.parquet")
    assert labels_of(tmp_path, "train") == ["pos", None, "neg"]


def test_classes_keep_their_order_where_other_files_have_no_label(tmp_path):
    write(tmp_path / "train-0.parquet", ["good", "bad"], [0, 1], ["pos", "neg"])
    pq.write_table(pa.table({"text": ["a"], "label": pa.array([None])}), tmp_path / "train-1.parquet")
    pq.write_table(pa.table({"text": ["b"]}), tmp_path / "train-2.parquet")
    data = load_data({"news": {"path": str(tmp_path)}}, TOPIC)
    assert data.tasks["label"]["labels"] == ["pos", "neg"]
    assert data.examples["train"]["label"][:] == ["pos", "neg", None, None]


def test_a_column_that_a_file_of_a_split_lacks_is_warned_of_once(tmp_path, caplog):
    assert values_of(tmp_path, pa.array(["a"]), None, None) == ["a", None, None]
    (warning,) = [record.message for record in caplog.records if "no column" in record.message]
    assert warning.startswith("2 of 3 files of a split have no column 'label', ")
    assert "train-1.parquet among them: it is empty in their rows" in warning


@pytest.mark.parametrize("hidden", [".cache/train.parquet", "of/.b.partial/train.parquet", "._train.parquet"])
def test_hidden_copies_of_a_file_are_not_read(tmp_path, hidden):
    for path in (tmp_path / "train.parquet", tmp_path / hidden, tmp_path / "of" / "train-2.parquet"):
        write(path, ["good", "bad"], [1, 0], ["neg", "pos"])
    assert labels_of(tmp_path, "train") == ["pos", "neg"] * 2


@pytest.mark.parametrize("folder", ["data[2024]", "what?", "a*b", ".hidden", "{x}", "10%", "a b"])
def test_paths_are_literal(tmp_path, folder):
    write(tmp_path / folder / "train.parquet", ["good", "bad"], [1, 0], ["neg", "pos"])
    assert labels_of(tmp_path / folder, "train") == ["pos", "neg"]
    assert labels_of(tmp_path / folder / "train.parquet", "train") == ["pos", "neg"]
    write(tmp_path / folder / "train.parquet", ["good", "bad"], [1, 0], ["no", "yes"])  # built again
    assert labels_of(tmp_path / folder, "train") == ["yes", "no"]
