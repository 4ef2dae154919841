"""Tests the arguments of `load_data` that are not data."""

import pytest
from datasets import Dataset

from mtsbert.data.loading import load_data


TOPIC = {"topic": "sequence_classification"}
ROWS = Dataset.from_dict({"text": ["a", "b", "c"], "topic": ["x", "y", "x"]})


@pytest.mark.parametrize(
    ("max_samples", "message"),
    [
        ({"train": 0}, "`max_samples` of 'train' is 0; it must be a whole number of at least 1"),
        ({"train": -1}, "of 'train' is -1;"),
        ({"train": 1.5}, "of 'train' is 1.5;"),
        ({"train": "1"}, "of 'train' is '1';"),
        ({"train": True}, "of 'train' is True;"),
        ({"train": 2, "test": 0}, "of 'test' is 0;"),
        ({"valid": 1}, r"maps some of \['train', 'validation', 'test'\] to numbers of rows; got {'valid': 1}"),
        (2, "to numbers of rows; got 2"),
    ],
    ids=str,
)
def test_what_is_no_number_of_samples_of_a_split_is_refused(max_samples, message):
    with pytest.raises(ValueError, match=message):
        load_data(ROWS, TOPIC, max_samples=max_samples)


@pytest.mark.parametrize(
    ("max_samples", "num_rows"), [(None, 3), ({}, 3), ({"train": None}, 3), ({"test": 1}, 3), ({"train": 2}, 2)]
)
def test_a_number_of_samples_limits_the_rows_of_its_split(max_samples, num_rows):
    assert len(load_data(ROWS, TOPIC, max_samples=max_samples).examples["train"]) == num_rows
