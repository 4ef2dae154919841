"""Tests that the ids in a `ClassLabel` column stand for its names, whatever the task learns from them."""

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from mtsbert.data.loading import load_data


KINDS = {"kind": {"type": "sequence_classification", "multi_label": True}}


def rows_of(ids: dict[str, list[int | None]], names: list[str]) -> Dataset:
    """A row for each id, in columns that all have these names."""
    num_rows = len(next(iter(ids.values())))
    texts = {"text": [f"a {row}" for row in range(num_rows)], "text_pair": ["b"] * num_rows}
    features = dict.fromkeys(texts, Value("string")) | {column: ClassLabel(names=names) for column in ids}
    return Dataset.from_dict(texts | ids, features=Features(features))


def flags_of(rows: Dataset, labels: list[str]) -> list:
    spec = {"dataset": {"train": rows}, "columns": {"text": "text"}, "label_columns": {"kind": labels}}
    return load_data({"comments": spec}, KINDS).examples["train"]["kind"][:]


@pytest.mark.parametrize("names", [["yes", "no"], ["true", "false"], ["1", "0"], ["Yes ", "NO"]])
def test_flags_are_the_names_of_classes_and_not_their_ids(names):
    rows = rows_of({"insult": [0, 1, 1, -1, None], "threat": [1, 1, 0, -1, None]}, names)
    assert flags_of(rows, ["insult", "threat"]) == [["insult"], [], ["threat"], None, None]


def test_names_of_classes_that_are_no_flags_are_named_with_their_column():
    with pytest.raises(ValueError, match=r"Row 0 .*column 'insult' holds 'rude'; it needs 0 or 1 for its label"):
        flags_of(rows_of({"insult": [1]}, ["polite", "rude"]), ["insult"])
    with pytest.raises(ValueError, match=r"Row 1 .*column 'threat' holds None; it needs 0 or 1 for its label"):
        flags_of(rows_of({"insult": [1, 0], "threat": [1, -1]}, ["no", "yes"]), ["insult", "threat"])


@pytest.mark.parametrize("task", [{"type": "sequence_regression"}, {"type": "pair_similarity", "score_range": [0, 5]}])
def test_scores_are_the_names_of_classes_and_not_their_ids(task):
    data = load_data(rows_of({"stars": [0, 1, -1, None]}, ["5", "1.5"]), {"stars": task})
    assert data.examples["train"]["stars"][:] == [5.0, 1.5, None, None]
    with pytest.raises(ValueError, match=r"Row 1 .*column 'stars': 'good' is not a score"):
        load_data(rows_of({"stars": [0, 1]}, ["5", "good"]), {"stars": task})
