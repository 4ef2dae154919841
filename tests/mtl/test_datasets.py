"""Datasets of a recipe: every way in, and every mistake named before training."""

import json

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from mtl.datasets import open_datasets, read_examples


SPANS = [{"start": 0, "end": 4, "label": "GPE"}]
COLUMNS = {"text": "text", "label": "topic", "entities": "ner"}


@pytest.fixture
def write(tmp_path):
    """Writes a file with the given content and returns the spec of a dataset that reads it as its train split."""

    def _write(name: str, content: str | bytes | list, **spec) -> dict:
        path = tmp_path / name
        if isinstance(content, list):
            content = "\n".join(map(json.dumps, content))
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return {"path": str(path), **spec}

    return _write


def examples_of(spec: dict, tasks: dict, split: str = "train", **kwargs) -> list[dict]:
    (source,) = open_datasets({"news": spec}, tasks)
    return list(read_examples(source, split, tasks, **kwargs))


def test_jsonl_with_spans(write, tasks):
    rows = [{"text": "Oslo wins", "label": "Sports", "entities": SPANS}, {"text": "No one", "label": None}]
    assert examples_of(write("a.jsonl", rows, columns=COLUMNS), tasks) == [
        {"text": "Oslo wins", "topic": "Sports", "ner": SPANS},
        {"text": "No one", "topic": None, "ner": None},
    ]


def test_csv_and_tsv(write, tasks):
    del tasks["ner"]
    expected = [{"text": 'He said "no", twice', "topic": "Sports"}, {"text": "NA", "topic": None}]
    assert examples_of(write("a.csv", 'text,topic\n"He said ""no"", twice",Sports\nNA,\n'), tasks) == expected
    assert examples_of(write("a.tsv", 'text\ttopic\n"He said ""no"", twice"\tSports\nNA\t\n'), tasks) == expected


def test_words_and_tags_become_text_and_spans(write, tasks):
    del tasks["topic"]
    rows = [{"tokens": ["In", "New", "York", "now"], "tags": ["O", "B-GPE", "I-GPE", "O"]}]
    assert examples_of(write("a.jsonl", rows, columns={"tokens": "text", "tags": "ner"}), tasks) == [
        {"text": "In New York now", "ner": [{"start": 3, "end": 11, "label": "GPE"}]}
    ]


def test_parquet_with_class_labels_and_files_per_split(tmp_path, tasks):
    features = Features(
        {
            "words": List(Value("string")),
            "topic": ClassLabel(names=["Business", "Sports"]),
            "tags": List(ClassLabel(names=["O", "B-GPE", "I-GPE"])),
        }
    )
    rows = {"words": [["Oslo", "wins"], ["Yes"]], "topic": [1, -1], "tags": [[1, 0], [0]]}
    Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "a.parquet"))
    spec = {
        "files": {"validation": str(tmp_path / "a.parquet")},
        "columns": {"words": "text", "topic": "topic", "tags": "ner"},
    }
    assert examples_of(spec, tasks, "validation") == [
        {"text": "Oslo wins", "topic": "Sports", "ner": SPANS},
        {"text": "Yes", "topic": None, "ner": []},
    ]


def test_a_folder_of_parquet_files_is_a_dataset(tmp_path, tasks):
    rows = {"text": ["Oslo wins"], "label": ["Sports"], "entities": [SPANS]}
    Dataset.from_dict(rows).to_parquet(str(tmp_path / "data" / "train.parquet"))
    (found,) = examples_of({"path": str(tmp_path / "data"), "columns": COLUMNS}, tasks)
    assert found == {"text": "Oslo wins", "topic": "Sports", "ner": SPANS}


def test_a_folder_that_was_built_again_is_read_again(tmp_path, tasks):
    """datasets' own cache returns the old rows here."""
    folder = tmp_path / "data"
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: train.parquet\n---\n"
    for text in ("Oslo wins", "Lima wins"):
        Dataset.from_dict({"text": [text], "topic": ["Sports"], "ner": [SPANS]}).to_parquet(folder / "train.parquet")
        (folder / "README.md").write_text(card)
        (found,) = examples_of({"path": str(folder)}, tasks)
        assert found["text"] == text


def test_a_row_limit(write, tasks):
    rows = [{"text": f"Text {number}", "topic": "Sports", "ner": []} for number in range(9)]
    assert len(examples_of(write("a.jsonl", rows), tasks, max_rows=4)) == 4
    assert len(examples_of(write("a.jsonl", rows), tasks, max_rows=40)) == 9


GOOD = {"text": "Oslo wins", "topic": "Sports", "ner": SPANS}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": "  "}, "column 'text' has no text in it"),
        ({"text": None}, "column 'text' has no text in it"),
        ({"ner": [{"start": 0, "end": 99, "label": "GPE"}]}, "column 'ner': entity .* lies outside the text"),
        ({"ner": [{"start": 2, "end": 2, "label": "GPE"}]}, "is empty"),
        ({"ner": [*SPANS, {"start": 3, "end": 6, "label": "GPE"}]}, "overlaps"),
        ({"ner": [{"start": 0, "end": None, "label": "GPE"}]}, "'start' and 'end' are whole numbers"),
        ({"topic": ["Sports"]}, r"\['Sports'\] is not a label"),
    ],
)
def test_a_wrong_row_is_named_with_dataset_split_row_and_column(write, tasks, change, message):
    with pytest.raises(ValueError, match=f"Row 0 of dataset 'news', split 'train': .*{message}"):
        examples_of(write("a.jsonl", [{**GOOD, **change}]), tasks)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": ["Oslo", "wins"], "ner": ["I-GPE", "O"]}, "tag 'I-GPE' at position 0 follows 'O'"),
        ({"text": ["Oslo", "wins"], "ner": ["GPE", "O"]}, "is not BIO"),
        ({"text": ["Oslo", "wins"], "ner": ["B-GPE"]}, "1 tags for 2 words"),
        ({"text": ["Oslo", "wins"], "ner": [1, 0]}, "tags are strings, or a list of a ClassLabel"),
        ({"text": ["Oslo", None], "ner": ["O", "O"]}, "needs a text or a list of words"),
        (
            {"text": "Oslo wins", "ner": ["B-GPE", "O"]},
            "needs 'start', 'end' and 'label'; tags need a 'text' of words",
        ),
        ({"text": "Oslo wins", "ner": "GPE"}, "neither a list of {start, end, label} nor a list of tags"),
    ],
)
def test_wrong_bio_is_named(write, tasks, row, message):
    del tasks["topic"]
    with pytest.raises(ValueError, match=f"Row 0 of dataset 'news', split 'train': .*{message}"):
        examples_of(write("a.jsonl", [row]), tasks)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,topic\nOslo\n", "Row 1 of .*a.csv has 1 cells; the header has 2"),
        ("a.csv", "text,text\na,b\n", "names a column twice"),
        ("a.csv", 'text,topic\n"Oslo,b\n', "Line 2 of .*a.csv is not CSV"),
        ("a.csv", "text,topic\n", "split 'train', is empty"),
        ("a.csv", "", "split 'train', is empty"),
        ("a.csv", b"text,topic\n\xff,b\n", "is not UTF-8"),
        ("a.jsonl", '{"text": 1}\nno\n', "Line 2 of .*a.jsonl is not JSON"),
        ("a.jsonl", "[1]\n", "Line 1 of .*a.jsonl is not an object of columns"),
        ("a.jsonl", '{"text": "a"}\n{"text": ["a"]}\n', "mixes kinds of values in a column"),
        ("a.xlsx", "", "files are read as .parquet, .csv, .tsv, .jsonl; not '.xlsx'"),
        ("a.parquet", "nonsense", "is not a Parquet file"),
    ],
)
def test_a_broken_file_is_named(write, tasks, name, content, message):
    with pytest.raises(ValueError, match=message):
        examples_of(write(name, content), tasks)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"path": "no/such/file.csv"}, "no/such/file.csv is neither a file nor a folder.*data_prep"),
        ({"files": {"train": "nowhere.jsonl"}}, "nowhere.jsonl: no such file"),
        ({"files": {"dev": "a.jsonl"}}, r"'files' maps some of \['train', 'validation', 'test'\]"),
        ({"path": "a", "files": {}}, "needs either 'path' or 'files'"),
        ({}, "needs either 'path' or 'files'"),
        ({"path": "a", "column": {}}, r"unknown keys \['column'\]"),
        ({"path": "nobody/nothing-here"}, "nobody/nothing-here could not be loaded"),
    ],
)
def test_a_dataset_that_cannot_be_found_is_named(tasks, spec, message):
    with pytest.raises(ValueError, match=message):
        open_datasets({"news": spec}, tasks)


def test_a_folder_without_parquet_is_named(tmp_path, tasks):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"has no train\*.parquet, validation\*.parquet or test\*.parquet in it"):
        open_datasets({"news": {"path": str(tmp_path)}}, tasks)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"body": "text", "topic": "topic"}, r"no column 'body'; it has \['text', 'topic', 'ner'\]"),
        (
            {"text": "text", "topic": "subject"},
            r"maps column 'topic' to 'subject', which is neither .* \(topic, ner\)",
        ),
        ({"text": "text", "topic": "topic", "ner": "topic"}, "maps both 'topic' and 'ner' to 'topic'"),
        ({"topic": "topic"}, "maps no column to 'text'"),
        ({"text": "text"}, "feeds no task"),
        (["text"], "'columns' maps columns"),
        ({"text": "text", "topic": "topic"}, r"No dataset feeds the tasks \['ner'\]"),
    ],
)
def test_columns_that_do_not_fit_are_named(write, tasks, columns, message):
    with pytest.raises(ValueError, match=message):
        open_datasets({"news": write("a.jsonl", [GOOD], columns=columns)}, tasks)
