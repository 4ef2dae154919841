"""Tests the choice of thresholds by hand, and that `mtsbert tune-thresholds` writes what every door then follows."""

import json
import re
import shutil

import numpy as np
import pytest
import torch

from answers_mtsbert import labels_of, probabilities_of
from entities_mtsbert import entities_of, without_doubtful
from modeling_mtsbert import MTSBertModel
from mtsbert.calibration.thresholds import Scored, answers_by_label, choose, parse_target, share
from mtsbert.cli import main
from mtsbert.commands.tune_thresholds import describe
from mtsbert.exports.pipeline import load_pipeline
from tests.conftest import ROWS


#                 score: 0.9   0.8   0.7    0.6   0.5    0.4
SCORED = Scored([0.4, 0.9, 0.7, 0.8, 0.5, 0.6], [True, True, False, True, False, True], num_true=5)


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        (1.0, (0.75, 2, 2, True)),  # the two surest
        (0.75, (0.55, 4, 3, True)),  # 3 of 4, and no more than that
        (0.6, (0.2, 6, 4, True)),  # 4 of all 6: nothing is left out
        (None, (0.2, 6, 4, True)),  # F1: 8 / 11 with all of them
    ],
)
def test_the_lowest_threshold_that_reaches_the_target(precision, expected):
    found = choose(SCORED, precision)
    assert (found.value, found.num_answers, found.num_right, found.is_reached) == (
        pytest.approx(expected[0]),
        *expected[1:],
    )
    assert found.precision[0] == found.num_right / found.num_answers
    assert found.recall[0] == found.num_right / 5


def test_what_cannot_be_reached_comes_as_near_as_it_can():
    found = choose(Scored([0.9, 0.8, 0.7], [False, True, True], num_true=2), 0.95)
    assert (found.num_answers, found.num_right, found.is_reached) == (3, 2, False)


def test_answers_of_the_same_score_go_together():
    found = choose(Scored([0.9, 0.9, 0.5], [True, False, True], num_true=2), 1.0)
    assert (found.num_answers, found.is_reached) == (3, False)  # not the one of the two that comes first
    assert choose(Scored([0.9, 0.9], [True, True], num_true=2), 1.0).value == 0.45


def test_a_label_that_nobody_names_has_no_threshold():
    assert choose(Scored(num_true=3), 0.9) is None


@pytest.mark.parametrize("num_true", [0, 3])
@pytest.mark.parametrize("precision", [0.9, None])
def test_a_label_that_is_never_right_is_not_answered_with(num_true, precision):
    found = choose(Scored([0.9, 0.8], [False, False], num_true), precision)
    assert (found.value, found.is_reached, found.precision[0], found.recall[0]) == (1.0, False, 0.0, 0.0)
    assert share(0, 0) == (0.0, 0.0, 1.0)


def test_a_threshold_lets_the_answers_through_that_it_counts():
    found = choose(Scored([0.99999994, 0.9999997], [True, False], num_true=1), 1.0)
    assert 0.9999997 < found.value < 0.99999994


@pytest.mark.parametrize(
    ("scores", "precision"),
    [
        ([0.9999996, 0.9999992, 0.9999991], 1.0),  # the middle rounds to 0.999999
        ([4e-7, 3e-7, 2e-7, *[1e-7] * 1_000], None),  # to 0
        ([0.25, np.nextafter(np.float32(0.25), np.float32(0.0)).item()], 1.0),  # neighbours in float32
        ([1.0, np.nextafter(np.float32(1.0), np.float32(0.0)).item()], 1.0),
        ([np.nextafter(np.float32(0.25), np.float32(1.0)).item(), 0.25], 1.0),
    ],
)
def test_a_threshold_keeps_the_answers_out_that_it_does_not_count(scores, precision):
    found = choose(Scored(scores, [True, *[False] * (len(scores) - 1)], num_true=1), precision)
    assert (found.num_answers, found.num_right, found.is_reached) == (1, 1, True)
    assert scores[1] < found.value < scores[0]
    single = {"type": "sequence_classification", "labels": ["a", "b"], "thresholds": {"a": found.value}}
    entities = {"labels": ["O", "B-X", "I-X"], "thresholds": {"X": found.value}}
    for score, expected in zip(scores[:2], [True, False], strict=True):
        assert (labels_of(single | {"multi_label": True}, torch.tensor([score, 0.0]))["labels"] == ["a"]) == expected
        assert without_doubtful(torch.tensor([[1]]), torch.tensor([[score]]), entities).tolist() == [[int(expected)]]


@pytest.mark.parametrize("multi_label", [False, True])
def test_at_a_threshold_of_1_nothing_is_answered_though_its_score_is_rounded_to_1(multi_label):
    never = choose(Scored([1.0], [False], num_true=1), 0.9).value
    task = {"type": "sequence_classification", "labels": ["a", "b"], "multi_label": multi_label}
    probabilities = probabilities_of(task, torch.tensor([200.0, -200.0]))
    assert probabilities.tolist() == [1.0, 0.0]
    key, nothing, something = ("labels", [], ["a"]) if multi_label else ("label", None, "a")
    assert labels_of(task | {"thresholds": {"a": never}}, probabilities)[key] == nothing
    assert labels_of(task, probabilities, threshold=1)[key] == nothing
    assert labels_of(task | {"thresholds": {"a": 0.999}}, probabilities)[key] == something


@pytest.mark.parametrize("how", [{"thresholds": {"X": 1.0}}, {"min_score": 1.0}, {"min_score": 1}])
def test_at_a_threshold_of_1_no_entity_is_found_though_its_score_is_rounded_to_1(how):
    settings = {"labels": ["O", "B-X", "I-X"]}
    scores = torch.tensor([[0.0, 200.0, 0.0]]).log_softmax(dim=-1)
    (sure,), (none,) = (entities_of(["Oslo"], [[(0, 4)]], [scores], settings | more) for more in ({}, how))
    assert [entity["score"] for entity in sure] == [1.0]
    assert none == []


def test_the_interval_of_a_share_is_wilsons():
    """By hand: (p + z^2 / 2n ± z sqrt(p q / n + z^2 / 4 n^2)) / (1 + z^2 / n) for 8 of 10 and z = 1.96."""
    assert share(8, 10) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)


def test_the_precision_on_new_answers_is_within_its_interval_as_often_as_it_says():
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        scores = generator.random(4_000)
        right = generator.random(4_000) < scores
        found = choose(Scored(scores[:2_000].tolist(), right[:2_000].tolist(), int(right[:2_000].sum())), 0.9)
        chosen = scores[2_000:] >= found.value
        inside += found.precision[1] <= right[2_000:][chosen].mean() <= found.precision[2]
    assert inside >= 160  # both halves are samples, so that it is less than 95 %


TASKS = {
    "topic": {"type": "sequence_classification", "labels": ["a", "b"]},
    "tags": {"type": "sequence_classification", "labels": ["x", "y"], "multi_label": True},
    "ner": {"type": "token_classification", "labels": ["O", "B-GPE", "I-GPE"]},
}


def test_answers_are_compared_with_what_is_right():
    span = {"start": 0, "end": 4, "label": "GPE"}
    examples = [
        {"topic": "a", "tags": ["x"], "ner": [span, {"start": 9, "end": 12, "label": None}]},
        {"topic": None, "tags": None, "ner": None},
    ]
    answer = {
        "topic": {"label": "b", "score": 0.7, "scores": {"a": 0.3, "b": 0.7}},
        "tags": {"labels": [], "scores": {"x": 0.4, "y": 0.1}},
        "ner": [
            {**span, "score": 0.9},
            {"start": 5, "end": 8, "label": "GPE", "score": 0.6},
            {"start": 10, "end": 12, "label": "GPE", "score": 0.8},  # where nobody knows what is right
        ],
    }
    found = answers_by_label(TASKS, examples, [answer, answer])
    assert found["topic"] == {"a": Scored([], [], 1), "b": Scored([0.7], [False], 0)}
    assert found["tags"] == {"x": Scored([0.4], [True], 1), "y": Scored([0.1], [False], 0)}
    assert found["ner"] == {"GPE": Scored([0.9, 0.6], [True, False], 1)}


def test_a_score_of_0_is_no_answer_since_no_threshold_lets_it_through():
    tasks = {"tags": TASKS["tags"]}
    logits = [[4.0, -9.0], [-9.0, -9.0], [-0.1, -9.0]]
    scores = [probabilities_of(TASKS["tags"] | {"temperature": 0.05}, torch.tensor(row)) for row in logits]
    answers = [{"tags": labels_of(TASKS["tags"], of_text, threshold=0.0)} for of_text in scores]
    assert [answer["tags"]["scores"]["x"] for answer in answers] == pytest.approx([1.0, 0.0, 0.119], abs=1e-3)
    found = answers_by_label(tasks, [{"tags": ["x"]}, {"tags": ["x", "y"]}, {"tags": []}], answers)["tags"]
    chosen = choose(found["x"], 0.5)
    given = [labels_of(TASKS["tags"] | {"thresholds": {"x": chosen.value}}, of_text)["labels"] for of_text in scores]
    assert given == [["x"], [], ["x"]]
    assert (chosen.num_answers, chosen.num_right, chosen.num_true) == (2, 1, 2)
    assert found["y"] == Scored([], [], 1)


@pytest.mark.parametrize("target", ["precision", "precision=0", "precision=95", "recall=0.9", "F1", "precision=x"])
def test_targets_that_cannot_be_are_refused(target):
    with pytest.raises(ValueError, match=r"write precision=0\.95"):
        parse_target(target)
    assert parse_target("precision=0.95") == 0.95
    assert parse_target("f1") is None


@pytest.fixture
def folder(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def held_out(tmp_path):
    rows = [{"text": text, "topic": topic, "mood": "x"} for text, topic, _ in ROWS]
    path = tmp_path / "held_out.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_the_command_writes_thresholds_that_the_pipeline_follows(folder, held_out, tmp_path, capsys):
    report = tmp_path / "report.json"
    main(["tune-thresholds", "--model", str(folder), "--data", str(held_out), "--target", "precision=0.9",
          "--output", str(report), "--precision", "fp32"])  # fmt: skip
    assert "| topic" in capsys.readouterr().out
    told = json.loads(report.read_text())["thresholds"]["topic"]
    ask = load_pipeline(str(folder))
    assert ask.model.config.tasks["topic"]["thresholds"] == {label: one["threshold"] for label, one in told.items()}
    texts, right = [text for text, _, _ in ROWS], [topic for _, topic, _ in ROWS]
    answers = [answer["topic"]["label"] for answer in ask(texts, tasks="topic")]
    for label, one in told.items():
        named = [given == label for answer, given in zip(answers, right, strict=True) if answer == label]
        assert len(named) == one["answers"]
        assert sum(named) / len(named) == pytest.approx(one["precision"][0])
    before = json.loads((folder / "config.json").read_text())
    before["tasks"]["topic"]["thresholds"] = dict.fromkeys(told, 0.9876)
    (folder / "config.json").write_text(json.dumps(before))
    main(["tune-thresholds", "--model", str(folder), "--data", str(held_out), "--target", "f1", "--tasks", "topic"])
    after = json.loads((folder / "config.json").read_text())
    assert set(after["tasks"]["topic"]["thresholds"]) == set(told)
    assert 0.9876 not in after["tasks"].pop("topic")["thresholds"].values()
    del before["tasks"]["topic"]
    assert after == before


def test_a_threshold_near_1_is_told_from_that_of_a_label_that_is_never_given():
    sure, never = choose(Scored([0.99999, 0.99997], [True, False], 1), 1.0), choose(Scored([0.9], [False], 1), 1.0)
    table = describe({"topic": {"a": sure, "b": never}})
    assert re.findall(r"\| (0\.\d+|1\.0) +\|", table) == ["0.99998", "1.0"]


def test_columns_are_named_where_they_are_called_otherwise(folder, tmp_path):
    path = tmp_path / "named.csv"
    path.write_text("words,kind\n" + "".join(f"{text},{topic}\n" for text, topic, _ in ROWS))
    main(["tune-thresholds", "--model", str(folder), "--data", str(path), "--target", "f1", "--columns", "words=text",
          "kind=topic"])  # fmt: skip
    assert json.loads((folder / "config.json").read_text())["tasks"]["topic"]["thresholds"]


def test_rows_with_a_label_that_the_model_does_not_have_are_left_out_and_told(folder, held_out, caplog):
    with held_out.open("a") as file:
        file.write('\n{"text": "Rain in Lima", "topic": "Weather"}')
    main(["tune-thresholds", "--model", str(folder), "--data", str(held_out), "--target", "f1"])
    assert "1 rows of" in caplog.text
    assert "label 'Weather' is not one of task 'topic'" in caplog.text
    assert "Weather" not in json.loads((folder / "config.json").read_text())["tasks"]["topic"]["thresholds"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model", "nowhere"], "nowhere is no folder of a checkpoint"),
        (["--tasks", "near"], r"\['near'\] have no thresholds here"),
        (["--tasks", "follows"], r"\['follows'\] have no thresholds here.*need pairs"),
        (["--tasks", "moods"], r"tasks that the model does not have: \['moods'\]"),
        (["--columns", "text"], "--columns 'text': write COLUMN=ROLE"),
        (["--columns", "texts=text"], "texts"),
        (["--target", "best"], r"write precision=0\.95"),
        (["--output", "nowhere/report.json"], "there is no folder nowhere"),
        (["--output", "/proc/report.json"], "/proc/report.json cannot be written"),
        (["--output", __file__], "exists already"),
        (["--output", "/"], "exists already"),
    ],
)
def test_what_cannot_be_tuned_is_told_and_changes_nothing(folder, held_out, more, message):
    before = (folder / "config.json").read_bytes()
    with pytest.raises(SystemExit, match=message):
        main(["tune-thresholds", "--model", str(folder), "--data", str(held_out), "--target", "f1", *more])
    assert (folder / "config.json").read_bytes() == before


@pytest.mark.parametrize("dropped", [("topic", "ner", "tags", "follows"), ("topic", "ner", "tags")])
def test_a_model_without_labels_to_answer_with_is_named(folder, held_out, dropped):
    model = MTSBertModel.from_pretrained(folder)
    for task in dropped:
        model.drop_task(task)
    model.save_pretrained(folder)
    with held_out.open("a") as file:
        file.write('\n{"text": "Rain in Lima", "grade": 2.0}')
    with pytest.raises(SystemExit, match=r"No task of .*model has thresholds here: .*grade \(sequence_regression\)"):
        main(["tune-thresholds", "--model", str(folder), "--data", str(held_out), "--target", "f1"])
