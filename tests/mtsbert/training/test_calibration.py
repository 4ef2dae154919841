"""Tests that training ends with calibrated scores, and that they are those of the weights that are saved."""

import functools
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets
from transformers import TrainerCallback

from modeling_mtsbert import MTSBertModel
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.calibration.fitting import Fit, expected_calibration_error, fit
from mtsbert.training.trainer import MTSBertTrainer


@pytest.fixture
def many(features):
    return concatenate_datasets([features] * 60)


@pytest.fixture
def trainer_of(trainer_of):
    """In evaluation, large batches."""
    return functools.partial(trainer_of, per_device_eval_batch_size=64)


def test_a_trained_model_has_calibrated_scores(trainer_of, model, many, tmp_path, caplog):
    trainer = trainer_of(of=model, eval_dataset=many, num_train_epochs=6)
    with caplog.at_level(logging.INFO):
        trainer.train()
    assert trainer.calibration["topic"].num_items == 420  # one row of eight has no topic
    assert "The scores of 'topic' are calibrated on 420 answers: log loss" in caplog.text
    trainer.save_model(str(tmp_path / "saved"))
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())["tasks"]
    assert saved["topic"]["temperature"] == trainer.calibration["topic"].settings["temperature"]
    again = MTSBertModel.from_pretrained(tmp_path / "saved").eval()
    logits = trainer.predict(many).predictions["topic"]
    labels = np.array(many["topic"])
    rows = labels >= 0
    found = torch.from_numpy(logits[rows] / again.config.tasks["topic"]["temperature"]).softmax(dim=-1)
    scores, best = found.max(dim=-1)
    error = expected_calibration_error(scores.numpy(), best.numpy() == labels[rows])
    assert error == pytest.approx(trainer.calibration["topic"].error_after, abs=1e-3)
    assert "calibration" not in trainer.evaluations
    assert not any(key.startswith("calibration") for line in trainer.state.log_history for key in line)


def test_every_row_is_calibrated_on_where_the_last_training_batch_is_dropped(trainer_of, model, many):
    flags = {"dataloader_drop_last": True, "max_steps": 1, "per_device_eval_batch_size": 512}
    trainer = trainer_of(of=model, eval_dataset=many, **flags)
    trainer.train()
    assert trainer.calibration["topic"].num_items == 420


def test_training_again_forgets_the_old_calibration_first(trainer_of, model, many):
    trainer = trainer_of(of=model, eval_dataset=many, num_train_epochs=2)
    trainer.train()
    assert model.config.calibration
    seen = []
    trainer.add_callback(_AtBegin(lambda: seen.append(model.config.calibration)))
    trainer.train()
    assert seen == [False]
    assert model.config.calibration


def test_a_few_rows_or_the_flag_leave_scores_as_they_are(trainer_of, model, features, many):
    trainer_of(of=model, eval_dataset=features).train()
    assert not model.config.calibration
    trainer_of(of=model, eval_dataset=many, calibration=False).train()
    assert not model.config.calibration
    trainer = trainer_of(of=model)
    trainer.train()
    assert not model.config.calibration
    assert set(trainer.calibrate(many)) == {"topic"} | set(trainer.calibration)
    assert model.config.calibration


def test_what_is_not_fitted_again_stays(trainer_of, model, many, features):
    trainer = trainer_of(of=model, eval_dataset=many)
    trainer.train()
    before = {task: dict(settings) for task, settings in model.config.tasks.items()}
    assert trainer.calibrate(features) == {}
    assert model.config.tasks == before
    with pytest.raises(ValueError, match="There is nothing to calibrate on"):
        trainer_of(of=model).calibrate()


def test_a_run_that_evaluates_losses_alone_is_calibrated_as_well(trainer_of, model, many):
    trainer = trainer_of(of=model, eval_dataset=many, prediction_loss_only=True)
    trainer.train()
    assert "topic" in trainer.calibration
    assert trainer.args.prediction_loss_only


def test_a_model_init_may_open_a_calibrated_checkpoint(trainer_of, model, many, tokenizer, tmp_path):
    trainer_of(of=model, eval_dataset=many).train()
    model.save_pretrained(tmp_path / "first")
    assert model.config.calibration
    flags = {"precision": "fp32", "disable_tqdm": True, "save_strategy": "no", "max_steps": 1}
    args = MTLTrainingArguments(str(tmp_path / "run"), per_device_eval_batch_size=64, **flags)
    trainer = MTSBertTrainer(
        args=args, model_init=lambda: MTSBertModel.from_pretrained(tmp_path / "first"), processing_class=tokenizer,
        train_dataset=many, eval_dataset=many,
    )  # fmt: skip
    for _ in range(2):
        trainer.train()
        assert trainer.model.config.tasks["topic"]["temperature"] > 0


def test_two_models_of_the_same_tasks_do_not_share_a_calibration(trainer_of, encoder_folder, tasks, many):
    one, other = (MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks) for _ in range(2))
    trainer_of(of=one, eval_dataset=many).train()
    assert one.config.calibration
    assert not other.config.calibration
    assert "temperature" not in tasks["topic"]


@pytest.mark.parametrize(("factor", "is_kept"), [(0.999, True), (1.0, True), (1.001, False)])
def test_what_raises_the_log_loss_is_not_kept_and_told(trainer_of, model, many, monkeypatch, caplog, factor, is_kept):
    def fitted(*given):
        found = fit(*given)
        return found and replace(found, loss_before=1.0, loss_after=factor)

    monkeypatch.setattr("mtsbert.training.evaluation.fit", fitted)
    with caplog.at_level(logging.INFO):
        found = trainer_of(of=model, eval_dataset=many).calibrate()
    assert ("topic" in found) is ("temperature" in model.config.tasks["topic"]) is is_kept
    told = "'topic' stay as they are: what was fitted to 420 answers makes their log loss 1.001 instead of 1.000"
    assert (told in caplog.text) is not is_kept


def fitted_coarsely(settings: dict, *_) -> Fit:
    found = {"temperature": 9.0}
    if settings["type"] == "token_classification":
        found = {"platt": [1.0, -9.0]}  # no entity is sure enough
    return Fit(found, 300, 0.2, 0.1, 0.2, 0.1)


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize(
    ("task", "changes"),
    [("tags", {"thresholds": {"Sports": 0.9}}), ("ner", {"min_score": 0.5}), ("ner", {"thresholds": {"GPE": 0.5}})],
)
def test_what_is_kept_for_the_card_is_of_calibrated_scores(
    trainer_of, encoder_folder, tasks, examples, monkeypatch, task, changes, at_end
):
    monkeypatch.setattr("mtsbert.training.evaluation.fit", fitted_coarsely)
    tags = {"type": "sequence_classification", "labels": ["Business", "Sports"], "multi_label": True}
    tasks = {"tags": tags, "ner": tasks["ner"]}
    tasks[task] = tasks[task] | changes
    rows = Dataset.from_list([{"tags": [row["topic"] or "Sports"], **row} for row in examples] * 12)
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks)
    flags = {"train_dataset": rows, "eval_strategy": "epoch", "num_train_epochs": 3}
    flags |= {"save_strategy": "epoch", "load_best_model_at_end": True} if at_end else {}
    trainer = trainer_of(of=model, eval_dataset=rows, **flags)
    trainer.train()
    logged = [line for line in trainer.state.log_history if "eval_loss" in line]
    assert len(logged) == 3
    kept = trainer.evaluations["eval"].metrics
    now = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()}
    assert {name: now[name] for name in kept if name in now} == pytest.approx(
        {name: kept[name] for name in kept if name in now}
    )
    assert f"{task}_{'f1' if task == 'ner' else 'macro_f1'}" in kept
    assert kept["embedding_cosine"] in [line["eval_embedding_cosine"] for line in logged]


def test_without_cuts_the_evaluation_of_the_best_step_stays(trainer_of, model, many):
    flags = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    trainer = trainer_of(of=model, eval_dataset=many, **flags)
    trainer.train()
    assert trainer.evaluations["eval"] is trainer._evaluations_of_steps[trainer.state.best_global_step]


def test_calibrating_or_training_again_drops_what_was_measured_before(trainer_of, model, many, monkeypatch):
    monkeypatch.setattr("mtsbert.training.evaluation.fit", fitted_coarsely)
    model.config.tasks["ner"]["min_score"] = 0.5
    trainer = trainer_of(of=model)
    trainer.evaluate(many, metric_key_prefix="test")
    trainer.train()
    assert trainer.evaluations == {}
    trainer.evaluate(many, metric_key_prefix="test")
    trainer.calibrate(many)
    assert trainer.evaluations == {}


def test_the_users_metrics_are_not_asked_about_the_rows_of_the_calibration(trainer_of, model, many):
    trainer = trainer_of(of=model, eval_dataset=many)
    asked = []
    trainer.answer_metrics.preprocess = lambda logits, labels: asked.append(1) or logits["topic"]
    trainer.calibrate()
    assert asked == []
    assert trainer.answer_metrics.preprocess is not None


def test_thresholds_of_another_model_are_kept_and_told(trainer_of, model, many, tmp_path, caplog):
    model.config.tasks["topic"]["thresholds"] = {"Sports": 0.9}
    model.save_pretrained(tmp_path / "first")
    again = MTSBertModel.from_pretrained(tmp_path / "first")
    trainer_of(of=again).train()
    assert (
        "The thresholds of ['topic'] were tuned for the scores of the model that this run goes on from" in caplog.text
    )
    assert again.config.tasks["topic"]["thresholds"] == {"Sports": 0.9}


FITTED = {"topic": {"temperature": 1.5, "thresholds": {"Sports": 0.9}}, "ner": {"platt": [1.5, 0.5]}}


@pytest.fixture
def going_on(model, tmp_path):
    """A calibrated checkpoint with a new task."""
    for task, settings in FITTED.items():
        model.config.tasks[task] |= settings
    model.add_task("mood", {"type": "sequence_classification", "labels": ["Business", "Sports"]})
    model.save_pretrained(tmp_path / "first")
    return MTSBertModel.from_pretrained(tmp_path / "first")


@pytest.mark.parametrize(
    ("flags", "lost"),
    [
        ({"freeze_encoder": True, "freeze_heads": ["topic", "ner"]}, []),
        ({"freeze_encoder": True, "freeze_heads": ["topic", "ner"], "calibration": False}, []),
        ({"freeze_encoder": True, "freeze_heads": ["topic"]}, ["ner"]),
        ({"freeze_encoder": True, "freeze_heads": ["topic", "ner"], "thaw_at": "1"}, ["topic", "ner"]),
        ({"freeze_heads": ["topic", "ner"]}, ["topic", "ner"]),
    ],
)
def test_what_is_frozen_keeps_its_calibration_and_what_else_is_lost_is_told(
    trainer_of, going_on, examples, caplog, flags, lost
):
    rows = Dataset.from_list([{"text": row["text"], "mood": row["topic"]} for row in examples])
    trainer_of(of=going_on, train_dataset=rows, eval_dataset=rows, **flags).train()
    for task, settings in FITTED.items():
        kept = {key: value for key, value in settings.items() if key == "thresholds" or task not in lost}
        assert {key: going_on.config.tasks[task].get(key) for key in settings} == dict.fromkeys(settings) | kept
    told = f"The scores of {lost} were calibrated in the model that this run goes on from, and are not any more"
    assert (told in caplog.text) is bool(lost)
    assert ("The thresholds of ['topic'] were tuned" in caplog.text) is ("topic" in lost)


class _AtBegin(TrainerCallback):
    def __init__(self, call):
        self.call = call

    def on_train_begin(self, args, state, control, **kwargs):
        self.call()
