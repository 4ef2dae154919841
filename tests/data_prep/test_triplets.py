"""Tests that pairs of natural language inference become triplets for a ranking, and how wrong input is refused."""

import pytest
from datasets import load_dataset

from data_prep.__main__ import main
from data_prep.build import check_options
from data_prep.triplets import build_triplets, read_nli, triplets_of
from mtsbert import prepare


HEADER = "label,premise,hypothesis\n"
ROWS = """entailment,A dog runs,An animal moves
contradiction,A dog runs,A dog sleeps
neutral,A dog runs,It is brown
entailment,A dog runs,Something moves
entailment,Oslo wins,Oslo does not lose
entailment,A dog runs,An animal moves
contradiction,Lima wins,Lima loses
"""


@pytest.fixture
def nli(tmp_path):
    folder = tmp_path / "nli"
    folder.mkdir()
    (folder / "train.csv").write_text(HEADER + ROWS)
    (folder / "eval.csv").write_text(HEADER + 'entailment,"Rain, again",It rains\n')
    return folder


def test_every_entailed_pair_gets_a_contradiction_of_its_premise_where_there_is_one(nli):
    assert list(triplets_of(read_nli(nli / "train.csv"))) == [
        {"text": "A dog runs", "text_pair": "An animal moves", "text_negative": "A dog sleeps"},
        {"text": "A dog runs", "text_pair": "Something moves", "text_negative": "A dog sleeps"},
        {"text": "Oslo wins", "text_pair": "Oslo does not lose", "text_negative": None},
    ]


def test_several_contradictions_are_used_in_turn():
    pairs = [("entailment", "a", text) for text in "123"] + [("contradiction", "a", text) for text in "xy"]
    assert [row["text_negative"] for row in triplets_of(pairs)] == ["x", "y", "x"]
    both = [("entailment", "a", "1"), ("contradiction", "a", "1"), ("entailment", "a", "2")]  # as sources have it
    assert [row["text_negative"] for row in triplets_of(both)] == [None, "1"]


def test_a_folder_becomes_a_dataset_that_datasets_opens(nli, tmp_path):
    output = tmp_path / "triplets"
    assert prepare(nli=str(nli), output=str(output)) == output
    loaded = load_dataset(str(output))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 3, "validation": 1}
    assert loaded["validation"][0] == {"text": "Rain, again", "text_pair": "It rains", "text_negative": None}


def test_the_command_makes_them_from_a_file_and_replaces_only_if_told(nli, tmp_path, capsys):
    arguments = ["--nli", str(nli / "train.csv"), "--output", str(tmp_path / "made")]
    main(arguments)
    assert capsys.readouterr().out == f"{tmp_path / 'made'}: 3 train triplets\n"
    with pytest.raises(SystemExit, match=r"is not empty\. Pass --overwrite"):
        main(arguments)
    main([*arguments, "--overwrite"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "nli"]
    with pytest.raises(SystemExit, match="--nli makes triplets, which have no use for --max_rows"):
        main([*arguments, "--max_rows", "3"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("premise,hypothesis\na,b\n", "has no column 'label'; it needs"),
        (HEADER + "entailment,a,b\n-,c,d\n", "Row 2 of .* has the label '-'; allowed are"),
        (HEADER + "entailment,a, b,c\n", "Row 1 of .* has more cells than the header"),
        (HEADER + "entailment, ,b\n", "Row 1 of .* lacks a premise or a hypothesis"),
        (HEADER + "neutral,a,b\n", "has no pair with the label 'entailment'"),
        (HEADER + 'neutral,"a,b\n', "cannot be read: unexpected end of data"),
        (HEADER.encode() + b"neutral,\xff,b\n", "is not UTF-8"),
    ],
)
def test_what_cannot_be_used_is_refused_and_leaves_nothing_behind(tmp_path, content, message):
    path = tmp_path / "pairs.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        build_triplets(nli=path, output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_read_or_written_are_refused(nli, tmp_path):
    with pytest.raises(ValueError, match="nowhere is neither a CSV file nor a folder of CSV files"):
        build_triplets(nli=tmp_path / "nowhere", output=tmp_path / "out")
    with pytest.raises(ValueError, match=r"Output .*train.csv is a file; name a folder"):
        build_triplets(nli=nli, output=nli / "train.csv")
    (nli / "dev.csv").write_text(HEADER)
    with pytest.raises(ValueError, match=r"eval.csv: dev.csv is the validation split already"):
        build_triplets(nli=nli, output=tmp_path / "out")
    (nli / "dev.csv").rename(nli / "more.csv")
    with pytest.raises(ValueError, match=r"more.csv: a file of a folder is called train.csv"):
        build_triplets(nli=nli, output=tmp_path / "out")


def test_options_of_triplets_and_of_news_are_not_mixed():
    assert check_options({"nli": "a", "output": "b"}) is build_triplets
    with pytest.raises(ValueError, match=r"unknown keys \['spacy_model'\]; allowed are \['nli', 'output'"):
        check_options({"nli": "a", "output": "b", "spacy_model": "c"})


def test_an_output_folder_that_cannot_be_made_is_named(nli, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"Output folder .* cannot be written"):
        build_triplets(nli=nli, output=tmp_path / "file" / "out")
