"""Tests that labels on which a model and its teacher agree are kept, and all others are left open."""

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from mtsbert.commands.evaluate_entities import Finder
from mtsbert.commands.relabel import Agreement, agree, relabel
from mtsbert.formats.folders import read_folder


def span(start: int, end: int, label: str | None = "GPE") -> dict:
    return {"start": start, "end": end, "label": label}


def test_what_both_say_is_kept_and_differences_are_left_open():
    given = [span(0, 4), span(5, 9, "ORG"), span(10, 14), span(30, 34)]
    found = [span(0, 4), span(5, 9, "PERSON"), span(12, 20), span(18, 22), span(25, 28)]
    spans, counts = agree(given, found)
    assert spans == [span(0, 4), span(5, 9, None), span(10, 22, None), span(25, 28, None), span(30, 34, None)]
    assert counts == Agreement(given=4, agreed=1, added=4, open=4)


def test_what_touches_is_not_joined_and_what_was_open_stays_open():
    assert agree([span(0, 4)], [span(4, 6)])[0] == [span(0, 4, None), span(4, 6, None)]
    assert agree([span(0, 4, None)], []) == ([span(0, 4, None)], Agreement(given=1, agreed=0, added=0, open=1))
    assert agree([], []) == ([], Agreement())


@pytest.fixture
def prepared(tmp_path):
    """A folder as data_prep makes it."""
    features = Features(
        {
            "text": Value("string"),
            "label": ClassLabel(names=["World", "Sports"]),
            "entities": List({"start": Value("int32"), "end": Value("int32"), "label": Value("string")}),
            "tokens": List(Value("string")),
            "ner_tags": List(ClassLabel(names=["O", "B-GPE", "I-GPE"])),
        }
    )
    rows = [
        {"text": "Oslo wins", "label": 1, "entities": [span(0, 4)], "tokens": ["Oslo", "wins"], "ner_tags": [1, 0]},
        {"text": "No Lima", "label": 0, "entities": [], "tokens": ["No", "Lima"], "ner_tags": [0, 0]},
    ]
    folder = tmp_path / "news"
    folder.mkdir()
    for split in ("train", "test"):
        Dataset.from_list(rows, features=features).to_parquet(folder / f"{split}.parquet")
    (folder / "README.md").write_text("# News\n")
    return folder


FINDER = Finder("runs/student", ["GPE"], lambda texts: [[span(*found)] for found in [(0, 4), (3, 7)]])


def test_only_training_rows_change_and_the_card_says_how(prepared, tmp_path):
    (prepared / "report").mkdir()
    (prepared / "report.md").write_text("Of the labels as they were.\n")
    counts = relabel(FINDER, prepared, tmp_path / "agreed")
    assert counts == Agreement(given=1, agreed=1, added=1, open=1)
    assert sorted(path.name for path in (tmp_path / "agreed").iterdir()) == [
        "README.md",
        "test.parquet",
        "train.parquet",
    ]
    splits = read_folder(tmp_path / "agreed", {"train": "train", "test": "test"})
    assert splits["train"].column_names == ["text", "label", "entities"]
    assert splits["train"].features["label"].names == ["World", "Sports"]
    assert splits["train"]["entities"][:] == [[span(0, 4)], [span(3, 7, None)]]
    assert splits["test"]["entities"][:] == [[span(0, 4)], []]
    card = (tmp_path / "agreed" / "README.md").read_text()
    assert card.startswith("# News\n")
    assert "Of the training rows' 1 entities, 1 were also found by student" in card


def test_what_cannot_be_relabelled_is_named_and_nothing_is_left_behind(prepared, tmp_path):
    with pytest.raises(ValueError, match=r"empty has no train\.parquet; `python -m data_prep` makes such a folder"):
        relabel(FINDER, tmp_path / "empty", tmp_path / "agreed")
    with pytest.raises(ValueError, match="news exists already"):
        relabel(FINDER, prepared, prepared)
    fails = Finder("x", ["GPE"], lambda texts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        relabel(fails, prepared, tmp_path / "agreed")
    assert [path.name for path in tmp_path.iterdir()] == ["news"]
    Dataset.from_dict({"text": ["Oslo"]}).to_parquet(prepared / "train.parquet")
    with pytest.raises(ValueError, match=r"has no columns \['entities'\]; it has \['text'\]"):
        relabel(FINDER, prepared, tmp_path / "agreed")
