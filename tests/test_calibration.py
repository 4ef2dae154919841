"""Tests that calibrated scores and thresholds are the same through every door of a checkpoint."""

import json
import math
import re

import pytest
import spacy
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, pipeline

import mtsbert.spacy_component  # noqa: F401 (registers the component)
from configuration_mtsbert import MTSBertConfig
from modeling_mtsbert import MTSBertModel
from mtsbert.cli import main
from mtsbert.commands.export import export_onnx
from mtsbert.exports.pipeline import OnnxPipeline


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

TEXTS = ["Ada Perez joins Nimbus Labs in Oslo", "Lima", "Oslo beat Lima in the final. " * 30, "Shares of Nimbus rise"]
MORE = {
    "topic": {"temperature": 0.05, "smoothing": 0.1, "thresholds": {"Business": 0.55, "Sports": 0.51}},
    "ner": {"platt": [0.8, -0.3], "thresholds": {"GPE": 0.3}},
    "tags": {"temperature": 2.0, "thresholds": {"b": 0.45}},
    "follows": {"temperature": 3.0, "thresholds": {"no": 0.5, "yes": 0.9}},
}


@pytest.fixture(scope="module")
def raw(checkpoint) -> MTSBertModel:
    return MTSBertModel.from_pretrained(checkpoint).eval()


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    """The checkpoint with settings as training and tuning leave them."""
    model = MTSBertModel.from_pretrained(checkpoint).eval()
    for task, settings in MORE.items():
        model.config.tasks[task].update(settings)
    found = tmp_path_factory.mktemp("calibrated")
    model.save_pretrained(found)
    model.as_pipeline().tokenizer.save_pretrained(found)
    return found


@pytest.fixture(scope="module")
def expected(folder) -> list[dict]:
    return MTSBertModel.from_pretrained(folder).eval().as_pipeline()([*TEXTS, (TEXTS[0], TEXTS[1])])


def test_scores_and_thresholds_by_hand(raw, expected):
    before = raw.as_pipeline()([*TEXTS, (TEXTS[0], TEXTS[1])])
    for one, other in zip(before, expected, strict=True):
        true = {label: max((p - 0.05) / 0.9, 0.01 * p) ** 20 for label, p in one["topic"]["scores"].items()}
        total = sum(true.values())
        if one is not before[2]:  # a long text: probabilities of windows are averaged after they are calibrated
            assert other["topic"]["scores"] == pytest.approx({k: v / total for k, v in true.items()}, abs=1e-5)
        best = max(other["topic"]["scores"].values())
        assert other["topic"]["score"] == best
        assert (other["topic"]["label"] is None) == (
            best < (0.51 if other["topic"]["scores"]["Sports"] == best else 0.55)
        )
        sure = {(e["start"], e["end"]): e["score"] for e in one["ner"]}
        after = {key: 1 / (1 + math.exp(0.3) * ((1 - p) / p) ** 0.8) for key, p in sure.items()}
        assert {(e["start"], e["end"]): e["score"] for e in other["ner"]} == pytest.approx(
            {key: p for key, p in after.items() if p >= 0.3}, abs=1e-5
        )
        assert other["tags"]["labels"] == [
            label for label, p in other["tags"]["scores"].items() if p > (0.45 if label == "b" else 0.5)
        ]
    assert {answer["topic"]["label"] is None for answer in expected} == {True, False}
    assert 0 < sum(len(a["ner"]) for a in expected) < sum(len(a["ner"]) for a in before)
    assert expected[-1]["follows"]["label"] in (None, "no", "yes")


def test_onnx_answers_the_same(folder, expected, close, tmp_path):
    export_onnx(str(folder), tmp_path / "onnx")
    assert close(OnnxPipeline(tmp_path / "onnx")([*TEXTS, (TEXTS[0], TEXTS[1])]), expected, 1e-5)


def test_transformers_own_pipelines_give_the_same_scores(folder, expected):
    ask = pipeline("text-classification", model=str(folder), trust_remote_code=True, top_k=None)
    for place in (0, 1, 3):
        found = {row["label"]: row["score"] for row in ask([TEXTS[place]])[0]}
        assert found == pytest.approx(expected[place]["topic"]["scores"], abs=1e-5)
    many = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True, head="tags")
    ask = pipeline("text-classification", model=many, tokenizer=str(folder), top_k=None)
    found = {row["label"]: row["score"] for row in ask([TEXTS[0]])[0]}
    assert found == pytest.approx(expected[0]["tags"]["scores"], abs=1e-5)


def test_the_code_of_a_checkpoint_answers_the_same_in_the_pipeline(folder, expected, close):
    ask = pipeline("multi-task", model=str(folder), trust_remote_code=True)
    assert close(ask([*TEXTS, (TEXTS[0], TEXTS[1])]), expected, 1e-5)


def test_spacy_has_the_same_answer(folder, expected, close):
    nlp = spacy.blank("en")
    nlp.add_pipe("mtsbert", config={"model": str(folder)})
    docs = list(nlp.pipe(TEXTS))
    assert all(close(doc._.mtsbert, answer, 1e-5) for doc, answer in zip(docs, expected, strict=False))


def test_predict_writes_the_same(folder, expected, close, tmp_path):
    source = tmp_path / "texts.jsonl"
    source.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    main(["predict", "--model", str(folder), "--input", str(source), "--output", str(tmp_path / "o.jsonl"),
          "--precision", "fp32"])  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    for row, answer in zip(rows, expected, strict=False):
        assert row.pop("text")
        assert close(row, {key: value for key, value in answer.items() if key != "embedding"}, 1e-5)


def test_the_script_that_asks_prints_none_where_no_answer_is_sure(folder, root, tmp_path, warm_python):
    words = [root / "recipes" / "ask.py", folder, TEXTS[0], TEXTS[1]]
    done = warm_python.run(*words, variables={"HF_MODULES_CACHE": str(tmp_path)})
    assert re.findall(r"topic: (\w+)", done.stdout) == ["none", "Sports"]


def test_calibration_can_be_left_out(folder, raw):
    model = AutoModel.from_pretrained(folder, trust_remote_code=True, calibration=False)
    assert not model.config.calibration
    found = model.eval().as_pipeline()(TEXTS[0])
    assert found["topic"]["scores"] == pytest.approx(raw.as_pipeline()(TEXTS[0])["topic"]["scores"], abs=1e-6)
    assert MTSBertModel.from_pretrained(folder).config.calibration
    assert not raw.config.calibration


def test_a_threshold_of_the_call_replaces_those_of_the_config(folder):
    ask = MTSBertModel.from_pretrained(folder).eval().as_pipeline()
    assert ask(TEXTS, threshold=0.0, tasks="topic")[1]["topic"]["label"] is not None
    assert all(answer["ner"] == [] for answer in ask(TEXTS, threshold={"ner": 1.0}))
    assert ask(TEXTS[0], threshold={"tags": 0.999})["tags"]["labels"] == []


def test_training_sees_the_logits_of_the_network(folder, raw, tokenizer):
    view = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    inputs = tokenizer(TEXTS[:1], return_tensors="pt")
    expected = raw(**inputs).logits["topic"]
    assert torch.allclose(MTSBertModel.from_pretrained(folder).eval()(**inputs).logits["topic"], expected, atol=1e-6)
    labels = torch.tensor([1])
    smoothed = torch.nn.functional.cross_entropy(expected, labels, label_smoothing=0.0)
    assert view.eval()(**inputs, labels=labels).loss.item() == pytest.approx(smoothed.item(), abs=1e-5)


@pytest.mark.parametrize(
    ("task", "key", "value", "message"),
    [
        ("topic", "temperature", 0, "'temperature' is 0; it must be a number above 0"),
        ("topic", "temperature", math.nan, "'temperature' is nan"),
        ("topic", "platt", [1.0, 0.0], r"unknown keys \['platt'\]"),
        ("ner", "platt", [0.0, 1.0], r"'platt' is \[0.0, 1.0\]; it must be a slope above 0 and an intercept"),
        ("ner", "platt", 1.0, "'platt' is 1.0"),
        ("ner", "temperature", 1.0, r"unknown keys \['temperature'\]"),
        ("topic", "thresholds", {"Weather": 0.5}, r"'thresholds' names \['Weather'\], and the task has"),
        ("ner", "thresholds", {"B-GPE": 0.5}, r"'thresholds' names \['B-GPE'\], and the task has \['GPE'\]"),
        ("topic", "thresholds", {"Sports": 1.5}, "it maps labels to probabilities"),
        ("topic", "thresholds", 0.5, "'thresholds' is 0.5; it maps labels to probabilities"),
        ("near", "thresholds", {}, r"unknown keys \['thresholds'\]"),
    ],
)
def test_settings_that_cannot_be_are_refused(raw, task, key, value, message):
    tasks = {name: dict(settings) for name, settings in raw.config.tasks.items()}
    tasks[task][key] = value
    with pytest.raises(ValueError, match=f"Task '{task}': .*{message}"):
        MTSBertConfig(encoder_config=raw.config.encoder_config, tasks=tasks)


def test_labels_that_are_renamed_take_their_thresholds_along(folder):
    model = MTSBertModel.from_pretrained(folder)
    model.rename_labels("topic", {"Sports": "Sport"})
    model.rename_labels("ner", {"GPE": "PLACE"})
    assert model.config.tasks["topic"]["thresholds"] == {"Business": 0.55, "Sport": 0.51}
    assert model.config.tasks["ner"]["thresholds"] == {"PLACE": 0.3}
