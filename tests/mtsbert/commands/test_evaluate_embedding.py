"""Tests the command that measures sentence embeddings, on models of every kind that it takes."""

import json

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

from mtsbert.commands.evaluate_embedding import main, read_pairs, read_retrieval
from mtsbert.network.embedder import load_embedder


PAIRS = [
    ("Oslo beat Lima in the final", "Lima lost the final", 4.5),
    ("Shares of Nimbus Labs rise", "Ada Perez sells her shares", 2.0),
    ("The race ends", "Nimbus Labs opens an office", 0.0),
    ("Lima hosts the race", "The race is in Lima", 5.0),
    ("Ada Perez wins", "Oslo wins", 1.5),
]


@pytest.fixture(scope="module")
def whole(checkpoint):
    return str(checkpoint)


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.csv"
    rows = [f'"{one}","{other}",{score}' for one, other, score in PAIRS]
    path.write_text("\n".join(["sentence1,sentence2,score", *rows]), encoding="utf-8")
    return path


@pytest.fixture
def retrieval(tmp_path):
    path = tmp_path / "search.jsonl"
    rows = [{"query": one, "document": other} for one, other, _ in PAIRS]
    rows.append({"query": PAIRS[0][0], "document": PAIRS[3][1]})  # a second answer, which answers another one too
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def report_of(tmp_path, *arguments) -> dict:
    path = tmp_path / "report.json"
    main([*map(str, arguments), "--precision", "fp32", "--num_resamples", "20", "--json", str(path)])
    return json.loads(path.read_text())


def test_similarity_is_that_of_sentence_transformers(whole, pairs, tmp_path):
    report = report_of(tmp_path, "--model", whole, "--pairs", pairs)
    first, second, scores = zip(*PAIRS, strict=True)
    theirs = EmbeddingSimilarityEvaluator(first, second, scores, main_similarity="cosine", write_csv=False)
    expected = theirs(SentenceTransformer(whole, trust_remote_code=True))
    assert report["pairs"]["model"]["spearman"]["value"] == pytest.approx(expected["spearman_cosine"], abs=1e-6)
    assert report["pairs"]["model"]["pearson"]["value"] == pytest.approx(expected["pearson_cosine"], abs=1e-5)
    assert report["pairs"]["model"]["spearman"]["low"] <= report["pairs"]["model"]["spearman"]["value"]


def test_a_model_beside_itself_agrees_with_itself(whole, pairs, retrieval, tmp_path, capsys):
    report = report_of(tmp_path, "--model", whole, "--reference", whole, "--pairs", pairs, "--retrieval", retrieval)
    assert report["pairs"]["model"] == report["pairs"]["reference"]
    assert report["pairs"]["difference from reference"]["spearman"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    sides = report["retrieval"]
    assert sides["model"] == sides["reference"] == sides["model in the reference's index"]
    assert report["agreement"]["num_texts"] == 5
    assert report["agreement"]["cosine"] == pytest.approx(1.0)
    said = capsys.readouterr().out
    assert "5 scored pairs" in said
    assert "5 queries, 5 documents" in said
    assert "mean cosine 1.000" in said


@pytest.mark.parametrize("kind", ["checkpoint", "exported", "bare"])
def test_every_kind_of_model_gives_its_embeddings(kind, whole, encoder_folder, tmp_path, caplog):
    """By our own pipeline, by sentence-transformers without any code of the checkpoint, and by pooling an encoder."""
    from mtsbert.commands.export import export_encoder

    texts = [one for one, _, _ in PAIRS]
    folder = {"checkpoint": whole, "exported": str(tmp_path / "encoder"), "bare": str(encoder_folder)}[kind]
    if kind == "exported":
        export_encoder(whole, tmp_path / "encoder")
    found = load_embedder(folder, precision="fp32").encode(texts)
    model = SentenceTransformer(folder, trust_remote_code=True)
    expected = model.encode(texts, normalize_embeddings=True)
    assert found / np.linalg.norm(found, axis=1, keepdims=True) == pytest.approx(expected, abs=1e-5)
    assert ("is a bare encoder" in caplog.text) == (kind == "bare")


def test_documents_of_a_query_are_all_relevant_and_equal_texts_are_one(retrieval):
    found = read_retrieval(retrieval)
    assert found.queries == [one for one, _, _ in PAIRS]
    assert found.documents == [other for _, other, _ in PAIRS]
    assert found.relevant == [{0, 3}, {1}, {2}, {3}, {4}]


def test_columns_can_be_named(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"a": "x", "b": "y", "c": 1}\n{"a": "z", "b": "y", "c": 2}')
    assert read_pairs(path, ["a", "b", "c"]).scores.tolist() == [1.0, 2.0]
    assert read_retrieval(path, ["b", "a"]).relevant == [{0, 1}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sentence1,sentence2,score\n", "has no rows"),
        ("one,two\na,b\n", "needs the columns sentence1, sentence2, score or text, text_pair, score; it has"),
        ("sentence1,sentence2,score\na,b,1\na,c,high\n", "Row 2 of .*: the score is 'high'; it must be a number"),
        ("sentence1,sentence2,score\na,b,1\na,c,nan\n", "Row 2 of .*: the score is 'nan'"),
        ("sentence1,sentence2,score\na,b,1\n ,c,2\n", "Row 2 of .*: a text is ' '; it must be"),
        ("sentence1,sentence2,score\na,b,1\na,c,1\n", "has 2 pairs with 1 different scores"),
    ],
)
def test_pairs_that_cannot_be_scored_are_refused(tmp_path, content, message):
    path = tmp_path / "pairs.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        main(["--model", "nowhere", "--pairs", str(path)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"query": "a", "document": "b"}', "has 1 different documents; a search needs at least 2"),
        ('{"query": "a", "document": "b"}\n{"query": "a"}', "Row 2 of .*: a text is None"),
        ('{"question": "a", "document": "b"}', "needs the columns query, document or anchor, positive"),
    ],
)
def test_documents_that_cannot_be_searched_are_refused(tmp_path, content, message):
    path = tmp_path / "search.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        main(["--model", "nowhere", "--retrieval", str(path)])


def test_what_cannot_be_measured_is_refused(pairs, tmp_path):
    with pytest.raises(ValueError, match="Give --pairs, --retrieval or both"):
        main(["--model", "nowhere"])
    with pytest.raises(ValueError, match="must be at least 1"):
        main(["--model", "nowhere", "--pairs", str(pairs), "--at", "0"])
    with pytest.raises(ValueError, match="there is no folder"):
        main(["--model", "nowhere", "--pairs", str(pairs), "--json", str(tmp_path / "no" / "report.json")])
    with pytest.raises(ValueError, match=r"is not a file"):
        main(["--model", "nowhere", "--pairs", str(tmp_path / "no.csv")])
    with pytest.raises(ValueError, match=r"the file must be one of .*\.csv"):
        main(["--model", "nowhere", "--pairs", str(tmp_path)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is no model that gives sentence embeddings"):
        main(["--model", str(tmp_path / "empty"), "--pairs", str(pairs)])


def test_a_sentence_transformer_needs_that_package(whole, tmp_path, monkeypatch):
    from mtsbert.commands.export import export_encoder

    export_encoder(whole, tmp_path / "encoder")
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    with pytest.raises(ValueError, match="is a SentenceTransformer, and that package is missing"):
        load_embedder(str(tmp_path / "encoder"))
