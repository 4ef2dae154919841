"""Tests measuring sentence embeddings: what is read, what comes out, and that sentence-transformers finds the same."""

import json

import numpy as np
import pytest
from datasets import Dataset

from mtsbert import resolve_name
from mtsbert.commands.evaluate import embedding as module
from mtsbert.commands.evaluate.embedding import (
    CROSSED,
    DIFFERENCE,
    MODEL,
    REFERENCE,
    Pairs,
    Retrieval,
    evaluate_pairs,
    evaluate_retrieval,
    main,
)
from mtsbert.network.embedders import OURS, Embedder, load_embedder
from tests.conftest import ROWS


PAIRS = "sentence1,sentence2,score\nLima,Oslo,1\nOslo,Rain,2\nRain,Lima,4\nRain,Rome,3\n"
RETRIEVAL = [("a", "Lima"), ("b", "Oslo"), ("a", "Rome"), ("b", "Oslo"), ("Lima", "Rain")]
VECTORS = {
    MODEL: {"Lima": [1, 0], "Oslo": [1, 1], "Rain": [0, 1], "Rome": [-1, 1], "a": [2, 0.1], "b": [1, 1.5]},
    REFERENCE: {"Lima": [1, 0], "Oslo": [0, 1], "Rain": [0, 2], "Rome": [1, 0.1], "a": [3, 1], "b": [0, 5]},
}


@pytest.fixture
def sides() -> dict[str, Embedder]:
    """Two models that embed what stands in `VECTORS`."""

    def embedder(side: str) -> Embedder:
        return Embedder(side, OURS, lambda texts, use: np.array([VECTORS[side][text] for text in texts], dtype=float))

    return {side: embedder(side) for side in VECTORS}


@pytest.fixture
def pairs_file(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text(PAIRS)
    return path


@pytest.fixture
def retrieval_file(tmp_path):
    path = tmp_path / "retrieval.jsonl"
    path.write_text("".join(json.dumps({"query": q, "document": d}) + "\n" for q, d in RETRIEVAL))
    return path


@pytest.fixture
def command(sides, monkeypatch):
    """Runs the command with these two."""
    monkeypatch.setattr(module, "kind_of", lambda name: sides[name].kind)
    monkeypatch.setattr(module, "load_embedder", lambda name, **settings: sides[name])

    def run(*flags) -> None:
        main(["--model", MODEL, "--num_resamples", "50", *map(str, flags)])

    return run


def table(printed: str) -> list[list[str]]:
    """The cells of all tables, each without its interval."""
    lines = [line for line in printed.splitlines() if line.startswith("| ")]
    return [[cell.strip().partition(" (")[0] for cell in line.split("|")[1:-1]] for line in lines]


# Reading


def test_pairs_are_read_with_their_distinct_texts(pairs_file):
    pairs = Pairs.read(pairs_file)
    assert pairs.texts == ["Lima", "Oslo", "Rain", "Rome"]
    assert pairs.places.tolist() == [[0, 1], [1, 2], [2, 0], [2, 3]]
    assert pairs.scores.tolist() == [1.0, 2.0, 4.0, 3.0]


@pytest.mark.parametrize(
    ("names", "asked"),
    [
        (["text", "text_pair", "score"], (None, None, None)),
        (["sentence1", "sentence2", "label"], (None, None, None)),
        (["text", "other", "score"], (None, "other", None)),
        (["a", "b", "c"], ("a", "b", "c")),
    ],
)
def test_columns_have_the_usual_names_or_those_that_are_given(tmp_path, names, asked):
    path = tmp_path / "pairs.parquet"
    values = [["Lima", "Oslo"], ["Oslo", "Rain"], [0.5, 1.0]]
    Dataset.from_dict(dict(zip(names, values, strict=True))).to_parquet(path)
    pairs = Pairs.read(path, asked)
    assert pairs.texts == ["Lima", "Oslo", "Rain"]
    assert pairs.scores.tolist() == [0.5, 1.0]


def test_equal_texts_are_one_query_or_one_document(retrieval_file):
    retrieval = Retrieval.read(retrieval_file)
    assert retrieval.queries == ["a", "b", "Lima"]
    assert retrieval.documents == ["Lima", "Oslo", "Rome", "Rain"]
    assert [of.tolist() for of in retrieval.relevant] == [[0, 2], [1], [3]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sentence1,sentence2,score\n", r"pairs.csv has no rows"),
        (
            "a,b,score\nx,y,1\n",
            r"has the columns \['a', 'b', 'score'\], and not \['sentence1', 'sentence2', 'score'\] or",
        ),
        ("text,text_pair,score\nx,y,1\n", r"has a single pair; a correlation needs two"),
        ("text,text_pair,score\nx,y,1\nx,z,high\n", r"Row 2 of .*pairs.csv: the score is 'high'; it must be a finite"),
        ("text,text_pair,score\nx,y,nan\nx,z,1\n", r"Row 1 of .*pairs.csv: the score is 'nan'; it must be a finite"),
        ("text,text_pair,score\nx,y,\nx,z,1\n", r"Row 1 of .*pairs.csv: the score is None; it must be a finite"),
        ("text,text_pair,score\nx,y,2\nx,z,2.0\n", r"pairs.csv: all scores are 2\. A correlation needs scores that"),
        ("text,text_pair,score\nx,y,1\nx,,2\n", r"Row 2 of .*pairs.csv has no text in the column 'text_pair'"),
        ("text,text_pair,score\n  ,y,1\nx,z,2\n", r"Row 1 of .*pairs.csv has no text in the column 'text'"),
    ],
)
def test_pairs_that_cannot_be_used_are_named_before_a_model_is_loaded(tmp_path, content, message):
    path = tmp_path / "pairs.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        main(["--model", "nowhere", "--pairs", str(path)])


def test_a_truth_value_is_no_score(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        '{"text": "x", "text_pair": "y", "score": true}\n{"text": "x", "text_pair": "z", "score": false}\n'
    )
    with pytest.raises(ValueError, match=r"Row 1 of .*pairs.jsonl: the score is True"):
        Pairs.read(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"query": "x", "answer": "y"}],
            r"has the columns \['query', 'answer'\], and not \['query', 'document'\]\. Name",
        ),
        ([{"query": "x", "document": "y"}] * 2, r"has a single document; every query would find it"),
        ([{"query": "x", "document": 7}], r"Row 1 of .*: the column 'document' holds 7, which is no text"),
        ([{"query": None, "document": "y"}], r"Row 1 of .* has no text in the column 'query'"),
    ],
)
def test_a_search_that_cannot_be_used_is_named_before_a_model_is_loaded(tmp_path, rows, message):
    path = tmp_path / "retrieval.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=message):
        main(["--model", "nowhere", "--retrieval", str(path)])


def test_one_column_is_not_both_texts(pairs_file):
    with pytest.raises(ValueError, match=r"are sentence2, sentence2, score; they must be different columns"):
        Pairs.read(pairs_file, ("sentence2", None, None))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], r"nothing to measure: give --pairs FILE, --retrieval FILE or both"),
        (["--pairs", "x.csv", "--at", "3"], r"--at is about --retrieval, which is not given"),
        (["--retrieval", "x.csv", "--text_column", "a"], r"--text_column is about --pairs, which is not given"),
        (["--retrieval", "x.csv", "--at", "0"], r"--at has 0; it counts documents"),
        (["--retrieval", "x.csv", "--at", "3", "3"], r"--at names a number twice: \[3, 3\]"),
        (["--pairs", "x.csv", "--num_resamples", "0"], r"--num_resamples is 0; it must be at least 1"),
        (["--pairs", "x.csv", "--seed", "-1"], r"--seed is -1; it must be at least 0"),
        (["--pairs", "x.csv", "--batch_size", "0"], r"--batch_size is 0; it must be at least 1"),
        (["--pairs", "x.csv", "--output", "nowhere/x.json"], "cannot be written: there is no folder nowhere"),
        (["--pairs", "x.csv", "--output", __file__], "exists already; remove it or name another file"),
        (["--pairs", "x.csv"], r"x.csv: no such file"),
    ],
)
def test_what_is_wrong_with_the_flags_is_said(command, flags, message):
    with pytest.raises(ValueError, match=message):
        command(*flags)


def test_a_reference_that_is_no_model_is_named_before_the_model_is_loaded(
    pairs_file, checkpoint, monkeypatch, tmp_path
):
    monkeypatch.setattr(module, "load_embedder", lambda *args, **kwargs: pytest.fail("it was loaded"))
    with pytest.raises(ValueError, match=r"embeds no texts"):
        main(["--model", str(checkpoint), "--reference", str(tmp_path), "--pairs", str(pairs_file)])


# Results


def test_pairs_by_hand(pairs_file, sides):
    evaluation = evaluate_pairs(Pairs.read(pairs_file), sides, num_resamples=10)
    half = np.sqrt(0.5)
    for side, cosines in {MODEL: [half, half, 0, half], REFERENCE: [0, 1, 0, 0.1 / np.sqrt(1.01)]}.items():
        expected = np.corrcoef(cosines, [1, 2, 4, 3])[0, 1]
        assert evaluation.measures[side].values[1] == pytest.approx(expected)
    # ranks of the model's cosines: 3, 3, 1, 3; of the scores: 1, 2, 4, 3
    assert evaluation.measures[MODEL].values[0] == pytest.approx(np.corrcoef([3, 3, 1, 3], [1, 2, 4, 3])[0, 1])
    assert evaluation.measures[DIFFERENCE].values[0] == pytest.approx(
        evaluation.measures[MODEL].values[0] - evaluation.measures[REFERENCE].values[0]
    )
    assert evaluation.agreement == {
        "embedding_cosine": pytest.approx((1 + half + 1 + (-0.9 * half / np.sqrt(1.01))) / 4)
    }


def test_retrieval_by_hand(retrieval_file, sides):
    evaluation = evaluate_retrieval(Retrieval.read(retrieval_file), sides, at=[1, 2], num_resamples=10)
    # The model ranks Lima, Oslo, Rain, Rome for a; Oslo, Rain, Lima, Rome for b; Lima, Oslo, Rain, Rome for Lima.
    assert evaluation.measures[MODEL].values.tolist() == pytest.approx(
        [
            (1 / 2 + 1 + 0) / 3,
            (1 / 2 + 1 + 0) / 3,
            (1 + 1 + 1 / 3) / 3,
            ((1 + 1 / np.log2(5)) / (1 + 1 / np.log2(3)) + 1 + 1 / 2) / 3,
        ]
    )
    # The reference ranks Rome, Lima, Oslo, Rain for a; Oslo, Rain, Rome, Lima for b; Lima, Rome, Oslo, Rain for Lima.
    assert evaluation.measures[REFERENCE].values[:3].tolist() == pytest.approx([1.5 / 3, 2 / 3, (1 + 1 + 1 / 4) / 3])
    # The model's a is nearer to the reference's Lima than to its Rome; its b has Oslo and Rain first.
    assert evaluation.measures[CROSSED].values[:3].tolist() == pytest.approx([1.5 / 3, 2 / 3, (1 + 1 + 1 / 4) / 3])
    assert set(evaluation.measures) == {MODEL, REFERENCE, DIFFERENCE, CROSSED}


def test_a_reference_of_another_width_has_no_index_for_the_model(retrieval_file, sides):
    wide = Embedder("wide", OURS, lambda texts, use: np.pad(sides[REFERENCE].encode(texts, use), ((0, 0), (0, 1))))
    evaluation = evaluate_retrieval(
        Retrieval.read(retrieval_file), {MODEL: sides[MODEL], REFERENCE: wide}, num_resamples=10
    )
    assert set(evaluation.measures) == {MODEL, REFERENCE, DIFFERENCE}
    assert evaluation.agreement == {}
    assert "no cosine, since they have 2 and 3 dimensions" in module.in_words(evaluation)


def test_the_command_prints_a_table_for_each_file(command, pairs_file, retrieval_file, capsys):
    command("--pairs", pairs_file, "--retrieval", retrieval_file, "--reference", REFERENCE)
    printed = capsys.readouterr().out
    assert printed.startswith(f"model: model ({OURS})\nreference: reference ({OURS})\n")
    assert "pairs.csv: 4 pairs, 4 distinct texts" in printed
    assert "retrieval.jsonl: 3 queries, 4 documents, 4 relevant pairs" in printed
    assert "Embeddings of model and reference: mean cosine 0." in printed
    header, spearman, _, header_of_search, *rows = table(printed)
    assert header == ["", MODEL, REFERENCE, DIFFERENCE]
    assert spearman[:2] == ["Spearman", "-77.5"]
    assert header_of_search == ["", MODEL, REFERENCE, DIFFERENCE, CROSSED]
    assert [row[0] for row in rows] == ["recall@1", "recall@10", "MRR", "nDCG@10"]
    assert rows[2][1:4] == ["77.8", "75.0", "+2.8"]


def test_without_a_reference_there_is_one_column(command, pairs_file, capsys):
    command("--pairs", pairs_file)
    printed = capsys.readouterr().out
    assert table(printed)[0] == ["", MODEL]
    assert "Embeddings of model and reference" not in printed


def test_the_figures_in_a_file_follow_from_the_seed(command, pairs_file, retrieval_file, tmp_path):
    flags = ["--pairs", pairs_file, "--retrieval", retrieval_file, "--reference", REFERENCE, "--at", "2"]
    for name, seed in {"one": 1, "again": 1, "other": 2}.items():
        command(*flags, "--output", tmp_path / f"{name}.json", "--seed", seed)
    one, again, other = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "again", "other"))
    assert one == again
    assert (one["seed"], one["model"], one["reference"]) == (1, MODEL, REFERENCE)
    search = one["retrieval"]
    assert (search["num_queries"], search["num_documents"], search["num_relevant_pairs"]) == (3, 4, 4)
    assert search["dimensions"] == {MODEL: 2, REFERENCE: 2}
    assert set(search["scores"]) == {MODEL, REFERENCE, DIFFERENCE, "model_in_the_reference_index"}
    assert search["scores"][MODEL]["recall_at_2"] == pytest.approx(0.5)
    assert len(search["scores"][DIFFERENCE]["mrr_interval"]) == 2
    assert search["scores"][MODEL] != other["retrieval"]["scores"][MODEL]
    assert one["pairs"]["num_pairs"] == 4
    assert "embedding_cosine" in one["pairs"]


def test_a_checkpoint_is_compared_with_its_encoder(checkpoint, encoder_folder, pairs_file, capsys):
    main(
        [
            "--model",
            str(checkpoint),
            "--reference",
            str(encoder_folder),
            "--pairs",
            str(pairs_file),
            "--num_resamples",
            "5",
        ]
    )
    printed = capsys.readouterr().out
    assert f"model: {checkpoint} (mtsbert checkpoint)" in printed
    assert f"reference: {encoder_folder} (plain encoder, the mean of its token states normalised)" in printed
    assert "mean cosine 1.000" in printed  # untrained, and pooled in the same way


# Against sentence-transformers


@pytest.fixture
def sentence_transformer(minilm, tmp_path):
    """The cosines of a random encoder differ so little that their rounding would show in correlations."""
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    folder = tmp_path / "sentence_transformer"
    library.SentenceTransformer(resolve_name(minilm), device="cpu").save_pretrained(str(folder))
    return library.SentenceTransformer(str(folder), device="cpu"), {MODEL: load_embedder(str(folder))}


@pytest.fixture
def sentences() -> list[str]:
    """Forty different texts of the words that the small encoder knows."""
    random = np.random.default_rng(0)
    words = " ".join(text for text, _, _ in ROWS).split()
    return list(dict.fromkeys(" ".join(random.choice(words, size=6)) for _ in range(40)))


def test_correlations_are_those_of_the_evaluator_of_sentence_transformers(sentence_transformer, sentences, tmp_path):
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    theirs, ours = sentence_transformer
    scores = np.random.default_rng(1).integers(0, 6, size=20).astype(float).tolist()
    path = tmp_path / "pairs.jsonl"
    rows = zip(sentences[:20], sentences[20:], scores, strict=True)
    path.write_text("".join(json.dumps({"text": a, "text_pair": b, "score": c}) + "\n" for a, b, c in rows))
    expected = EmbeddingSimilarityEvaluator(sentences[:20], sentences[20:], scores, main_similarity="cosine")(theirs)
    found = evaluate_pairs(Pairs.read(path), ours, num_resamples=1).measures[MODEL].values
    assert found.tolist() == pytest.approx([expected["spearman_cosine"], expected["pearson_cosine"]], abs=1e-7)


def test_retrieval_is_that_of_the_evaluator_of_sentence_transformers(sentence_transformer, sentences, tmp_path):
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    theirs, ours = sentence_transformer
    random = np.random.default_rng(2)
    relevant = {query: random.choice(30, size=1 + query % 3, replace=False) for query in range(30, 40)}
    rows = [(sentences[query], sentences[of]) for query, documents in relevant.items() for of in documents]
    # Every document must be in the file; a query of its own makes those that no other query wants part of it.
    wanted = {int(of) for documents in relevant.values() for of in documents}
    others = [of for of in range(30) if of not in wanted]
    rows += [(sentences[0], sentences[of]) for of in others]
    relevant[0] = others
    path = tmp_path / "retrieval.jsonl"
    path.write_text("".join(json.dumps({"query": q, "document": d}) + "\n" for q, d in rows))
    evaluator = InformationRetrievalEvaluator(
        queries={f"q{query}": sentences[query] for query in relevant},
        corpus={f"d{of:02}": sentences[of] for of in range(30)},
        relevant_docs={f"q{query}": {f"d{of:02}" for of in documents} for query, documents in relevant.items()},
        mrr_at_k=[30],
        ndcg_at_k=[10],
        precision_recall_at_k=[1, 5],
    )
    expected = evaluator(theirs)
    names = ["cosine_recall@1", "cosine_recall@5", "cosine_mrr@30", "cosine_ndcg@10"]
    found = evaluate_retrieval(Retrieval.read(path), ours, at=[1, 5], num_resamples=1).measures[MODEL].values
    assert found.tolist() == pytest.approx([expected[name] for name in names], abs=1e-6)


@pytest.mark.weights
@pytest.mark.real_data
@pytest.mark.slow
def test_minilm_has_a_spearman_of_82_on_stsb(minilm, real_data):
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    pairs = Pairs.read(real_data / "stsb" / "test.csv")
    measures = evaluate_pairs(pairs, {MODEL: load_embedder(minilm)}, num_resamples=100).measures[MODEL]
    assert 100 * measures.values[0] == pytest.approx(82.03, abs=0.05)
    low, high = 100 * measures.intervals[0]
    assert 79 < low < 82 < high < 85
