"""Tests pairs of texts that are made from labelled news."""

import pytest
from datasets import load_dataset

from data_prep.__main__ import main
from data_prep.build import check_options
from data_prep.pairs import build_pairs, pairs
from mtsbert.preparation import prepare


def news(title: str, topic: int, sentiment: int = 0) -> dict:
    return {"parts": [title, ""], "label": topic, "sentiment": sentiment}


def test_each_text_meets_the_next_of_its_topic_and_of_another():
    rows = [news("a", 0, 1), news("b", 0, 2), news("c", 1, 1)]
    found = [tuple(pair.values()) for pair in pairs(rows, ["label", "sentiment"])]
    assert found == [
        ("a", "b", 0, 0.5),
        ("a", "c", 1, 0.5),
        ("b", "a", 0, 0.5),
        ("b", "c", 1, 0.0),
        ("c", "a", 1, 0.5),  # no other text has its topic
    ]


@pytest.mark.parametrize("unlabelled", [-1, None])
def test_texts_without_a_topic_are_in_no_pair(unlabelled):
    rows = [news("a", 0), news("x", unlabelled), news("y", unlabelled), news("b", 1)]
    found = [tuple(pair.values())[:3] for pair in pairs(rows, ["label"])]
    assert found == [("a", "b", 1), ("b", "a", 1)]


def test_a_text_is_no_pair_with_itself_and_many_texts_take_no_longer_each():
    assert list(pairs([news("a", 0), news("a", 0)], ["label"])) == []
    many = [news(f"text {number}", number // 10_000) for number in range(20_000)]
    found = list(pairs(many, ["label"]))
    assert len(found) == 40_000
    assert (found[0]["text_pair"], found[1]["text_pair"]) == ("text 1", "text 10000")
    assert (found[-2]["text_pair"], found[-1]["text_pair"]) == ("text 10000", "text 0")


def test_the_sample_becomes_pairs(tmp_path):
    assert prepare(pairs_of="sample", output=str(tmp_path / "pairs")) == tmp_path / "pairs"
    rows = load_dataset(str(tmp_path / "pairs"))
    assert {split: len(rows[split]) % 2 for split in rows} == {"train": 0, "validation": 0, "test": 0}
    assert rows["train"].features["relation"].names == ["same_topic", "other_topic"]
    assert set(rows["train"]["likeness"]) == {0.0, 0.5, 1.0}
    assert rows["train"]["relation"][:4] == [0, 1, 0, 1]
    assert all(row["likeness"] > 0 for row in rows["train"] if row["relation"] == 0)
    assert all(row["likeness"] < 1 for row in rows["train"] if row["relation"] == 1)


def test_the_command_and_what_it_refuses(tmp_path, capsys):
    main(["--pairs_of", "sample", "--output", str(tmp_path / "made")])
    assert capsys.readouterr().out.endswith(" pairs\n")
    with pytest.raises(SystemExit, match="--pairs_of makes pairs, which have no use for --max_rows"):
        main(["--pairs_of", "sample", "--output", str(tmp_path / "more"), "--max_rows", "3"])
    with pytest.raises(SystemExit, match="is not empty"):
        main(["--pairs_of", "sample", "--output", str(tmp_path / "made")])
    assert check_options({"pairs_of": "sample", "output": "x"}) is build_pairs


def test_a_source_with_a_single_text_is_refused(tmp_path):
    (tmp_path / "train.csv").write_text('"1","Talks","In Geneva."\n')
    with pytest.raises(ValueError, match=r"Split 'train' of source .* has no two texts to compare"):
        build_pairs(pairs_of=str(tmp_path / "train.csv"), output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
