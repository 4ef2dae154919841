"""Tests how precision is chosen: by what the machine supports natively, unless the user decides."""

import pytest

from mtsbert import arguments
from mtsbert.arguments import MTLTrainingArguments


@pytest.mark.parametrize(
    ("native", "asked", "expected"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"precision": "fp32"}, False),
        (False, {"precision": "bf16"}, True),
        (False, {"bf16": True}, True),
    ],
)
def test_bf16_is_used_where_it_is_native_or_asked_for(tmp_path, monkeypatch, native, asked, expected):
    monkeypatch.setattr(arguments, "has_native_bf16", lambda use_cpu: native)
    assert MTLTrainingArguments(output_dir=str(tmp_path), **asked).bf16 is expected


@pytest.mark.parametrize("sizes", [[0, 8], [8, 8], [2.5]])
def test_matryoshka_sizes_that_cannot_be_are_refused(sizes, tmp_path):
    with pytest.raises(
        ValueError, match=r"`matryoshka_dims` is .*; it must be whole numbers of at least 1, each once"
    ):
        MTLTrainingArguments(str(tmp_path), matryoshka_dims=sizes)
