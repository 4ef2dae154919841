"""Tests which texts are chosen for people to label, and that what they finish is read again."""

import datetime
import json
import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtsbert.annotation.selection import choose, doubt_of
from mtsbert.cli import main
from mtsbert.data.examples import read_examples
from mtsbert.data.sources import open_datasets
from mtsbert.exports.pipeline import load_pipeline
from tests.conftest import ROWS


TASKS = {
    "topic": {"type": "sequence_classification", "labels": ["a", "b"]},
    "tags": {"type": "sequence_classification", "labels": ["x", "y"], "multi_label": True},
    "ner": {"type": "token_classification", "labels": ["O", "B-GPE", "I-GPE"]},
    "near": {"type": "pair_similarity", "score_range": [0, 1]},
}


def test_doubt_by_hand():
    answer = {
        "topic": {"scores": {"a": 0.7, "b": 0.3}},  # 1 - 0.4
        "tags": {"scores": {"x": 0.9, "y": 0.4}},  # 1 - 2 * 0.1
        "ner": [{"score": 0.9}, {"score": 0.25}],  # 1 - 0.25
    }
    assert doubt_of(TASKS, answer) == pytest.approx((0.6 + 0.8 + 0.75) / 3)
    assert doubt_of({"ner": TASKS["ner"]}, {"ner": []}) == 0.0


def test_the_most_doubtful_and_the_most_different_come_first():
    embeddings = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    doubts = np.array([0.9, 0.8, 0.3, 0.2])
    # The second says the same as the first, and has no worth any more; 0.3 * 1 beats 0.2 * 0.4.
    assert choose(doubts, embeddings, 4) == [0, 2, 3, 1]
    assert choose(doubts, embeddings, 2) == [0, 2]
    assert sorted(choose(np.zeros(4), embeddings, 9)) == [0, 1, 2, 3]


@pytest.fixture
def written(checkpoint, tmp_path):
    rows = [{"text": text, "source": "wire"} for text, _, _ in ROWS] + [{"text": ROWS[0][0]}, {"text": " "}]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    main(["annotate", "--model", str(checkpoint), "--input", str(tmp_path / "texts.jsonl"), "--number", "5",
          "--output", str(tmp_path / "tasks.json"), "--precision", "fp32"])  # fmt: skip
    return tmp_path / "tasks.json"


def test_columns_that_json_or_the_interface_cannot_hold(checkpoint, tmp_path):
    """A date, a number that is none, and a column that is called like a task."""
    rows = {"text": ["Oslo wins"], "day": [datetime.date(2026, 1, 2)], "price": [math.nan], "topic": ["Sports"]}
    pq.write_table(pa.table(rows), tmp_path / "texts.parquet")
    main(["annotate", "--model", str(checkpoint), "--input", str(tmp_path / "texts.parquet"),
          "--output", str(tmp_path / "tasks.json")])  # fmt: skip
    (task,) = json.loads((tmp_path / "tasks.json").read_text())
    assert task["data"] == {"text": "Oslo wins", "day": "2026-01-02", "price": None, "given_topic": "Sports"}


@pytest.mark.parametrize("first", ["topic", "given_topic"])
def test_a_column_that_is_renamed_takes_the_place_of_no_other(checkpoint, tmp_path, first):
    """What people have labelled is chosen from again: the first choice has been `given_topic` since."""
    row = dict.fromkeys(["text", first, "topic", "given_topic"])
    row |= {"text": "Oslo wins", "topic": "Sports", "given_topic": "Business"}
    (tmp_path / "texts.jsonl").write_text(json.dumps(row))
    main(["annotate", "--model", str(checkpoint), "--input", str(tmp_path / "texts.jsonl"),
          "--output", str(tmp_path / "tasks.json")])  # fmt: skip
    (task,) = json.loads((tmp_path / "tasks.json").read_text())
    assert task["data"] == {"text": "Oslo wins", "given_given_topic": "Sports", "given_topic": "Business"}


def test_tasks_have_the_answers_of_the_model(written, checkpoint):
    tasks = json.loads(written.read_text())
    assert len(tasks) == 5
    assert len({task["data"]["text"] for task in tasks}) == 5
    scores = [task["predictions"][0]["score"] for task in tasks]
    assert scores[0] == min(scores)
    answers = load_pipeline(str(checkpoint))([task["data"]["text"] for task in tasks])
    for task, answer in zip(tasks, answers, strict=True):
        assert task["data"].get("source") in ("wire", None)
        found = task["predictions"][0]["result"]
        assert len({one["id"] for one in found}) == len(found)
        spans = [one["value"] for one in found if one["type"] == "labels"]
        assert spans == [
            {"start": e["start"], "end": e["end"], "text": e["text"], "labels": [e["label"]]} for e in answer["ner"]
        ]
        choices = {one["from_name"]: one["value"]["choices"] for one in found if one["type"] == "choices"}
        assert choices["topic"] == [answer["topic"]["label"]]
        assert choices.get("tags", []) == answer["tags"]["labels"]


def test_the_interface_has_a_control_for_every_task(written):
    view = ElementTree.fromstring(written.with_suffix(".xml").read_text())
    assert {(part.tag, part.get("name")) for part in view} == {
        ("Choices", "topic"),
        ("Labels", "ner"),
        ("Choices", "tags"),
        ("Text", "text"),
    }
    assert [part.get("value") for part in view.find("Labels")] == ["GPE"]
    assert {part.get("name"): part.get("choice") for part in view.iter("Choices")} == {
        "topic": "single",
        "tags": "multiple",
    }


def test_what_people_have_finished_is_a_dataset(written, tmp_path):
    """Label Studio exports what was accepted as annotations of the same form."""
    tasks = json.loads(written.read_text())
    export = [
        {
            "id": number,
            "data": task["data"],
            "annotations": [{"id": number, "result": task["predictions"][0]["result"]}],
        }
        for number, task in enumerate(tasks)
    ]
    (tmp_path / "export.json").write_text(json.dumps(export))
    kinds = {name: TASKS[name] for name in ("topic", "ner")}
    kinds["topic"] = {"type": "sequence_classification"}
    columns = {"text": "text", "topic": "topic", "ner": "ner"}
    (source,) = open_datasets({"gold": {"path": str(tmp_path / "export.json"), "columns": columns}}, kinds)
    rows = list(read_examples(source, "train", kinds))
    assert [row["text"] for row in rows] == [task["data"]["text"] for task in tasks]
    for row, task in zip(rows, tasks, strict=True):
        result = task["predictions"][0]["result"]
        spans = [one["value"] for one in result if one["type"] == "labels"]
        assert [(s["start"], s["end"], s["label"]) for s in row["ner"] or []] == [
            (s["start"], s["end"], s["labels"][0]) for s in spans
        ]
        assert [row["topic"]] == next(one["value"]["choices"] for one in result if one["from_name"] == "topic")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--number", "0"], "--number is 0; it must be at least 1"),
        (["--output", "nowhere/tasks.json"], "there is no folder nowhere"),
        (["--output", f"{'x' * 250}.json"], "cannot be written: .*too long"),
        (["--output", "/proc/tasks.json"], "/proc/tasks.json cannot be written"),
        (["--output", "tasks.csv"], r"Label Studio imports \.json"),
        (["--input", "nowhere.csv"], "nowhere.csv: no such file"),
        (["--tasks", "near"], r"Tasks on single texts are labelled here; \['near'\] are none"),
        (["--tasks", "mood"], r"tasks that the model does not have: \['mood'\]"),
    ],
)
def test_what_cannot_be_is_refused(checkpoint, tmp_path, change, message):
    (tmp_path / "texts.jsonl").write_text('{"text": "Oslo"}')
    with pytest.raises(SystemExit, match=message):
        main(["annotate", "--model", str(checkpoint), "--input", str(tmp_path / "texts.jsonl"),
              "--output", str(tmp_path / "tasks.json"), *change])  # fmt: skip
    assert not list(tmp_path.glob("tasks*"))
