"""Tests that suspicious labels are judged by classifiers that have not seen them, and ranked."""

import json
import re

import numpy as np
import pytest

from mtsbert.auditing.encoder import embed, load_encoder
from mtsbert.auditing.labels import LabelledTexts, describe_suspects, judge, rank, read_texts, suspects_of
from mtsbert.auditing.planting import plant_labels
from mtsbert.exports.pipeline import load_pipeline


BLOBS = 60  # rows of each of three labels


@pytest.fixture
def blobs() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Embeddings round three corners, the labels of the corners, and texts that are all different."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), BLOBS)
    points = np.eye(3)[labels] + 0.2 * random.normal(size=(len(labels), 3))
    return (
        points / np.linalg.norm(points, axis=1, keepdims=True),
        labels,
        [f"text {row}" for row in range(len(labels))],
    )


def test_planted_mistakes_are_the_most_suspicious(blobs):
    embeddings, labels, texts = blobs
    wrong, planted = plant_labels(labels, 3, 0.05)
    order = rank(judge(embeddings, wrong, texts), wrong)
    assert planted.sum() == 9
    assert planted[order[:9]].sum() >= 8
    assert sorted(order.tolist()) == list(range(len(labels)))


def test_probabilities_are_of_labels_that_the_classifiers_have_not_seen(blobs):
    """A wrong label far from all others of its kind cannot be learned by heart."""
    embeddings, labels, texts = blobs
    labels = labels.copy()
    labels[0] = 2
    probabilities = judge(embeddings, labels, texts)
    assert probabilities.shape == (len(labels), 3)
    assert probabilities.sum(axis=1) == pytest.approx(1.0)
    assert probabilities[0].argmax() == 0
    assert probabilities[0, 2] < 0.2


def test_a_text_that_occurs_often_does_not_vouch_for_itself(blobs):
    embeddings, labels, texts = blobs
    copies = np.repeat(embeddings[:1], 10, axis=0)
    embeddings, labels = np.concatenate([embeddings, copies]), np.concatenate([labels, [2] * 10])
    together = judge(embeddings, labels, [*texts, *["the same"] * 10])
    apart = judge(embeddings, labels, [*texts, *map(str, range(10))])
    assert (together[-10:].argmax(axis=1) == 0).all()
    assert (apart[-10:].argmax(axis=1) == 2).all()


def test_judgements_follow_from_the_seed(blobs):
    assert (judge(*blobs, seed=1) == judge(*blobs, seed=1)).all()
    assert (judge(*blobs, seed=1) != judge(*blobs, seed=2)).any()


def test_rows_are_ranked_by_the_probability_of_their_label():
    probabilities = np.array([[0.6, 0.4], [0.6, 0.4], [0.1, 0.9], [0.5, 0.5]])
    assert rank(probabilities, np.array([0, 1, 0, 1])).tolist() == [2, 1, 3, 0]


def test_suspects_are_at_most_a_share_and_only_rows_with_a_likelier_label():
    texts = LabelledTexts(np.array([0, 2, 3, 5]), ["a", "b", "c", "d"], np.array([0, 1, 0, 1]), ["x", "y"])
    probabilities = np.array([[0.7, 0.3], [0.6, 0.4], [0.1, 0.9], [0.2, 0.8]])
    b = {"row": 2, "text": "b", "label": "y", "label_probability": 0.4, "suggested": "x", "suggested_probability": 0.6}
    c = {"row": 3, "text": "c", "label": "x", "label_probability": 0.1, "suggested": "y", "suggested_probability": 0.9}
    assert suspects_of(texts, probabilities, 0.25) == [c]
    assert suspects_of(texts, probabilities, 1.0) == [c, b]
    assert describe_suspects([c, b, b]).splitlines()[2:] == [
        "| y     | x         | 2    |",
        "| x     | y         | 1    |",
    ]


def test_labels_are_read_by_name_and_rows_without_one_or_with_a_rare_one_are_left_out(tmp_path, caplog):
    path = tmp_path / "rows.csv"
    labels = ["b", "a", "", "b", "a", "c", "d", "d"]
    texts = ["t0", "t1", "t2", "t3", "t4", "t5", "same", "same"]
    path.write_text("body,kind\n" + "".join(f"{t},{label}\n" for t, label in zip(texts, labels, strict=True)))
    read = read_texts(path, "body", "kind", num_folds=2)
    assert read.names == ["a", "b"]
    assert (read.rows.tolist(), read.texts, read.labels.tolist()) == (
        [0, 1, 3, 4],
        ["t0", "t1", "t3", "t4"],
        [1, 0, 1, 0],
    )
    assert "1 rows of" in caplog.text
    assert "Labels of fewer than 2 texts are left out: {" in caplog.text
    assert set(re.findall(r"'(\w)': 1", caplog.text)) == {"c", "d"}


@pytest.mark.parametrize(
    ("written", "names", "ids"),
    [
        (["Sports", "World", "Sports ", "World", "Sports\u00a0"], ["Sports", "World"], [0, 1, 0, 1, 0]),
        (["1.0", "2", "1", "2.0", "1"], ["1", "2"], [0, 1, 0, 1, 0]),
        (["US", "us", "US", "us", "us"], ["US", "us"], [0, 1, 0, 1, 1]),
    ],
    ids=str,
)
def test_labels_that_differ_only_in_how_they_are_written_are_audited_as_one(tmp_path, caplog, written, names, ids):
    rows = [{"text": f"t{row}", "label": label} for row, label in enumerate(written)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    read = read_texts(tmp_path / "rows.jsonl", "text", "label", num_folds=2)
    assert (read.names, read.labels.tolist()) == (names, ids)
    assert ("differ only in how they are written" in caplog.text) == (len(set(written)) > len(names))


def test_the_training_rows_of_a_prepared_folder_are_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for split in ("train", "test"):
        table = pa.table({"text": [f"{split} {row}" for row in range(4)], "label": ["x", "y", "x", "y"]})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    assert read_texts(tmp_path, "text", "label", num_folds=2).texts == [f"train {row}" for row in range(4)]


def test_embeddings_are_those_of_the_encoder_in_the_order_of_the_texts(encoder_folder, checkpoint, caplog):
    texts = ["Lima hosts the race", "Oslo", "Shares of Nimbus Labs rise in Lima"]
    embeddings = embed(load_encoder(str(encoder_folder)), texts, precision="fp32")
    assert embeddings.shape == (3, 32)
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(1.0)
    assert not caplog.text
    of_checkpoint = embed(load_encoder(str(checkpoint)), texts, precision="fp32")
    assert of_checkpoint == pytest.approx(embeddings, abs=1e-5)  # the fixture has the encoder's weights
    expected = [answer["embedding"] for answer in load_pipeline(str(checkpoint))(texts)]
    assert of_checkpoint == pytest.approx(np.array(expected), abs=1e-5)
    assert "knows their labels" in caplog.text


@pytest.mark.weights
@pytest.mark.real_data
@pytest.mark.slow
def test_mistakes_planted_in_news_are_found(minilm, real_data, tmp_path):
    import csv

    with (real_data / "ag_news" / "train.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines))[:1_000]
    texts, labels = [f"{title} {text}" for _, title, text in rows], np.array([int(row[0]) - 1 for row in rows])
    wrong, planted = plant_labels(labels, 4, 0.05)
    order = rank(judge(embed(load_encoder(minilm), texts), wrong, texts), wrong)
    assert planted[order[: planted.sum()]].mean() > 0.6
