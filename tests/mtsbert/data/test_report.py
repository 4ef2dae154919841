"""Tests the report of `--check_data`."""

import json

import pytest

from run_mtl import main


def test_check_data_describes_every_task_and_stops(recipe, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "mtsbert.training.trainer.MTSBertTrainer.train", lambda *args, **kwargs: pytest.fail("training began")
    )
    assert main(["--config", str(recipe(max_length=8)), "--check_data"]) == {}
    said = capsys.readouterr().out
    assert "# train: 8 rows" in said
    assert "## train / topic (sequence_classification): 8 labelled rows" in said
    assert "Labels: Business 4, Sports 4" in said
    assert "Labels: GPE 6, PERSON 3, ORG 3" in said
    assert "- 'Oslo beat Lima in the final' → ['GPE: Oslo', 'GPE: Lima']" in said
    # Three texts have seven words, of which six fit between the special tokens: each loses its last entity.
    assert "Longer than `max_length`: 3 rows (37.50%)" in said
    assert "Entities: 12, of them 3 cut off and 0 not at the borders of word pieces" in said
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_recipe_without_a_length_reads_what_the_encoder_does(recipe, tmp_path, caplog):
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"text": "oslo " * 90, "label": "Sports"}), encoding="utf-8")
    news = {"files": {"train": str(path)}, "columns": {"text": "text", "label": "topic"}}
    tasks = {"topic": {"type": "sequence_classification", "labels": ["Sports", "Business"]}}
    config = recipe(max_length=None, datasets={"news": news}, tasks=tasks)
    assert main(["--config", str(config), "--check_data"]) == {}
    assert "train: 1 of 1 rows are longer than `max_length`: cut." in caplog.text
