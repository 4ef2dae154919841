"""Tests the `handler.py` of a checkpoint, called as Hugging Face's Inference Endpoints call it."""

import ast
import json

import pytest

from mtsbert.exports.pipeline import load_pipeline
from pipeline_mtsbert import HANDLER
from tests.test_doors import TEXT


# What the service does: https://github.com/huggingface/huggingface-inference-toolkit, `utils.py`.
SERVICE = """
import importlib.util, json, sys
assert not [path for path in sys.path if {root!r} == path], sys.path
spec = importlib.util.spec_from_file_location("handler.EndpointHandler", {folder!r} + "/handler.py")
sys.path.insert(0, {folder!r})
module = importlib.util.module_from_spec(spec)
sys.modules["handler.EndpointHandler"] = module
spec.loader.exec_module(module)
handler = module.EndpointHandler({folder!r})
assert "mtsbert" not in sys.modules
said = []
for request in json.loads({requests!r}):
    try:
        said.append(handler(request))
    except Exception as error:
        said.append({{"error": str(error)}})
json.dump(said, open({answer!r}, "w"))
"""


@pytest.fixture
def asked(checkpoint, root, tmp_path, run_elsewhere):
    """Sends requests to the handler of a checkpoint, in a process of its own, and returns its answers."""

    def ask(*requests: dict) -> list:
        answer = tmp_path / "answers.json"
        script = SERVICE.format(
            root=str(root), folder=str(checkpoint), requests=json.dumps(requests), answer=str(answer)
        )
        run_elsewhere(script)
        return json.loads(answer.read_text())

    return ask


def test_the_service_gets_the_answers_of_the_pipeline(asked, checkpoint, close):
    pair = {"text": TEXT, "text_pair": "Oslo"}
    parameters = {"tasks": ["topic"], "top_k": 1, "return_embeddings": False, "threshold": {"topic": 0.1}}
    found = asked(
        {"inputs": TEXT},
        {"inputs": [TEXT, pair], "parameters": None},
        {"inputs": TEXT, "parameters": parameters},
        {"inputs": TEXT, "parameters": {"tasks": "nothing"}},
        {"inputs": [["Oslo", "Lima"]]},
    )
    ask = load_pipeline(str(checkpoint))
    assert close(found[0], ask(TEXT), 1e-5)
    assert close(found[1], ask([TEXT, pair]), 1e-5)
    assert close(found[2], ask(TEXT, **parameters), 1e-5)
    assert list(found[2]) == ["topic"]
    assert found[3]["error"].startswith("`tasks` names tasks that the model does not have: ['nothing']")
    assert "the pipeline takes strings, tuples of two strings" in found[4]["error"]


def test_it_is_tiny_and_imports_transformers_alone(checkpoint):
    text = (checkpoint / "handler.py").read_text(encoding="utf-8")
    assert text == HANDLER
    assert len(text.splitlines()) <= 12
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [node.module for node in imports] == ["transformers"]
    assert not [word for word in ("eval", "exec", "open", "__import__") if f"{word}(" in text]
