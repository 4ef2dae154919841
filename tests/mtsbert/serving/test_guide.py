"""Tests that what the guide shows works, and that its figures are the measured ones."""

import json
from statistics import median
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


def test_the_figures_are_the_measured_ones(root):
    measured = json.loads((root / "benchmarks" / "results" / "serve.json").read_text(encoding="utf-8"))
    page = (root / "docs" / "results.md").read_text(encoding="utf-8")
    pairs = [[*measured[name].values()] for name in ("requests_per_second", "p95_ms")]
    ratios = [measured[name] for name in ("throughput_ratio", "p95_ratio")]
    for (one, other), ratio in zip(pairs, ratios, strict=True):
        shown = f"ratio {median(ratio):.1f} ({min(ratio):.1f} to {max(ratio):.1f})"
        assert f"| {median(one):.0f}; {median(other):.0f}; {shown} |" in page
    overload = measured["overload"]
    answers = [measured[name] for name in ("lost_requests", "wrong_answers", "largest_difference")]
    assert f"| {answers[0]}; {answers[1]}; {answers[2]:.1e} |" in page
    counts = [f"{overload[name]:,}" for name in ("accepted", "answered", "refused with 429")]
    assert f"| {'; '.join(counts)} |" in page
    assert f"| {overload['memory before, MB']:.0f}; {overload['memory at most, MB']:.0f} |" in page
