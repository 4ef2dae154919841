"""Tests that what the guide shows works, and that its figures are the measured ones."""

from types import SimpleNamespace

import pytest


pytest.importorskip("fastapi", reason="FastAPI is not installed (requirements-serve.txt)")

from mtsbert.serving.guard import OPEN_PATHS
from mtsbert.serving.limits import Limits
from tests.manual import blocks


@pytest.fixture(scope="module")
def guide(root) -> str:
    return (root / "docs" / "guides" / "serving.md").read_text(encoding="utf-8")


def test_the_snippet_of_requests_runs(root, server):
    snippets = blocks(root / "docs" / "guides" / "serving.md", "py")
    assert len(snippets) == 2
    assert snippets[0].count("http://127.0.0.1:8000") == 1
    names: dict = {}
    code = snippets[0].replace(":8000", f":{server.port}")
    exec(compile(code, "serving.md", "exec"), names)
    assert list(names["ask"]("/analyze", inputs="Oil rises", tasks=["topic"], top_k=1)) == ["topic"]


def test_the_snippet_of_openai_sends_what_is_answered(root, server):
    """The client itself is not installed here; what it sends is known: https://github.com/openai/openai-python."""
    snippet = blocks(root / "docs" / "guides" / "serving.md", "py")[1]
    sent = []

    class OpenAI:
        def __init__(self, base_url, api_key):
            assert base_url == "http://127.0.0.1:8000/v1"
            self.embeddings = self

        def create(self, **body):
            reply = server.post("/v1/embeddings", {"encoding_format": "base64", **body, "model": "tiny"})
            sent.append((reply.status, len(reply.json["data"]), body["model"]))
            return SimpleNamespace(data=[SimpleNamespace(embedding=[0.0])])

    code = snippet.replace("from openai import OpenAI\n", "")
    exec(compile(code, "serving.md", "exec"), {"OpenAI": OpenAI})
    assert sent == [(200, 2, "quickstart")]


def test_every_path_and_limit_is_named(guide, server):
    paths = server.get("/openapi.json").json["paths"]
    assert len(paths) > 8
    assert [path for path in [*paths, *OPEN_PATHS] if path not in guide] == []
    limits = Limits()
    for shown in (
        f"larger than {limits.max_body_mb:g} MB",
        f"more than {limits.max_texts} texts, or a text of more than {limits.max_characters:,} characters",
        f"{limits.max_queue:,} texts are waiting",
        f"open requests have bodies of {limits.max_held_mb:g} MB together",
        f"within {limits.timeout_s:g} seconds; what had not begun",
        f"did not arrive within {limits.body_timeout_s:g} seconds",
    ):
        assert shown in guide
