"""Tests large and unusual input: many texts, very long texts, many tasks and many labels."""

import json

import pytest
import torch
from transformers import set_seed

import entities_mtsbert
from entities_mtsbert import PLACES_PER_DECODING, bio_labels
from modeling_mtsbert import MTSBertModel
from mtsbert.exports.pipeline import load_pipeline
from run_mtl import main as train


SHORT = ["Oslo beat Lima in the final", "Shares of Nimbus Labs rise", "Ada Perez wins the race", ""]


@pytest.fixture
def pipeline(model, tokenizer):
    return model.as_pipeline(tokenizer)


def model_of(encoder_folder, tasks: dict[str, dict]) -> MTSBertModel:
    set_seed(0)
    return MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks).eval()


@pytest.mark.slow
def test_the_second_half_of_the_texts_takes_no_more_memory_than_the_first(root, warm_python):
    """`benchmarks/faults/load.py` does the same with a million of them."""
    program = root / "benchmarks" / "faults" / "load.py"
    done = warm_python.run(program, "--only", "texts", "--rows", "20000")
    assert done.returncode == 0, done.stderr[-3000:]
    measured = json.loads(done.stdout)
    tenth, half, whole = measured["resident_mb"].values()  # at so much of the rows
    assert measured["rows"] == 20_000
    assert whole < 1.05 * half
    assert half < 1.05 * tenth


@pytest.mark.slow
def test_a_text_of_megabytes_is_read_to_its_end(pipeline):
    text = ("Ada Perez joins Nimbus Labs in Oslo. " * 60_000)[: 200 * 1_000].strip() + " Lima"
    answer = pipeline(text)
    assert len(answer["embedding"]) == 32
    assert all(text[entity["start"] : entity["end"]] == entity["text"] for entity in answer["ner"])
    windows = pipeline.preprocess([text])
    assert max(end for window in windows for _, end in window["offsets"]) == len(text)
    answered = [position for window in windows for position in window["own"]]
    pieces = pipeline.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(answered) == len(pieces)  # each by one window


def test_a_long_text_among_short_ones_changes_nothing_for_them(pipeline):
    long = " ".join(["Oslo beat Lima in the final"] * 1_700)[: 10_000 * 5]
    texts = [*SHORT * 5, long, *SHORT * 5]
    together = pipeline(texts)
    for text, answer in [(SHORT[0], together[0]), (long, together[20]), (SHORT[2], together[-2])]:
        alone = pipeline(text)
        assert answer["embedding"] == pytest.approx(alone["embedding"], abs=1e-5)
        assert [entity["start"] for entity in answer["ner"]] == [entity["start"] for entity in alone["ner"]]


def test_a_long_text_does_not_stretch_the_short_ones_beside_it(pipeline, monkeypatch):
    """Where tags are decoded, texts are padded to the longest: 63 short ones to a long one would be gigabytes."""

    shapes, decode = [], entities_mtsbert.decode_tags

    def note(scores, mask, labels, **options):
        shapes.append(tuple(scores.shape[:2]))
        return decode(scores, mask, labels, **options)

    monkeypatch.setattr(entities_mtsbert, "decode_tags", note)
    lengths = [*[5] * 130, 600, 700, 40_000]
    scores = [torch.zeros(length, 3).log_softmax(dim=-1) for length in lengths]
    texts = ["a" * length for length in lengths]
    offsets = [[(place, place + 1) for place in range(length)] for length in lengths]
    found = entities_mtsbert.entities_of(texts, offsets, scores, {"labels": ["O", "B-X", "I-X"]})
    assert len(found) == len(texts)
    assert sum(rows for rows, _ in shapes) == len(texts)
    assert all(rows * places <= PLACES_PER_DECODING or rows == 1 for rows, places in shapes)
    assert max(rows for rows, _ in shapes) == 64  # the usual texts still go together


def test_fifty_tasks_are_trained_saved_and_answered(recipe, tmp_path):
    names = [f"task_{number}" for number in range(50)]
    rows = [{"text": SHORT[row % 3], **{name: "ab"[(row + index) % 2] for index, name in enumerate(names)}}
            for row in range(8)]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = dict.fromkeys(("train", "validation"), str(tmp_path / "rows.jsonl"))
    columns = {"text": "text", **{name: name for name in names}}
    tasks = {name: {"type": "sequence_classification"} for name in names}
    path = recipe(datasets={"rows": {"files": files, "columns": columns}}, tasks=tasks, do_eval=True)
    metrics = train(["--config", str(path)])
    assert all(f"eval_{name}_accuracy" in metrics for name in names)
    assert set(load_pipeline(str(tmp_path / "run"))(SHORT[0])) == {"embedding", *names}
    card = (tmp_path / "run" / "README.md").read_text()
    assert all(f"**task\\_{number}** (2 labels): a, b" in card for number in range(50))


def test_two_thousand_labels_are_trained_saved_and_answered(recipe, tmp_path):
    labels = [f"label {number:04}" for number in range(2_000)]
    rows = [{"text": f"{SHORT[number % 3]} {number}", "label": label} for number, label in enumerate(labels)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = dict.fromkeys(("train", "validation"), str(tmp_path / "rows.jsonl"))
    spec = {"files": files, "columns": {"text": "text", "label": "topic"}}
    path = recipe(
        datasets={"rows": spec},
        tasks={"topic": {"type": "sequence_classification"}},
        do_eval=True,
        per_device_train_batch_size=250,
        per_device_eval_batch_size=250,
    )
    assert train(["--config", str(path)])["eval_topic_accuracy"] <= 1.0
    answer = load_pipeline(str(tmp_path / "run"))(SHORT[0])
    assert list(answer["topic"]["scores"]) == labels
    assert "and 1900 more (see `config.json`)" in (tmp_path / "run" / "README.md").read_text()
    assert (tmp_path / "run" / "plots" / "confusion_topic.png").is_file()


def test_a_thousand_entity_types_are_answered(encoder_folder, tokenizer):
    tasks = {"ner": {"type": "token_classification", "labels": bio_labels([f"T{number}" for number in range(1_000)])}}
    answers = model_of(encoder_folder, tasks).as_pipeline(tokenizer)(SHORT)
    for text, answer in zip(SHORT, answers, strict=True):
        assert all(text[entity["start"] : entity["end"]] == entity["text"] for entity in answer["ner"])
