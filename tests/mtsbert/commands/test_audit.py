"""Tests that suspicious labels are judged by classifiers that have not seen them, ranked, written and measured."""

import json
import re

import numpy as np
import pytest

from mtsbert.commands.audit import (
    LabelledTexts,
    describe_planted,
    describe_suspects,
    embed,
    judge,
    load_encoder,
    main,
    plant,
    rank,
    read_texts,
    suspects_of,
)
from mtsbert.exports.pipeline import load_pipeline
from mtsbert.formats.files import read_file


ROWS = [
    *(("The final ends without a goal" + " race" * number, "Sports") for number in range(10)),
    *(("Shares of Nimbus Labs rise" + " shares" * number, "Business") for number in range(10)),
]
WRONG = [3, 12]
BLOBS = 60  # rows of each of three labels


@pytest.fixture
def rows_file(tmp_path):
    """Twenty rows; the labels of `WRONG` are swapped."""
    path = tmp_path / "rows.jsonl"
    swapped = {"Sports": "Business", "Business": "Sports"}
    rows = [
        {"text": text, "label": swapped[label] if row in WRONG else label} for row, (text, label) in enumerate(ROWS)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


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


@pytest.fixture
def audit(encoder_folder, rows_file, tmp_path):
    """Runs the command on the twenty rows."""

    def run(*flags: str) -> None:
        main(["--model", str(encoder_folder), "--data", str(rows_file), "--precision", "fp32", *flags])

    return run


def test_planted_mistakes_are_the_most_suspicious(blobs):
    embeddings, labels, texts = blobs
    wrong, planted = plant(labels, 3, 0.05)
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


@pytest.mark.parametrize(("share", "number"), [(0.05, 50), (0.0333, 33), (0.5, 500)])
def test_planted_labels_are_wrong_and_no_other_is_touched(share, number):
    labels = np.arange(1_000) % 4
    wrong, planted = plant(labels, 4, share)
    assert planted.sum() == number
    assert (wrong[planted] != labels[planted]).all()
    assert (wrong[~planted] == labels[~planted]).all()
    assert set(wrong) == {0, 1, 2, 3}
    assert labels.tolist() == (np.arange(1_000) % 4).tolist()


def test_planting_follows_from_the_seed():
    labels = np.arange(100) % 2
    assert (plant(labels, 2, 0.1, seed=1)[1] == plant(labels, 2, 0.1, seed=1)[1]).all()
    assert (plant(labels, 2, 0.1, seed=1)[1] != plant(labels, 2, 0.1, seed=2)[1]).any()


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


def test_what_is_found_of_planted_mistakes():
    planted = np.zeros(100, dtype=bool)
    planted[:10] = True
    order = np.array([0, 1, 50, 2, 3, 51, 4, 5, 6, 52, *range(53, 60), 7, *range(60, 100), 8, 9, *range(10, 50)])
    assert describe_planted(planted, order) == (
        "| most suspicious | rows | planted among them | of all planted |\n"
        "|-----------------|------|--------------------|----------------|\n"
        "| 2.0%            | 2    | 100.0%             | 20.0%          |\n"
        "| 5.0%            | 5    | 80.0%              | 40.0%          |\n"
        "| 10.0%           | 10   | 70.0%              | 70.0%          |\n"
        "| 20.0%           | 20   | 40.0%              | 80.0%          |"
    )


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


@pytest.mark.parametrize("output", ["suspects.csv", "suspects.jsonl", "suspects.parquet"])
def test_the_command_writes_the_suspicious_rows(audit, tmp_path, capsys, output):
    audit("--output", str(tmp_path / output), "--share", "0.1")
    found = read_file(tmp_path / output).to_list()
    assert sorted(int(row["row"]) for row in found) == WRONG
    for row in found:
        text, right = ROWS[int(row["row"])]
        assert (row["text"], row["suggested"]) == (text, right)
        assert {row["label"], right} == {"Sports", "Business"}
        assert 0 <= float(row["label_probability"]) < float(row["suggested_probability"]) <= 1
    printed = capsys.readouterr().out
    assert "rows.jsonl: 20 rows with 2 labels" in printed
    assert f"{output}: the 2 most suspicious" in printed
    assert "| Sports   | Business  | 1    |" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", output}


def test_the_command_measures_on_planted_mistakes(audit, tmp_path, capsys):
    audit("--planted_share", "0.1", "--num_folds", "4")
    printed = capsys.readouterr().out
    assert "2 of them were given a wrong label (seed 42)" in printed
    assert re.search(r"\| 10.0% +\| 2 ", printed)
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl"}


def test_where_nothing_is_suspicious_nothing_is_written(audit, tmp_path, capsys):
    rows = [{"text": text, "label": label} for text, label in ROWS for _ in range(2)]
    clean = tmp_path / "clean.jsonl"
    clean.write_text("\n".join(map(json.dumps, rows)))
    audit("--data", str(clean), "--output", str(tmp_path / "x.csv"))
    assert "No label is suspicious; nothing is written" in capsys.readouterr().out
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output", "x.xlsx"], r"x.xlsx: suspicious rows are written as .csv, .jsonl, .parquet"),
        (["--output", "nowhere/x.csv"], r"nowhere/x.csv: there is no folder nowhere"),
        (["--planted_share", "5"], r"--planted_share is 5.0; it must lie between 0 and 1"),
        (["--output", "x.csv", "--share", "0"], r"--share is 0.0; it must lie between 0 and 1"),
        (["--output", "x.csv", "--num_folds", "1"], r"--num_folds is 1; it must be at least 2"),
        (["--output", "x.csv", "--label_column", "topic"], r"has no column 'topic'; it has \['text', 'label'\]"),
        (["--output", "x.csv", "--num_folds", "11"], r"has 0 labels with at least 11 texts .*; an audit needs two"),
        (["--output", "x.csv", "--model", "nowhere"], r"No encoder found under 'nowhere'"),
    ],
)
def test_what_is_wrong_is_said(audit, flags, message):
    with pytest.raises(ValueError, match=message):
        audit(*flags)


def test_a_file_that_is_there_is_not_written_over(audit, tmp_path):
    (tmp_path / "x.csv").write_text("mine")
    with pytest.raises(ValueError, match="exists already"):
        audit("--output", str(tmp_path / "x.csv"))
    assert (tmp_path / "x.csv").read_text() == "mine"


@pytest.mark.parametrize("flags", [[], ["--output", "x.csv", "--planted_share", "0.05"]])
def test_it_either_writes_or_measures(audit, flags, capsys):
    with pytest.raises(SystemExit):
        audit(*flags)
    assert re.search(r"--output.*--planted_share|--planted_share.*not allowed with", capsys.readouterr().err)


@pytest.mark.weights
@pytest.mark.real_data
@pytest.mark.slow
def test_mistakes_planted_in_news_are_found(minilm, real_data, tmp_path):
    import csv

    with (real_data / "ag_news" / "train.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines))[:1_000]
    texts, labels = [f"{title} {text}" for _, title, text in rows], np.array([int(row[0]) - 1 for row in rows])
    wrong, planted = plant(labels, 4, 0.05)
    order = rank(judge(embed(load_encoder(minilm), texts), wrong, texts), wrong)
    assert planted[order[: planted.sum()]].mean() > 0.6
