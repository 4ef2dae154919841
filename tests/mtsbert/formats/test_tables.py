"""Tests reading CSV, TSV and JSON: quotation marks, missing values and files that look like something else."""

import json
import logging

import pytest

from mtsbert.formats.files import read_file, stream_rows
from mtsbert.formats.options import FileOptions


@pytest.fixture
def write(tmp_path):
    def _write(name: str, content: str):
        path = tmp_path / name
        path.write_bytes(content.encode())
        return path

    return _write


def test_quotation_marks_in_tsv_are_part_of_the_text(write):
    path = write(
        "a.tsv", 'text\tlabel\n"Stop, he said\ta\nso he did\tb\nand "went" home"\tc\n"quoted" start\td\nlast\te\n'
    )
    expected = [
        {"text": '"Stop, he said', "label": "a"},
        {"text": "so he did", "label": "b"},
        {"text": 'and "went" home"', "label": "c"},
        {"text": '"quoted" start', "label": "d"},
        {"text": "last", "label": "e"},
    ]
    assert read_file(path).to_list() == list(stream_rows(path)) == expected


def test_line_ends_and_other_separators_of_lines_in_tsv(write):
    path = write("a.tsv", "text\tlabel\r\none\x0btwo\u2028three\ta\r\nfour\rfive\tb\r\n")
    assert [row["text"] for row in read_file(path).to_list()] == ["one\x0btwo\u2028three", "four\rfive"]


def test_tsv_with_quoting_is_read_as_csv_is(write):
    path = write("a.tsv", 'text\tlabel\n"He said ""no""\tand\nleft"\ta\n')
    assert read_file(path, options=FileOptions(quoting=True)).to_list() == [
        {"text": 'He said "no"\tand\nleft', "label": "a"}
    ]


def test_csv_without_quoting_is_read_by_its_commas(write):
    path = write("a.csv", 'text,label\n"Stop,a\n"quoted" start,b\n')
    with pytest.raises(ValueError, match=r"Line 3 of .*a.csv is not CSV: .* say `quoting: false`"):
        read_file(path)
    assert read_file(path, options=FileOptions(quoting=False)).to_list() == [
        {"text": '"Stop', "label": "a"},
        {"text": '"quoted" start', "label": "b"},
    ]


def test_a_tsv_that_was_written_with_quoting_is_warned_of(write, caplog):
    read_file(write("a.tsv", 'text\tlabel\n"He said ""no"" twice"\ta\nplain\tb\n'))
    assert "1 rows have a cell in quotation marks" in caplog.text
    assert "`quoting: true`" in caplog.text
    with pytest.raises(ValueError, match=r"Row 1 of .* has 1 cells"):
        read_file(write("b.tsv", 'text\tlabel\n"two\nlines"\ta\n'))


def test_rows_of_csv_that_may_have_been_swallowed_are_warned_of(write, caplog):
    path = write("a.csv", 'text,label\nfirst,0\n"He said,1\nfoo,0\nshe said",1\nlast,1\n')
    assert len(read_file(path)) == 3
    assert "1 rows have several lines, each of which could be a row by itself (lines 3 to 5)" in caplog.text
    caplog.clear()
    read_file(write("b.csv", 'text,label\n"A letter\nof two lines",1\n'))
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a", float("nan"), "b"], ["a", None, "b"]),
        ([["a"], float("nan")], [["a"], None]),
        ([True, float("nan")], [True, None]),
    ],
)
def test_nan_is_a_missing_value_in_a_column_of_other_values(write, values, expected):
    path = write("a.jsonl", "\n".join(json.dumps({"text": "x", "label": value}) for value in values))
    assert read_file(path)["label"][:] == expected


def test_nan_stays_a_number_in_a_column_of_numbers(write):
    assert str(read_file(write("a.jsonl", '{"a": 1.5}\n{"a": NaN}\n'))["a"][:]) == "[1.5, nan]"


def test_a_json_file_is_a_list_of_objects(write):
    assert read_file(write("a.json", '[{"text": "a"},\n {"text": "b"}]')).to_list() == [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,text\0_pair\na,b\n"),
        ("a.tsv", "text\0\tlabel\na\tb\n"),
        ("a.jsonl", '{"text": "a", "text\\u0000_pair": "b"}\n'),
        ("a.json", '[{"text": "a", "entities": [{"start": 0, "start\\u0000": 1}]}]'),
    ],
)
def test_a_name_that_arrow_would_cut_off_is_refused(write, name, content):
    with pytest.raises(ValueError, match=r"a name with a NUL character in it: '(text|start)\\x00"):
        read_file(write(name, content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}', "a.json holds dict; a .json file holds a list of objects"),
        ('{"text": "a"}\n{"text": "b"}', "a.json is not JSON: .* is called .jsonl"),
        ('[{"text": "a"}, 3]', "Entry 2 of .*a.json is not an object of columns: 3"),
        ("[" * 9_000, "a.json is not JSON"),
    ],
)
def test_a_wrong_json_file_is_named(write, content, message):
    with pytest.raises(ValueError, match=message):
        read_file(write("a.json", content))


@pytest.mark.parametrize(
    ("options", "name", "message"),
    [
        ({"quoting": True}, "a.jsonl", "'quoting' is for .csv and .tsv files, and .*a.jsonl is none"),
        ({"conll_comments": True}, "a.csv", "'conll_comments' is for .bio and .conll files"),
    ],
)
def test_an_option_of_another_format_is_refused(write, options, name, message):
    with pytest.raises(ValueError, match=message):
        read_file(write(name, "{}"), options=FileOptions(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quoting": "yes"}, "'quoting' is 'yes'; it must be true or false"),
        ({"conll_comments": 1}, "'conll_comments' is 1; it must be true or false"),
        ({"conll_columns": {"tokens": 1}}, "'conll_columns' is .*; it gives the numbers of two columns"),
        ({"conll_columns": {"tokens": "1", "tags": 2}}, "'conll_columns' is"),
        ({"conll_columns": [1, 2]}, "'conll_columns' is"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FileOptions(**options)


def test_a_plain_file_is_read_in_silence(write, caplog):
    caplog.set_level(logging.INFO, "mtsbert")
    read_file(write("a.csv", 'text,label\n"one, two",a\n'))
    read_file(write("a.tsv", 'text\tlabel\n"Yes" and "no"\ta\n'))
    assert caplog.text == ""


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n", "\n\n\n"])
@pytest.mark.parametrize(("name", "between"), [("a.csv", ","), ("a.tsv", "\t")])
def test_empty_lines_at_the_end_are_no_rows_and_others_are_bad_ones(write, name, between, end):
    path = write(name, f"text{between}label\nOslo{between}a{end}")
    assert read_file(path).to_list() == list(stream_rows(path)) == [{"text": "Oslo", "label": "a"}]
    path = write(f"1{name}", f"text{between}label\n\nOslo{between}a{end}")
    with pytest.raises(ValueError, match=r"Row 1 of .* has 0 cells; the header has 2"):
        read_file(path)
    broken: dict[int, str] = {}
    assert len(read_file(path, broken)) == 2
    assert list(broken) == [0]


def test_an_empty_line_at_the_end_of_a_single_column_is_no_row(write):
    assert read_file(write("a.csv", "text\nOslo\n\n")).to_list() == [{"text": "Oslo"}]
    assert read_file(write("b.csv", 'text\nOslo\n""\n')).to_list() == [{"text": "Oslo"}, {"text": None}]
