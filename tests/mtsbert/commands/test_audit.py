"""Tests the command: what it writes, what it measures, and what it refuses."""

import json
import re

import numpy as np
import pytest

from mtsbert.commands.audit import describe_planted, main
from mtsbert.formats.files import read_file


ROWS = [
    *(("The final ends without a goal" + " race" * number, "Sports") for number in range(10)),
    *(("Shares of Nimbus Labs rise" + " shares" * number, "Business") for number in range(10)),
]
WRONG = [3, 12]


@pytest.fixture
def rows_file(tmp_path):
    """Twenty rows; the labels of `WRONG` are swapped."""
    path = tmp_path / "rows.jsonl"
    swapped = {"Sports": "Business", "Business": "Sports"}
    rows = [
        {"text": text, "label": swapped[label] if row in WRONG else label} for row, (text, label) in enumerate(ROWS)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def audit(encoder_folder, rows_file, tmp_path):
    """Runs the command on the twenty rows."""

    def run(*flags: str) -> None:
        main(["--model", str(encoder_folder), "--data", str(rows_file), "--precision", "fp32", *flags])

    return run


def test_what_is_found_of_planted_mistakes():
    planted = np.zeros(100, dtype=bool)
    planted[:10] = True
    order = np.array([0, 1, 50, 2, 3, 51, 4, 5, 6, 52, *range(53, 60), 7, *range(60, 100), 8, 9, *range(10, 50)])
    assert describe_planted(planted, order) == (
        "| most suspicious | rows | planted among them | of all planted |\n"
        "|-----------------|------|--------------------|----------------|\n"
        "| 2.0%            | 2    | 100.0%             | 20.0%          |\n"
        "| 5.0%            | 5    | 80.0%              | 40.0%          |\n"
        "| 10.0%           | 10   | 70.0%              | 70.0%          |\n"
        "| 20.0%           | 20   | 40.0%              | 80.0%          |"
    )


@pytest.mark.parametrize("output", ["suspects.csv", "suspects.jsonl", "suspects.parquet"])
def test_the_command_writes_the_suspicious_rows(audit, tmp_path, capsys, output):
    audit("--output", str(tmp_path / output), "--share", "0.1")
    found = read_file(tmp_path / output).to_list()
    assert sorted(int(row["row"]) for row in found) == WRONG
    for row in found:
        text, right = ROWS[int(row["row"])]
        assert (row["text"], row["suggested"]) == (text, right)
        assert {row["label"], right} == {"Sports", "Business"}
        assert 0 <= float(row["label_probability"]) < float(row["suggested_probability"]) <= 1
    printed = capsys.readouterr().out
    assert "rows.jsonl: 20 rows with 2 labels" in printed
    assert f"{output}: the 2 most suspicious" in printed
    assert "| Sports   | Business  | 1    |" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", output}


def test_the_command_measures_on_planted_mistakes(audit, tmp_path, capsys):
    audit("--planted_share", "0.1", "--num_folds", "4")
    printed = capsys.readouterr().out
    assert "2 of them were given a wrong label (seed 42)" in printed
    assert re.search(r"\| 10.0% +\| 2 ", printed)
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl"}


@pytest.mark.parametrize("output", ["suspects.csv", "suspects.jsonl", "suspects.parquet"])
def test_the_command_writes_suspicious_entities(audit, tmp_path, capsys, output):
    """Thirty cities are marked, and one of them is not."""
    names = ["Oslo", "Lima"] * 15
    rows = [
        {"text": f"{name} hosts the race" + " race" * n, "entities": [{"start": 0, "end": 4, "label": "GPE"}]}
        for n, name in enumerate(names)
    ]
    rows[7]["entities"] = []
    path = tmp_path / "marked.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    flags = ["--data", str(path), "--entities_column", "entities"]
    audit(*flags, "--output", str(tmp_path / output), "--share", "0.04")
    (found,) = read_file(tmp_path / output).to_list()
    assert (int(found["row"]), found["suggested"], found["text"]) == (7, "Lima", rows[7]["text"])
    assert ((found["types"] or ""), found["suggested_types"]) == ("", "GPE")
    assert (int(found["start"]), int(found["end"]), found["entities"] or "") == (0, 4, "")
    printed = capsys.readouterr().out
    assert "marked.jsonl: 30 rows with entities of 1 types" in printed
    assert "| no entity | GPE       | 1    |" in printed
    audit(*flags, "--planted_share", "0.1")
    assert "3 of them were given a wrong label (seed 42)" in capsys.readouterr().out


def test_tags_of_another_scheme_are_read(audit, tmp_path, capsys):
    path = tmp_path / "rows.conll"
    path.write_text("".join(f"Ada B-PER\nPerez E-PER\nwins O\n{number} O\n\n" for number in range(20)))
    flags = ["--data", str(path), "--text_column", "tokens", "--entities_column", "tags", "--planted_share", "0.1"]
    audit(*flags, "--tag_scheme", "bioes")
    assert "20 rows with entities of 1 types" in capsys.readouterr().out
    with pytest.raises(ValueError, match="E-PER"):
        audit(*flags)


@pytest.mark.parametrize("number", [0, 1])
def test_of_a_share_below_one_row_one_is_looked_at(audit, tmp_path, number):
    audit("--output", str(tmp_path / "x.csv"), "--share", "0.01", "--seed", str(number))
    (found,) = read_file(tmp_path / "x.csv").to_list()
    assert int(found["row"]) in WRONG


def test_where_nothing_is_suspicious_nothing_is_written(audit, tmp_path, capsys):
    rows = [{"text": text, "label": label} for text, label in ROWS for _ in range(2)]
    clean = tmp_path / "clean.jsonl"
    clean.write_text("\n".join(map(json.dumps, rows)))
    audit("--data", str(clean), "--output", str(tmp_path / "x.csv"))
    assert "No label is suspicious; nothing is written" in capsys.readouterr().out
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output", "x.xlsx"], r"x.xlsx: suspicious rows are written as .csv, .jsonl, .parquet"),
        (["--output", "nowhere/x.csv"], "nowhere/x.csv cannot be written: there is no folder nowhere"),
        (["--planted_share", "5"], r"--planted_share is 5.0; it must lie between 0 and 1"),
        (["--output", "x.csv", "--share", "0"], r"--share is 0.0; it must lie between 0 and 1"),
        (["--output", "x.csv", "--seed", "-1"], r"--seed is -1; it must be at least 0"),
        (["--planted_share", "0.01"], r"0.01 of 20 rows is no row to make a mistake in"),
        (["--output", "/proc/x.csv"], "/proc/x.csv cannot be written"),
        (["--output", "x.csv", "--num_folds", "1"], r"--num_folds is 1; it must be at least 2"),
        (["--output", "x.csv", "--label_column", "topic"], r"has no column 'topic'; it has \['text', 'label'\]"),
        (["--output", "x.csv", "--entities_column", "spans"], r"has no column 'spans'; it has \['text', 'label'\]"),
        (["--output", "x.csv", "--num_folds", "11"], r"has 0 labels with at least 11 texts .*; an audit needs two"),
        (["--output", "x.csv", "--model", "nowhere"], r"No encoder found under 'nowhere'"),
    ],
)
def test_what_is_wrong_is_said(audit, flags, message):
    with pytest.raises(ValueError, match=message):
        audit(*flags)


def test_a_file_that_is_there_is_not_written_over(audit, tmp_path):
    (tmp_path / "x.csv").write_text("mine")
    with pytest.raises(ValueError, match="exists already"):
        audit("--output", str(tmp_path / "x.csv"))
    assert (tmp_path / "x.csv").read_text() == "mine"


@pytest.mark.parametrize("flags", [[], ["--output", "x.csv", "--planted_share", "0.05"]])
def test_it_either_writes_or_measures(audit, flags, capsys):
    with pytest.raises(SystemExit):
        audit(*flags)
    assert re.search(r"--output.*--planted_share|--planted_share.*not allowed with", capsys.readouterr().err)
