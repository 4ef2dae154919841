"""Fixtures with exports of the shared checkpoint, which take seconds to make."""

import pytest

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
