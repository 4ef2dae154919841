"""Tests that checkpoints, SentenceTransformers and plain encoders embed texts as they do elsewhere."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from mtsbert.exports.pipeline import load_pipeline
from mtsbert.network import embedders
from mtsbert.network.embedders import (
    DOCUMENT,
    OURS,
    PLAIN_ENCODER,
    QUERY,
    SENTENCE_TRANSFORMER,
    Embedder,
    kind_of,
    load_embedder,
)


TEXTS = ["Lima hosts the race", "Oslo", "The final ends without a goal in Lima"]


@pytest.fixture
def sentence_transformer(encoder_folder, tmp_path):
    """A folder that sentence-transformers has saved: the [CLS] state of the small encoder."""
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    modules = library.sentence_transformer.modules
    transformer = modules.Transformer(str(encoder_folder))
    pooling = modules.Pooling(transformer.get_embedding_dimension(), pooling_mode="cls")
    prompts = {"query": "race ", "document": ""}
    model = library.SentenceTransformer(modules=[transformer, pooling], prompts=prompts, device="cpu")
    model.save_pretrained(str(tmp_path / "sentence_transformer"))
    return tmp_path / "sentence_transformer"


def test_a_checkpoint_embeds_as_its_pipeline_without_its_heads(checkpoint, monkeypatch):
    asked = []
    call = embedders.MTSBertPipeline.__call__
    monkeypatch.setattr(
        embedders.MTSBertPipeline, "__call__", lambda *a, **k: asked.append(k["tasks"]) or call(*a, **k)
    )
    embedder = load_embedder(str(checkpoint))
    assert embedder.kind == OURS
    expected = [answer["embedding"] for answer in load_pipeline(str(checkpoint))(TEXTS, tasks=["near"])]
    assert np.allclose(embedder.embed(TEXTS), expected, atol=1e-6)
    assert asked == [["near"], []]


def test_many_texts_are_embedded_in_blocks_in_their_order(checkpoint, monkeypatch):
    embedder = load_embedder(str(checkpoint), batch_size=2)
    expected = embedder.embed(TEXTS)
    monkeypatch.setattr(embedders, "TEXTS_PER_CALL", 2)
    assert np.allclose(embedder.embed(TEXTS), expected, atol=1e-6)


def test_a_sentence_transformer_embeds_with_its_pooling_and_its_prompts(sentence_transformer):
    embedder = load_embedder(str(sentence_transformer))
    assert embedder.kind == SENTENCE_TRANSFORMER

    def first_states(texts):
        tokenizer, model = (auto.from_pretrained(sentence_transformer) for auto in (AutoTokenizer, AutoModel))
        with torch.no_grad():
            return model(**tokenizer(texts, padding=True, return_tensors="pt")).last_hidden_state[:, 0].numpy()

    assert np.allclose(embedder.embed(TEXTS), first_states(TEXTS), atol=1e-5)
    assert np.allclose(embedder.embed(TEXTS, DOCUMENT), first_states(TEXTS), atol=1e-5)
    assert np.allclose(embedder.embed(TEXTS, QUERY), first_states([f"race {text}" for text in TEXTS]), atol=1e-5)


def test_the_embedding_of_a_plain_encoder_is_the_normalised_mean_of_its_states(encoder_folder):
    embedder = load_embedder(str(encoder_folder))
    assert embedder.kind == PLAIN_ENCODER
    tokenizer, model = (auto.from_pretrained(encoder_folder) for auto in (AutoTokenizer, AutoModel))
    with torch.no_grad():
        states = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0) for text in TEXTS]
    expected = torch.nn.functional.normalize(torch.stack(states), dim=-1)
    assert np.allclose(embedder.embed(TEXTS), expected, atol=1e-5)


def test_bf16_is_asked_of_every_kind(checkpoint, sentence_transformer, monkeypatch):
    asked = []
    autocast = embedders.autocast
    monkeypatch.setattr(embedders, "autocast", lambda *a: asked.append(a[1]) or autocast(*a))
    for name in (checkpoint, sentence_transformer):
        for precision in ("bf16", "fp32"):
            assert load_embedder(str(name), precision=precision).embed(TEXTS).dtype == np.float32
    assert asked == ["bf16", "fp32"] * 2


@pytest.mark.weights
def test_a_model_in_a_package_is_found(minilm):
    assert kind_of(minilm) == SENTENCE_TRANSFORMER


@pytest.mark.parametrize("settings", [None, {"model_type": "no-such-model"}])
def test_what_is_no_model_is_refused(tmp_path, settings):
    if settings is not None:
        (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"embeds no texts: it must be an mtsbert checkpoint, a SentenceTransformer"):
        kind_of(str(tmp_path))


def test_a_missing_library_is_named(sentence_transformer, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'mtsbert\[sentence-transformers\]'"):
        kind_of(str(sentence_transformer))


def test_code_of_a_sentence_transformer_is_not_run(sentence_transformer, tmp_path):
    path = sentence_transformer / "modules.json"
    modules = json.loads(path.read_text())
    modules[1]["type"] = "own_code.Pooling"
    path.write_text(json.dumps(modules))
    crater = tmp_path / "crater"
    (sentence_transformer / "own_code.py").write_text(f"open({str(crater)!r}, 'w')\nclass Pooling: pass\n")
    with pytest.raises(
        ValueError, match=r"cannot be loaded as a SentenceTransformer\..*code of its own is not run\. .*own_code"
    ):
        load_embedder(str(sentence_transformer))
    assert not crater.exists()


def test_weights_of_a_sentence_transformer_are_safetensors(sentence_transformer):
    (sentence_transformer / "model.safetensors").unlink()
    torch.save({}, sentence_transformer / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"cannot be loaded as a SentenceTransformer\. Its weights must be safetensors"
    ):
        load_embedder(str(sentence_transformer))


def test_an_encoder_without_weights_is_refused(encoder_folder, tmp_path):
    folder = shutil.copytree(encoder_folder, tmp_path / "encoder")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"The encoder '.*encoder' cannot be loaded: "):
        load_embedder(str(folder))


def test_an_embedding_that_is_not_finite_is_refused():
    embedder = Embedder("broken", OURS, lambda texts, use: np.array([[1.0, 0.0], [np.nan, 0.0]]))
    with pytest.raises(ValueError, match=r"broken: the embedding of 'Oslo' is not finite"):
        embedder.embed(["Lima", "Oslo"])
