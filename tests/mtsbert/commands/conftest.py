"""Fixtures with exports of the shared checkpoint, which take seconds to make."""

import pytest
from transformers import LongformerConfig

from mtsbert.commands.export import main as export


@pytest.fixture(scope="session")
def onnx_export(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "onnx"
    export(["--model", str(checkpoint), "--output", str(folder)])
    return folder


@pytest.fixture(scope="session")
def openvino_export(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "openvino"
    export(["--model", str(checkpoint), "--output", str(folder), "--format", "openvino"])
    return folder


@pytest.fixture(params=["onnx", "openvino"])
def exported(request):
    return request.getfixturevalue(f"{request.param}_export")


@pytest.fixture
def untraceable(model_on, tokenizer, tmp_path):
    """A checkpoint whose encoder decides by the values of tensors what it computes."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = LongformerConfig(vocab_size=len(tokenizer), attention_window=8, max_position_embeddings=66, **sizes)
    for part in (model_on(config), tokenizer):
        part.save_pretrained(tmp_path / "untraceable")
    return tmp_path / "untraceable"
