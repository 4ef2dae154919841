"""Tests which data in memory is several splits of one dataset, which is several datasets, and what is refused."""

import pytest
from datasets import Dataset, DatasetDict

from mtsbert import load_data
from mtsbert.data.in_memory import as_datasets, specs_of


TOPIC = {"topic": "sequence_classification"}


@pytest.fixture
def rows() -> Dataset:
    return Dataset.from_dict({"text": ["Oslo beat Lima", "Shares rise"], "topic": ["Sports", "Business"]})


@pytest.mark.parametrize(
    ("names", "others"),
    [
        (["train", "test", "unsupervised"], r"\['unsupervised'\]"),
        (["train", "dev"], r"\['dev'\]"),
        (["news", "validation"], r"\['news'\]"),
    ],
)
@pytest.mark.parametrize("kind", [dict, DatasetDict])
def test_splits_beside_what_is_none_are_not_several_datasets(rows, kind, names, others):
    data = kind(dict.fromkeys(names, rows))
    message = rf"has \['{names[0]}', .*, of which {others} are no splits.* rename or leave out the others"
    with pytest.raises(ValueError, match=f"The data {message}"):
        load_data(data, TOPIC)
    with pytest.raises(ValueError, match=f"`news` {message}"):
        load_data({"news": data}, TOPIC)
    with pytest.raises(ValueError, match=f"`train_dataset` {message}"):
        as_datasets(data, "train_dataset")


def test_a_dataset_dict_is_always_splits_and_a_dict_of_names_several_datasets(rows):
    names = {"topics": rows, "more": rows}
    with pytest.raises(ValueError, match="give a `dict` with names of your own"):
        load_data(DatasetDict(names), TOPIC)
    with pytest.raises(ValueError, match="give a `dict` with names of your own"):
        as_datasets(DatasetDict(names), "train_dataset")
    assert load_data(names, TOPIC).dataset_names == ["topics", "more"]
    assert list(as_datasets(names, "train_dataset")) == ["topics", "more"]


def test_every_dataset_may_have_splits_and_be_called_like_one(rows):
    splits = DatasetDict(train=rows, test=rows)
    assert specs_of({"news": splits, "test": {"train": rows}}) == {
        "news": {"dataset": {"train": rows, "test": rows}},
        "test": {"dataset": {"train": rows}},
    }
    assert list(load_data(splits, TOPIC).examples) == ["train", "test"]


@pytest.mark.parametrize(
    "columns", [["text", "topic"], "text", {"data": {"text": "text"}, "more": ["text"]}, {"data": {}, "text": "text"}]
)
def test_columns_that_are_no_mapping_are_refused(rows, columns):
    with pytest.raises(ValueError, match=r"`columns` is .*; it maps columns to 'text', .* or names of datasets to"):
        load_data(rows, TOPIC, columns=columns)
