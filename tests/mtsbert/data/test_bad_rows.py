"""Tests rows that cannot be used: an error by default; left out, counted and written down with `--bad_rows skip`."""

import json
import logging
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from mtsbert.data.loading import load_recipe_data
from mtsbert.data.skipped_rows import SKIPPED_ROWS_FILE
from mtsbert.input_arguments import DataArguments
from run_mtl import main


TASKS = {"topic": {"type": "sequence_classification"}, "ner": {"type": "token_classification"}}
GOOD = {"text": "Oslo wins", "topic": "Sports", "ner": [{"start": 0, "end": 4, "label": "GPE"}]}


def arguments_of(files: dict, tasks: dict, columns: dict | None = None, **more) -> DataArguments:
    spec = {"files": {split: str(path) for split, path in files.items()}}
    return DataArguments(
        datasets={"news": spec | ({"columns": columns} if columns else {})},
        tasks=tasks,
        max_length=32,
        **{"bad_rows": "skip", **more},
    )


def write_jsonl(path, rows: list[dict | str]):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def only(task: str) -> dict:
    return {task: TASKS[task]}


JSONL = [
    GOOD,
    '{"text": "Oslo"',
    {**GOOD, "text": " "},
    "[1]",
    "",
    {**GOOD, "ner": [{"start": 0, "end": 99, "label": "GPE"}]},
    {**GOOD, "topic": ["Sports"]},
    {**GOOD, "text": "Lima wins"},
    {**GOOD, "topic": "Weather", "ner": None},
    '{"text": "a", "text": "b"}',
    {**GOOD, "text": "Half \ud800"},
    {**GOOD, "ner": [{"start": 0, "end": 4, "label": "GPE"}, {"start": 5, "end": 9}]},
]
REASONS = {  # rows counted from 0; blank lines are none
    1: "Line 2 of .* is not JSON",
    2: "column 'text' has no text in it: ' '",
    3: r"Line 4 of .* is not an object of columns: \[1\]",
    4: "column 'ner': entity .* lies outside the text",
    5: r"Row 6 of .* mixes kinds of values in a column: 'topic' has list<item: string> there, and string in most rows",
    7: "label 'Weather' is not one of task 'topic'",
    8: "Line 10 of .*: 'text' stands twice in one mapping",
    9: "Row 10 of .* 'text' has what cannot be kept there",
    10: "Row 11 of .* has an entity without 'label' in 'ner', where others have one",
}


def test_bad_rows_of_jsonl_are_left_out_with_their_numbers_and_reasons(tokenizer, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", JSONL)
    tasks = {**TASKS, "topic": {**TASKS["topic"], "labels": ["Business", "Sports"]}}
    data = load_recipe_data(arguments_of({"train": path}, tasks), tokenizer, ["train"])
    assert list(data.texts("train")) == ["Oslo wins", "Lima wins"]
    assert data.examples["train"]["row"][:] == [0, 6]
    assert [data.num_labelled("train", task) for task in tasks] == [2, 2]
    assert len(data.features["train"]) == 2
    assert [one.row for one in data.skipped] == list(REASONS)
    for one, reason in zip(data.skipped, REASONS.values(), strict=True):
        assert (one.dataset, one.split) == ("news", "train")
        assert re.search(reason, one.reason), one.reason


def test_the_first_bad_row_is_an_error_unless_rows_are_skipped(tokenizer, tmp_path):
    tasks = {**TASKS, "topic": {**TASKS["topic"], "labels": ["Business", "Sports"]}}
    lines = [row for row in JSONL if row != ""]
    for row, reason in REASONS.items():
        path = write_jsonl(tmp_path / f"{row}.jsonl", [GOOD, GOOD, lines[row]])
        message = reason.replace(f"Line {row + 1 + (row > 3)} ", "Line 3 ").replace(f"Row {row + 1} ", "Row 3 ")
        with pytest.raises(ValueError, match=message):
            load_recipe_data(arguments_of({"train": path}, tasks, bad_rows="error"), tokenizer, ["train"])


def test_bad_rows_of_csv_are_left_out(tokenizer, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,topic\nOslo,Sports\nLima\n,Sports\n\nKyiv,Sports,x\nRome,World\n")
    data = load_recipe_data(arguments_of({"train": path}, only("topic")), tokenizer, ["train"])
    assert list(data.texts("train")) == ["Oslo", "Rome"]
    assert [one.row for one in data.skipped] == [1, 2, 3, 4]
    assert data.skipped[0].reason == f"Row 2 of {path} has 1 cells; the header has 2: ['text', 'topic']."
    assert data.examples["train"]["row"][:] == [0, 5]


def test_bad_texts_of_a_bio_file_are_left_out_whole(tokenizer, tmp_path):
    path = tmp_path / "a.bio"
    path.write_text("Oslo\tB-GPE\n\nLima\nwins\tO\n\nIn\tO\nRome\tI-GPE\n\n\tO\n\nKyiv\tB-\n\nKyiv\tB-GPE\n")
    data = load_recipe_data(
        arguments_of({"train": path}, only("ner"), {"tokens": "text", "tags": "ner"}), tokenizer, ["train"]
    )
    assert list(data.texts("train")) == ["Oslo", "Kyiv"]
    assert data.examples["train"]["row"][:] == [0, 5]
    reasons = [one.reason for one in data.skipped]
    assert [one.row for one in data.skipped] == [1, 2, 3, 4]
    assert reasons[0] == f"Line 3 of {path} has no tag: 'Lima'. It needs a word and its tag."
    assert "tag 'I-GPE' at position 1 follows 'O'" in reasons[1]
    assert reasons[2].startswith(f"Line 9 of {path} has no word: 'O'")
    assert "tag 'B-' at position 0 names no entity type" in reasons[3]


def test_text_of_a_parquet_file_that_is_not_utf8_is_a_bad_row(tokenizer, tmp_path):
    texts = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.array([0, 4, 6, 10], pa.int32()).buffers()[1], pa.py_buffer(b"Oslo\xff\xfeLima")]
    )
    pq.write_table(pa.table({"text": texts, "topic": ["a", "b", "a"]}), tmp_path / "a.parquet")
    arguments = arguments_of({"train": tmp_path / "a.parquet"}, {"topic": {**TASKS["topic"], "labels": ["a", "b"]}})
    data = load_recipe_data(arguments, tokenizer, ["train"])
    assert list(data.texts("train")) == ["Oslo", "Lima"]
    assert [(one.row, one.reason[:36]) for one in data.skipped] == [(1, "column 'text' cannot be read ('utf-8")]
    arguments.bad_rows = "error"
    with pytest.raises(ValueError, match="Row 1 of dataset 'news', split 'train': column 'text' cannot be read"):
        load_recipe_data(arguments, tokenizer, ["train"])


def test_what_is_read_from_the_cache_reports_the_same_rows(tokenizer, tmp_path, monkeypatch):
    texts = ["Oslo", " ", "Lima", "", "Rome"]
    Dataset.from_dict({"text": texts, "topic": ["a", "b", "c", "a", "b"]}).to_parquet(tmp_path / "a.parquet")
    tasks = {"topic": {**TASKS["topic"], "labels": ["a", "b"]}}
    arguments = arguments_of({"train": tmp_path / "a.parquet"}, tasks)
    first = load_recipe_data(arguments, tokenizer, ["train"])
    assert [one.row for one in first.skipped] == [1, 2, 3]
    monkeypatch.setattr("mtsbert.data.features._tokenize", None)
    again = load_recipe_data(arguments, tokenizer, ["train"])
    assert again.skipped == first.skipped
    assert again.features["train"][:] == first.features["train"][:]


def test_row_numbers_of_a_sample_are_those_of_the_file(tokenizer, tmp_path):
    rows = [{"text": f"Text {row}" if row % 3 else "", "topic": "ab"[row % 2]} for row in range(30)]
    rows[28]["topic"] = "z"
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    tasks = {"topic": {**TASKS["topic"], "labels": ["a", "b"]}}
    data = load_recipe_data(arguments_of({"train": path}, tasks, max_train_samples=20), tokenizer, ["train"])
    assert len(data.examples["train"]) + len(data.skipped) == 20
    assert [f"Text {row}" for row in data.examples["train"]["row"]] == list(data.texts("train"))
    assert all(one.row % 3 == 0 or one.row == 28 for one in data.skipped)
    rows = [{"text": f"Text {row}", "topic": "z" if row == 28 else "a"} for row in range(30)]
    path = write_jsonl(tmp_path / "b.jsonl", rows)
    with pytest.raises(ValueError, match="Row 28 of dataset 'news', split 'train': label 'z' is not one"):
        load_recipe_data(
            arguments_of({"train": path}, tasks, max_train_samples=29, bad_rows="error"), tokenizer, ["train"]
        )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "{}\nnonsense\n", r"No row of .*a.jsonl can be read. The first: Line 2 of .* is not JSON"),
        ("a.jsonl", '{"text"\n[]\n', r"No row of .*a.jsonl can be read. The first: Line 1 of .* is not JSON"),
        (
            "a.jsonl",
            '{"text": "", "topic": "a"}\n',
            "No row of dataset 'news', split 'train', can be used. Row 0: column 'text' has no text",
        ),
        ("a.csv", b"text,topic\n\xff,b\n", "a.csv is not UTF-8"),
        ("a.csv", 'text,topic\n"Oslo"x,b\n', "Line 2 of .*a.csv is not CSV"),
        ("a.csv", "text,text\na,b\n", "names a column twice"),
        ("a.parquet", "nonsense", "is not a Parquet file"),
    ],
)
def test_a_file_that_is_broken_as_a_whole_remains_an_error(tokenizer, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        load_recipe_data(arguments_of({"train": tmp_path / name}, only("topic")), tokenizer, ["train"])


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match=r"`bad_rows` is 'ignore'; allowed are \['error', 'skip'\]"):
        DataArguments(datasets={"a": {}}, bad_rows="ignore")


@pytest.fixture
def bad_recipe(recipe, examples, tmp_path):
    """A recipe on the eight rows, with a bad one behind the first and at the end of the test split."""
    rows = [{"text": row["text"], "label": row["topic"], "entities": row["ner"]} for row in examples]
    bad = {**rows[0], "entities": [{"start": 0, "end": 500, "label": "GPE"}]}
    good = write_jsonl(tmp_path / "good.jsonl", rows)
    broken = write_jsonl(tmp_path / "broken.jsonl", [rows[0], bad, *rows[1:], '{"text'])

    def write(**changes):
        files = {"train": str(broken), "validation": str(good), "test": str(broken)}
        columns = {"text": "text", "label": "topic", "entities": "ner"}
        return recipe(datasets={"news": {"files": files, "columns": columns}}, bad_rows="skip", **changes)

    return write


def skipped_in(folder) -> list[tuple[str, str, int]]:
    lines = (folder / SKIPPED_ROWS_FILE).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert all(row.keys() == {"dataset", "split", "row", "reason"} and row["reason"] for row in rows)
    return [(row["dataset"], row["split"], row["row"]) for row in rows]


BOTH = [("news", split, row) for split in ("test", "train") for row in (1, 9)]


def test_a_run_leaves_bad_rows_out_and_says_so_once(bad_recipe, examples, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="mtsbert"):
        main(["--config", str(bad_recipe(do_predict=True))])
    (warning,) = [record.message for record in caplog.records if "left out" in record.message]
    assert warning.startswith("4 rows cannot be used and are left out; ")
    assert "row 1 of news, test: column 'entities': entity" in warning
    assert "row 9 of news, test: Line 10 of" in warning
    assert skipped_in(tmp_path / "run") == BOTH
    answers = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert [answer["text"] for answer in answers] == [row["text"] for row in examples]


def test_check_data_tells_how_many_rows_were_skipped(bad_recipe, tmp_path, capsys):
    main(["--config", str(bad_recipe(check_data=True))])
    assert "2 rows were skipped because they cannot be used" in capsys.readouterr().out
    assert skipped_in(tmp_path / "run") == BOTH[2:]


def test_without_bad_rows_the_file_is_empty_and_an_old_one_does_not_stay(bad_recipe, recipe, tmp_path):
    main(["--config", str(bad_recipe(check_data=True))])
    main(["--config", str(recipe(check_data=True, bad_rows="skip"))])
    assert skipped_in(tmp_path / "run") == []


@pytest.mark.slow
def test_one_of_two_processes_writes_the_file(bad_recipe, root, tmp_path, warm_python):
    path = bad_recipe(do_predict=True, use_cpu=True)
    done = warm_python.run("run_mtl.py", "--config", path, cwd=root, num_ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("4 rows cannot be used and are left out") == 1
    assert skipped_in(tmp_path / "run") == BOTH
    assert len((tmp_path / "run" / "predictions.jsonl").read_text().splitlines()) == 8
