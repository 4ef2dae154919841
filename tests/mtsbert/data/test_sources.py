"""Tests opening the datasets of a recipe in all formats, and that errors are raised before training."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from mtsbert.data.examples import read_examples
from mtsbert.data.loading import load_data
from mtsbert.data.sources import open_datasets
from mtsbert.formats.files import stream_rows


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
    return [{role: row[role] for role in source.columns} for row in read_examples(source, split, tasks, **kwargs)]


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
    quoted = write("a.tsv", 'text\ttopic\n"He said ""no"", twice"\tSports\nNA\t\n')
    assert examples_of({**quoted, "quoting": True}, tasks) == expected
    assert examples_of(write("b.tsv", 'text\ttopic\nHe said "no", twice\tSports\nNA\t\n'), tasks) == expected


def test_words_and_tags_become_text_and_spans(write, tasks):
    del tasks["topic"]
    rows = [{"tokens": ["In", "New", "York", "now"], "tags": ["O", "B-GPE", "I-GPE", "O"]}]
    assert examples_of(write("a.jsonl", rows, columns={"tokens": "text", "tags": "ner"}), tasks) == [
        {"text": "In New York now", "ner": [{"start": 3, "end": 11, "label": "GPE"}]}
    ]


@pytest.mark.parametrize(
    ("scheme", "tags"),
    [
        ("bio", ["B-GPE", "I-GPE", "B-GPE", "O", "B-ORG"]),
        ("iob1", ["I-GPE", "I-GPE", "B-GPE", "O", "I-ORG"]),
        ("bioes", ["B-GPE", "E-GPE", "S-GPE", "O", "S-ORG"]),
        ("bilou", ["B-GPE", "L-GPE", "U-GPE", "O", "U-ORG"]),
    ],
)
def test_bio_files_in_every_scheme(write, tasks, scheme, tags):
    words = ["New", "York", "Oslo", "#and", "IBM"]
    content = "-DOCSTART-\tO\n\n" + "".join(f"{w}\t{t}\n" for w, t in zip(words, tags, strict=True)) + "\n\nNo one O\n"
    spec = write("a.bio", content.replace("No one O", "None\tO"), columns={"tokens": "text", "tags": "ner"})
    del tasks["topic"]
    assert examples_of({**spec, "tag_scheme": scheme}, tasks) == [
        {
            "text": "New York Oslo #and IBM",
            "ner": [
                {"start": 0, "end": 8, "label": "GPE"},
                {"start": 9, "end": 13, "label": "GPE"},
                {"start": 19, "end": 22, "label": "ORG"},
            ],
        },
        {"text": "None", "ner": []},
    ]


@pytest.mark.parametrize(
    ("scheme", "tags", "message"),
    [
        ("bioes", ["B-GPE", "O"], "leaves 'B-GPE' open, which is not BIOES"),
        ("bioes", ["O", "B-GPE"], "the last tag 'B-GPE' leaves an entity open"),
        ("bioes", ["O", "E-GPE"], "'E-GPE' at position 1 follows 'O'"),
        ("bilou", ["B-GPE", "U-GPE"], "'U-GPE' at position 1 follows 'B-GPE', which is not BILOU"),
        ("bilou", ["B-GPE", "E-GPE"], "'E-GPE' at position 1 leaves 'B-GPE' open, which is not BILOU"),
        ("bilou", ["O", "S-GPE"], "'S-GPE' at position 1 is not BIO.*'tag_scheme' is bilou"),
        ("bilou", ["O", "B-GPE"], "the last tag 'B-GPE' leaves an entity open, which is not BILOU"),
        ("bioes", ["B-GPE", "L-GPE"], "leaves 'B-GPE' open, which is not BIOES"),
        ("bio", ["O", "S-GPE"], "is not BIO .*'tag_scheme' is bio; .*'bioes'"),
    ],
)
def test_tags_that_are_not_of_their_scheme_are_named(write, tasks, scheme, tags, message):
    del tasks["topic"]
    spec = write("a.jsonl", [{"text": ["In", "Oslo"], "ner": tags}], tag_scheme=scheme)
    with pytest.raises(ValueError, match=message):
        examples_of(spec, tasks)


PAIRS = {
    "nli": {"type": "pair_classification", "labels": ["no", "yes"]},
    "sts": {"type": "pair_similarity", "score_range": [0, 5]},
}


def test_pairs_with_labels_and_scores(write):
    content = "text,text_pair,nli,sts\na,b,yes,2.5\nc,d,,\n"
    assert examples_of(write("a.csv", content), PAIRS) == [
        {"text": "a", "text_pair": "b", "nli": "yes", "sts": 2.5},
        {"text": "c", "text_pair": "d", "nli": None, "sts": None},
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "text,nli,sts\na,yes,1\n",
            r"feeds \['nli', 'sts'\], which compare two texts, but maps no column to 'text_pair'",
        ),
        ("text,text_pair,nli,sts\na,,yes,1\n", "column 'nli' compares two texts, but 'text_pair' is empty"),
        ("text,text_pair,nli,sts\na,b,yes,5.5\n", r"column 'sts': score 5.5 lies outside 'score_range' \[0, 5\]"),
        ("text,text_pair,nli,sts\na,b,yes,high\n", "column 'sts': 'high' is not a score"),
        ("text,text_pair,nli,sts\na,b,yes,1_0\n", "column 'sts': '1_0' is not a score"),
        ("text,text_pair,nli,sts\na,b,yes,inf\n", "column 'sts': 'inf' is not a score"),
    ],
)
def test_wrong_pairs_are_named(write, content, message):
    with pytest.raises(ValueError, match=message):
        examples_of(write("a.csv", content), PAIRS)


def test_lists_of_labels(write):
    tasks = {"tags": {"type": "sequence_classification", "multi_label": True}}
    rows = [{"text": "a", "tags": ["x", "y"]}, {"text": "b", "tags": []}, {"text": "c", "tags": None}]
    assert [row["tags"] for row in examples_of(write("a.jsonl", rows), tasks)] == [["x", "y"], [], None]
    with pytest.raises(ValueError, match="has a missing label in it"):
        examples_of(write("c.jsonl", [{"text": "a", "tags": ["x", None]}]), tasks)
    with pytest.raises(ValueError, match="'x' is not a list of labels, which a multi-label task needs"):
        examples_of(write("b.jsonl", [{"text": "a", "tags": "x"}]), tasks)


def test_a_number_that_is_not_one_is_no_label(write, tasks):
    del tasks["ner"]
    rows = [{"text": "a", "topic": 1.5}, {"text": "b", "topic": float("nan")}]
    assert [row["topic"] for row in examples_of(write("a.jsonl", rows), tasks)] == ["1.5", None]


def test_splits_may_be_called_otherwise(tmp_path, tasks):
    Dataset.from_dict({"text": ["Oslo"], "topic": ["Sports"], "ner": [[]]}).to_parquet(tmp_path / "d" / "dev.parquet")
    spec = {"path": str(tmp_path / "d"), "splits": {"validation": "dev"}}
    assert examples_of(spec, tasks, "validation")[0]["text"] == "Oslo"


def test_a_file_or_a_saved_dataset_is_one_split_that_may_be_called_otherwise(write, tasks, tmp_path):
    csv = write("dev.csv", "text,topic\nOslo,Sports\n", splits={"validation": "train"})
    Dataset.from_dict({"text": ["Oslo"], "topic": ["Sports"]}).save_to_disk(tmp_path / "saved")
    del tasks["ner"]
    for path in (csv["path"], str(tmp_path / "saved")):
        (source,) = open_datasets({"news": csv | {"path": path}}, tasks)
        assert {split: len(rows) for split, rows in source.splits.items()} == {"validation": 1}
        (source,) = open_datasets({"news": {"path": path}}, tasks)
        assert list(source.splits) == ["train"]
        with pytest.raises(ValueError, match=r"has one split, 'train', and 'splits' names \['dev'\]"):
            open_datasets({"news": {"path": path, "splits": {"validation": "dev"}}}, tasks)


@pytest.fixture
def folder_of(tmp_path):
    """Writes Parquet files of these names, each with its name as the only text."""

    def write(*names: str) -> str:
        for name in names:
            rows = {"text": [name], "topic": ["Sports"], "ner": [[]]}
            Dataset.from_dict(rows).to_parquet(tmp_path / "d" / f"{name}.parquet")
        return str(tmp_path / "d")

    return write


def test_a_file_of_a_folder_is_of_the_split_with_the_longest_name(folder_of, tasks):
    path = folder_of("train", "train-00000-of-00002", "train_dev", "traintest1")
    splits = {"train": "train", "validation": "train_dev", "test": "traintest"}
    (source,) = open_datasets({"news": {"path": path, "splits": splits}}, tasks)
    assert {split: sorted(rows["text"]) for split, rows in source.splits.items()} == {
        "train": ["train", "train-00000-of-00002"],
        "validation": ["train_dev"],
        "test": ["traintest1"],
    }
    (source,) = open_datasets({"news": {"path": str(Path(path).parent), "splits": {"test": "d/train_dev"}}}, tasks)
    assert source.splits["test"]["text"][:] == ["train_dev"]


@pytest.mark.parametrize("name", ["train_dev", "validation-test-0", "test_train"])
def test_a_file_that_may_be_of_two_splits_is_refused(folder_of, tasks, name):
    path = folder_of("train", name)
    with pytest.raises(ValueError, match=rf"{name}.parquet may be of split '\w+' or of '\w+'. Say under 'splits'"):
        open_datasets({"news": {"path": path}}, tasks)


@pytest.mark.parametrize("option", [{"quoting": True}, {"conll_comments": True}])
def test_an_option_of_files_is_refused_where_a_folder_has_others(folder_of, tasks, option):
    with pytest.raises(ValueError, match=rf"'{next(iter(option))}' is for .* files, and .* is none"):
        open_datasets({"news": {"path": folder_of("train"), **option}}, tasks)


def test_parquet_with_class_labels_and_files_per_split(tmp_path, tasks):
    features = Features(
        {
            "words": List(Value("string")),
            "topic": ClassLabel(names=["Business", "Sports"]),
            "tags": List(ClassLabel(names=["O", "B-GPE", "I-GPE"])),
        }
    )
    words = [["Oslo", "wins"], ["Yes"], ["Lima", "or", "Oslo"]]
    rows = {"words": words, "topic": [1, -1, 0], "tags": [[1, 0], [0], [-100, 0, 1]]}
    Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "a.parquet"))
    spec = {
        "files": {"validation": str(tmp_path / "a.parquet")},
        "columns": {"words": "text", "topic": "topic", "tags": "ner"},
    }
    assert examples_of(spec, tasks, "validation") == [
        {"text": "Oslo wins", "topic": "Sports", "ner": SPANS},
        {"text": "Yes", "topic": None, "ner": []},
        {
            "text": "Lima or Oslo",
            "topic": "Business",
            "ner": [{"start": 0, "end": 4, "label": None}, {"start": 8, "end": 12, "label": "GPE"}],
        },
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
    some = [row["text"] for row in examples_of(write("a.jsonl", rows), tasks, max_rows=4)]
    assert len(some) == 4
    assert some == sorted(some) != [f"Text {number}" for number in range(4)]  # drawn from all of it, in order
    assert some == [row["text"] for row in examples_of(write("a.jsonl", rows), tasks, max_rows=4)]
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
        ({"ner": [{"start": 0, "end": None, "label": "GPE"}]}, "needs 'start', 'end' and 'label'"),
        ({"ner": [{"start": 0, "end": 2.5, "label": "GPE"}]}, "'start' and 'end' are whole numbers"),
        ({"topic": ["Sports", "World"]}, r"\['Sports', 'World'\] is not a label"),
        ({"topic": ""}, "column 'topic': '' is not a label"),
        ({"text": 5}, "column 'text' has no text in it: 5"),
        ({"ner": [{"start": -1, "end": 4, "label": "GPE"}]}, "lies outside the text"),
        ({"ner": [{"start": 0, "end": 4, "label": ""}]}, "has a label that is none"),
        ({"ner": [{"start": False, "end": True, "label": "GPE"}]}, "'start' and 'end' are whole numbers"),
        ({"ner": [{"start": 0, "end": 4}]}, "needs 'start', 'end' and 'label'"),
    ],
)
def test_a_wrong_row_is_named_with_dataset_split_row_and_column(write, tasks, change, message):
    with pytest.raises(ValueError, match=f"Row 0 of dataset 'news', split 'train': .*{message}"):
        examples_of(write("a.jsonl", [{**GOOD, **change}]), tasks)


def test_a_word_whose_tag_is_null_is_left_open(write):
    rows = [{"text": ["Oslo", "wins", "it"], "ner": ["B-GPE", None, "O"]}]
    (row,) = examples_of(write("a.jsonl", rows), {"ner": {"type": "token_classification"}})
    assert row["ner"] == [{"start": 0, "end": 4, "label": "GPE"}, {"start": 5, "end": 9, "label": None}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": ["Oslo", "wins"], "ner": ["I-GPE", "O"]}, "tag 'I-GPE' at position 0 follows 'O'"),
        ({"text": ["Oslo", "wins"], "ner": ["GPE", "O"]}, "is not BIO"),
        ({"text": ["Oslo", "wins"], "ner": ["B-GPE"]}, "1 tags for 2 words"),
        ({"text": ["Oslo", "wins"], "ner": ["B-", "O"]}, "tag 'B-' at position 0 names no entity type"),
        ({"text": ["Oslo", " "], "ner": ["O", "B-GPE"]}, "entity .* is empty"),
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
        ("a.csv", "text,topic\nOslo,a\n\nLima,b\n", "Row 2 of .*a.csv has 0 cells; the header has 2"),
        ("a.csv", 'text,topic\n"Oslo"x,b\n', "Line 2 of .*a.csv is not CSV"),
        ("a.csv", b"text,topic\n\xff,b\n", "a.csv is not UTF-8"),
        ("a.tsv", b"text\ttopic\n\xff\tb\n", "a.tsv is not UTF-8"),
        ("a.jsonl", b'{"text": "\xff"}\n', "a.jsonl is not UTF-8"),
        ("a.jsonl", "", "split 'train', is empty"),
        ("a.jsonl", "{}\n", "split 'train', is empty"),
        ("a.jsonl", '{"text": "a", "text": "b"}\n', "Line 1 of .*a.jsonl: 'text' stands twice in one mapping"),
        ("a.jsonl", '{"text": ' + "[" * 3_000, "Line 1 of .*a.jsonl is nested too deeply"),
        ("a.jsonl", '{"text": ' + "9" * 5_000 + "}", "Line 1 of .*a.jsonl: Exceeds the limit"),
        (
            "a.jsonl",
            '{"id": 99999999999999999999}\n',
            "Row 1 of .*a.jsonl mixes kinds of values.*'id' has what cannot",
        ),
        ("a.jsonl", '{"text": "\\ud800"}\n', "Row 1 of .*a.jsonl mixes kinds .*'text' has what cannot be kept there"),
        ("a.jsonl", '{"\\ud800": "a"}\n', "a.jsonl mixes kinds of values in a column, or names one oddly"),
        ("a.jsonl", '{"text": ["a", 1]}\n', "Row 1 of .*a.jsonl mixes kinds of values in a column: 'text'"),
        ("a.jsonl", '{"text": 1}\nno\n', "Line 2 of .*a.jsonl is not JSON"),
        ("a.jsonl", "[1]\n", "Line 1 of .*a.jsonl is not an object of columns"),
        (
            "a.jsonl",
            '{"text": ["a"]}\n{"text": "a"}\n{"text": "b"}\n',
            "Row 1 of .*a.jsonl mixes kinds of values in a column: 'text' has list<item: string> there, and string in",
        ),
        ("a.xlsx", "", "files are read as .*; not '.xlsx'"),
        ("a.parquet", "nonsense", "is not a Parquet file"),
        ("a.bio", "Oslo\tB-GPE\nwins\n", "Line 2 of .*a.bio has no tag: 'wins'"),
        ("a.bio", "Oslo\tB-GPE\n\tO\n", "Line 2 of .*a.bio has no word: 'O'"),
        ("a.bio", b"Oslo\xff\tO\n", "a.bio is not UTF-8"),
        ("a.bio", "\n \n-DOCSTART- O\n", "split 'train', is empty"),
    ],
)
def test_a_broken_file_is_named(write, tasks, name, content, message):
    with pytest.raises(ValueError, match=message):
        examples_of(write(name, content), tasks)


def test_blanks_and_marks_at_the_edges_of_a_file_do_no_harm(write, tasks):
    del tasks["ner"]
    mark, expected = "\ufeff", [{"text": "Oslo", "topic": "a"}]
    assert examples_of(write("a.csv", f"{mark}text,topic\r\nOslo,a\r\n\r\n"), tasks) == expected
    assert examples_of(write("a.jsonl", f'{mark}\n{{"text": "Oslo", "topic": "a"}}\n\n'), tasks) == expected


def test_a_word_of_a_bio_file_may_have_a_no_break_space_in_it(write, tasks):
    del tasks["topic"]
    spec = write("a.bio", "New\xa0York B-GPE\nwins O\n", columns={"tokens": "text", "tags": "ner"})
    (found,) = examples_of(spec, tasks)
    assert found == {"text": "New\xa0York wins", "ner": [{"start": 0, "end": 8, "label": "GPE"}]}


def test_a_parquet_file_that_breaks_off_or_has_no_rows_is_named(tmp_path, tasks):
    path = tmp_path / "a.parquet"
    rows = Dataset.from_dict(
        {"text": [f"Text {number}" for number in range(999)], "topic": ["a"] * 999, "ner": [[]] * 999}
    )
    rows.to_parquet(path)
    data = bytearray(path.read_bytes())
    data[100:400] = b"\xff" * 300
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"Dataset 'news': .*a.parquet cannot be read as Parquet \("):
        open_datasets({"news": {"path": str(path)}}, tasks)
    with pytest.raises(ValueError, match=r"a.parquet cannot be read as Parquet \("):
        list(stream_rows(path))
    rows.select([]).to_parquet(path)
    with pytest.raises(ValueError, match="Dataset 'news', split 'train', is empty"):
        open_datasets({"news": {"path": str(path)}}, tasks)
    (tmp_path / "d").mkdir()
    path.rename(tmp_path / "d" / "train.parquet")
    with pytest.raises(ValueError, match=r"Dataset 'news': folder .*d has no row in its files of split 'train'"):
        open_datasets({"news": {"path": str(tmp_path / "d")}}, tasks)


def test_a_parquet_column_of_a_kind_that_is_not_known_is_named(tmp_path, tasks):
    kinds = pa.schema({"text": pa.string(), "more": pa.map_(pa.string(), pa.string())})
    pq.write_table(pa.Table.from_pylist([{"text": "a", "more": {"b": "c"}}], schema=kinds), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a.parquet cannot be read as Parquet \(.*map<string, string"):
        open_datasets({"news": {"path": str(tmp_path / "a.parquet")}}, tasks)


def test_categories_of_pandas_are_labels(tmp_path, tasks):
    del tasks["ner"]
    kinds = pa.schema({"text": pa.large_string(), "topic": pa.dictionary(pa.int8(), pa.string())})
    pq.write_table(pa.Table.from_pylist([{"text": "a", "topic": "b"}], schema=kinds), tmp_path / "a.parquet")
    assert examples_of({"path": str(tmp_path / "a.parquet")}, tasks) == [{"text": "a", "topic": "b"}]


def test_a_number_that_no_class_has_and_bytes_are_no_labels(tmp_path, tasks):
    del tasks["ner"]
    features = Features({"text": Value("string"), "topic": ClassLabel(names=["Business", "Sports"])})
    pq.write_table(
        pa.table({"text": ["a"], "topic": pa.array([7])}, schema=features.arrow_schema), tmp_path / "a.parquet"
    )
    with pytest.raises(ValueError, match=r"Row 0 of dataset 'news', split 'train': column 'topic': .*7"):
        examples_of({"path": str(tmp_path / "a.parquet")}, tasks)
    pq.write_table(pa.table({"text": ["a"], "topic": [b"Sports"]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="column 'topic': b'Sports' is not a label"):
        examples_of({"path": str(tmp_path / "b.parquet")}, tasks)


def test_a_truth_value_is_no_score(write):
    with pytest.raises(ValueError, match="column 'sts': True is not a score"):
        examples_of(write("a.jsonl", [{"text": "a", "text_pair": "b", "sts": True}]), {"sts": PAIRS["sts"]})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"path": 5}, "'path' names 5, which is no path"),
        ({"path": "a\0b"}, "which is no path"),
        ({"files": {"train": ""}}, "'files' maps some of .*; got {'train': ''}"),
        ({"path": "a/b", "splits": {"train": 5}}, "'splits' maps some of .*; got {'train': 5}"),
        ({"path": "no/such/file.csv"}, "no/such/file.csv is neither a file nor a folder.*data_prep"),
        ({"files": {"train": "nowhere.jsonl"}}, "nowhere.jsonl: no such file"),
        ({"files": {"train": "a.csv"}, "splits": {"train": "x"}}, "'splits' names what is in a 'path'; 'files' gives"),
        ({"files": {"dev": "a.jsonl"}}, r"'files' maps some of \['train', 'validation', 'test'\]"),
        ({"path": "a", "files": {}}, "needs either 'path' or 'files'"),
        ({}, "needs either 'path' or 'files'"),
        ({"path": "a/b", "splits": {"dev": "x"}}, r"'splits' maps some of \['train', 'validation', 'test'\]"),
        (
            {"path": "a", "tag_scheme": "iobes"},
            r"'tag_scheme' 'iobes'; allowed are \['bio', 'iob1', 'bioes', 'bilou'\]",
        ),
        ({"path": "a", "column": {}}, r"unknown keys \['column'\]"),
        ({"path": "nobody/nothing-here"}, "nobody/nothing-here could not be loaded"),
        ({"path": "nobody/Nothing-2.5"}, "nobody/Nothing-2.5 could not be loaded"),
        ({"path": "nobody/nothing.v2"}, "nobody/nothing.v2 could not be loaded"),
        ({"path": "nobody/nothing.xlsx"}, "nobody/nothing.xlsx is neither a file nor a folder"),
        ({"path": "../nothing"}, r"\.\./nothing is neither a file nor a folder"),
    ],
)
def test_a_dataset_that_cannot_be_found_is_named(tasks, spec, message):
    with pytest.raises(ValueError, match=message):
        open_datasets({"news": spec}, tasks)


def test_a_folder_without_parquet_is_named(tmp_path, tasks):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"has no train\*.parquet or validation\*.parquet or test\*.parquet in it"):
        open_datasets({"news": {"path": str(tmp_path)}}, tasks)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"body": "text", "topic": "topic"}, r"no column 'body'; it has \['text', 'topic', 'ner'\]"),
        (
            {"text": "text", "topic": "subject"},
            r"maps column 'topic' to 'subject', which is neither .* \(topic, ner\)",
        ),
        ({"text": "text", "topic": ["topic"]}, r"maps column 'topic' to \['topic'\], which is neither"),
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


KINDS = {"kind": {"type": "sequence_classification", "multi_label": True}}


def test_several_labels_in_a_cell(write):
    content = 'text,kind\na,drama|war\nb,drama\nc,\nd,"drama | war"\n'
    spec = write("a.csv", content, columns={"text": "text", "kind": "kind"}, separator="|")
    assert [row["kind"] for row in examples_of(spec, KINDS)] == [["drama", "war"], ["drama"], None, ["drama", "war"]]
    with pytest.raises(ValueError, match=r"'drama\|war' is not a list of labels.* set the dataset's 'separator'"):
        examples_of({key: value for key, value in spec.items() if key != "separator"}, KINDS)


def test_a_column_of_zeros_and_ones_for_each_label(write):
    content = "text,insult,threat\na,1,0\nb,0,0\nc,,\nd,true,1.0\n"
    spec = write("a.csv", content, columns={"text": "text"}, label_columns={"kind": ["insult", "threat"]})
    (source,) = open_datasets({"news": spec}, KINDS)
    rows = read_examples(source, "train", KINDS)
    assert rows["kind"][:] == [["insult"], [], None, ["insult", "threat"]]
    data = load_data({"news": spec}, KINDS)
    assert data.tasks["kind"]["labels"] == ["insult", "threat"]
    wrong = write(
        "b.csv", "text,insult,threat\na,1,2\n", columns={"text": "text"}, label_columns=spec["label_columns"]
    )
    with pytest.raises(ValueError, match=r"Row 0 .*column 'threat' holds '2'; it needs 0 or 1 for its label"):
        examples_of(wrong, KINDS)
    without = write("c.csv", "text,insult\na,1\n")["path"]
    del spec["path"]
    spec["files"] = {"train": wrong["path"], "validation": without}
    (source,) = open_datasets({"news": spec}, KINDS)
    assert read_examples(source, "validation", KINDS)["kind"][:] == [None]  # as the warning says


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"label_columns": {"topic": ["a"]}}, "'label_columns' names 'topic', which is no multi-label task; .*'kind'"),
        ({"label_columns": {"kind": []}}, "'label_columns' of 'kind' is"),
        ({"label_columns": {"kind": ["a", "a"]}}, "'label_columns' of 'kind' is"),
        ({"label_columns": ["a"]}, "'label_columns' maps multi-label tasks"),
        ({"label_columns": {"kind": ["missing"]}}, "has no column 'missing'"),
        ({"label_columns": {"kind": ["a"]}, "columns": {"text": "text", "a": "kind"}}, "both feed .'kind'."),
        ({"separator": ""}, "'separator' is ''"),
    ],
)
def test_wrong_ways_to_give_several_labels_are_refused(write, tasks, spec, message):
    with pytest.raises(ValueError, match=rf"Dataset 'news'.*{message}"):
        examples_of(write("a.csv", "text,a\nx,1\n", **spec), KINDS | {"topic": tasks["topic"]})
    if "separator" in spec:
        with pytest.raises(ValueError, match="'separator' divides the labels of a task with `multi_label: true`"):
            examples_of(write("b.csv", "text,topic\nx,1\n", separator="|"), {"topic": tasks["topic"]})


def test_a_column_that_a_split_lacks_is_unlabelled_there(write, tasks, caplog):
    del tasks["ner"]
    train = write("train.csv", "text,label\nOslo,Sports\n")["path"]
    test = write("test.csv", "text\nLima\n")["path"]
    spec = {"files": {"train": train, "test": test}, "columns": {"text": "text", "label": "topic"}}
    assert examples_of(spec, tasks, "test") == [{"text": "Lima", "topic": None}]
    assert "has no column 'label' in ['test']: these rows are unlabelled there" in caplog.text
    nowhere = {**spec, "columns": {"text": "text", "labels": "topic"}}
    with pytest.raises(ValueError, match="has no column 'labels'; it has"):
        open_datasets({"news": nowhere}, tasks)


def test_files_of_splits_that_are_not_needed_are_not_read(write, tasks):
    del tasks["ner"]
    train = write("train.csv", "text,topic\nOslo,Sports\n")["path"]
    spec = {"files": {"train": train, "test": "nowhere.csv"}}
    (source,) = open_datasets({"news": spec}, tasks, splits=["train"])
    assert list(source.splits) == ["train"]
    with pytest.raises(ValueError, match=r"nowhere.csv: no such file"):
        open_datasets({"news": spec}, tasks)
