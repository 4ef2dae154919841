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
