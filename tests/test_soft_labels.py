"""Tests tasks that learn from probabilities of their labels: reading, loss, metrics, and resuming."""

import json
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import set_seed

from configuration_mtsbert import check_tasks
from losses_mtsbert import is_labelled, item_losses, num_items
from modeling_mtsbert import MTSBertForSequenceClassification, MTSBertModel
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.calibration.fitting import fit
from mtsbert.commands.tune_thresholds import main as tune_thresholds
from mtsbert.data.features import unlabelled_row
from mtsbert.data.loading import load_data
from mtsbert.data.report import describe_data
from mtsbert.training.trainer import MTSBertTrainer


TOPIC = {"type": "sequence_classification", "labels": ["a", "b", "c"], "soft_labels": True}
NAN = [math.nan] * 3


def features_of(tokenizer, rows: list[dict], task: dict = TOPIC, **spec):
    data = {"data": {"dataset": {"train": Dataset.from_list(rows)}, **spec}}
    return load_data(data, {"topic": task}, tokenizer=tokenizer)


def test_the_loss_is_the_cross_entropy_against_the_probabilities():
    logits, shares = torch.randn(5, 3), torch.rand(5, 3).softmax(dim=-1)
    found = item_losses(TOPIC, logits, shares)
    assert torch.allclose(found, -(shares * logits.log_softmax(dim=-1)).sum(dim=-1), atol=1e-6)
    of_one = F.one_hot(torch.tensor([0, 2, 1, 1, 0]), 3).float()
    for more in ({}, {"class_weights": [3.0, 1.0, 0.5]}, {"label_smoothing": 0.1}):
        expected = item_losses(TOPIC | more, logits, of_one.argmax(dim=-1))
        assert torch.allclose(item_losses(TOPIC | more, logits, of_one), expected, atol=1e-6), more
    shares[1] = math.nan
    assert is_labelled(shares, TOPIC).tolist() == [True, False, True, True, True]
    assert num_items(shares, TOPIC) == 4
    for more in ({}, {"label_smoothing": 0.1}):
        missing = item_losses(TOPIC | more, logits.requires_grad_(), shares)
        assert missing[1] == 0.0
        (gradient,) = torch.autograd.grad(missing.sum(), logits)
        assert not gradient[1].any()
        assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": 0.25, "c": 0.75}, [0.25, 0.0, 0.75]),
        ({"a": 0.25, "b": None, "c": 0.75}, [0.25, 0.0, 0.75]),  # as Arrow fills up a struct
        ({"a": 0.333, "b": 0.333, "c": 0.333}, [1 / 3] * 3),
        ({"b": 1}, [0.0, 1.0, 0.0]),
        ("b", [0.0, 1.0, 0.0]),
        ('{"a": 0.25, "c": 0.75}', [0.25, 0.0, 0.75]),  # as CSV has it
        (None, NAN),
        ({"a": None}, NAN),
    ],
    ids=str,
)
def test_what_a_cell_means(tokenizer, value, expected):
    other = {"a": 1.0} if isinstance(value, dict) or value is None else "a"
    data = features_of(tokenizer, [{"text": "Oslo", "topic": value}, {"text": "Lima", "topic": other}])
    found = data.features["train"][0]["topic"]
    assert found == pytest.approx(expected, nan_ok=True)


def test_labels_come_from_the_data_and_may_be_renamed(tokenizer):
    rows = [{"text": "Oslo", "topic": {"x": 0.5, "z": 0.25, "y": 0.25}}, {"text": "Lima", "topic": {"y": 1.0}}]
    unnamed = {key: value for key, value in TOPIC.items() if key != "labels"}
    assert features_of(tokenizer, rows, unnamed).tasks["topic"]["labels"] == ["x", "y", "z"]
    data = features_of(tokenizer, rows, TOPIC, label_map={"topic": {"x": "a", "y": "b", "z": "a"}})
    assert data.features["train"]["topic"][0] == [0.75, 0.25, 0.0]
    report = describe_data(data)
    assert "Labels: b 1.2, a 0.8\n" in report
    assert "- 'Oslo' → a 0.75, b 0.25\n" in report
    data = features_of(tokenizer, rows, TOPIC, label_map={"topic": {"x": "a", "z": "b", "y": None}})
    assert data.features["train"]["topic"][0] == pytest.approx([2 / 3, 1 / 3, 0.0])
    assert data.features["train"]["topic"][1] == pytest.approx(NAN, nan_ok=True)
    assert data.num_labelled("train", "topic") == 1
    with pytest.raises(ValueError, match=r"Row 0 .*: label 'x' is not one of task 'topic', which has \['a', 'b', 'c'"):
        features_of(tokenizer, rows)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": 0.5, "b": 0.4}, r"adds up to 0.9; probabilities of labels add up to 1"),
        ({"a": 1.5, "b": -0.5}, r"has 1.5 in it, which is no probability"),
        ({"a": "much"}, "has 'much' in it, which is no probability"),
        ({"a": True}, "has True in it, which is no probability"),
        ([0.5, 0.5], "is not a label"),
        ('{"a": 0.5', "is not JSON"),
        ('{"a": 0.3, "b": 0.3, "a": 0.7}', "'a' stands twice in one mapping"),
    ],
    ids=str,
)
def test_what_are_no_probabilities_of_labels_is_refused(tokenizer, value, message):
    with pytest.raises(ValueError, match=f"Row 0 of dataset 'data', split 'train': column 'topic': .*{message}"):
        features_of(tokenizer, [{"text": "Oslo", "topic": value}])
    hard = {"type": "sequence_classification", "labels": ["a", "b"]}
    with pytest.raises(ValueError, match="With `soft_labels: true`, a task of a recipe learns from probabilities"):
        features_of(tokenizer, [{"text": "Oslo", "topic": {"a": 0.5, "b": 0.5}}], hard)


def test_settings_that_soft_labels_do_not_go_with_are_refused(tokenizer):
    for more in ({"multi_label": True}, {"loss": "focal"}):
        with pytest.raises(ValueError, match="not for 'multi_label' or 'loss: focal'"):
            check_tasks({"topic": TOPIC | more})
    with pytest.raises(ValueError, match="'soft_labels' is 'yes'; it must be true or false"):
        check_tasks({"topic": TOPIC | {"soft_labels": "yes"}})
    with pytest.raises(ValueError, match=r"unknown keys \['soft_labels'\]"):
        check_tasks({"ner": {"type": "token_classification", "labels": ["O", "B-X", "I-X"], "soft_labels": True}})
    with pytest.raises(ValueError, match="'class_weights: balanced' counts texts of one label each"):
        features_of(tokenizer, [{"text": "Oslo", "topic": {"a": 1.0}}], TOPIC | {"class_weights": "balanced"})


@pytest.fixture
def rows() -> Dataset:
    """Texts whose probability of `b` is the share of `lima` among their words, and every tenth without labels."""
    found = []
    for n in range(60):
        lima = n % 5
        shares = None if n % 10 == 9 else {"a": 1 - lima / 4, "b": lima / 4}
        found.append({"text": "oslo " * (4 - lima) + "lima " * lima, "topic": shares})
    return Dataset.from_list(found)


@pytest.fixture
def train(encoder_folder, tokenizer, rows, tmp_path):
    def run(name: str, *, resume: str | None = None, dropout: float | None = None, **arguments) -> MTSBertTrainer:
        set_seed(0)
        model = MTSBertModel.from_encoder(str(encoder_folder), tasks={"topic": TOPIC | {"labels": ["a", "b"]}})
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout) and dropout is not None:
                part.p = dropout
        settings = {"num_train_epochs": 30, "learning_rate": 1e-2, "disable_tqdm": True, "precision": "fp32"}
        settings |= {"save_strategy": "no", "calibration": False, "seed": 1}
        args = MTLTrainingArguments(str(tmp_path / name), **settings | arguments)
        trainer = MTSBertTrainer(model, args, processing_class=tokenizer, train_dataset=rows, eval_dataset=rows)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


def test_probabilities_are_learned_and_the_likeliest_label_is_right(train, rows):
    trainer = train("run")
    metrics = trainer.evaluate()
    answers = trainer.model.eval().as_pipeline(trainer.processing_class)(rows["text"][:])
    labelled = [n for n in range(60) if rows[n]["topic"] is not None]
    shares = np.array([[rows[n]["topic"][label] for label in "ab"] for n in labelled])
    found = np.array([[answers[n]["topic"]["scores"][label] for label in "ab"] for n in labelled])
    assert np.abs(found - shares).max() < 0.1
    assert metrics["eval_topic_accuracy"] == (found.argmax(axis=1) == shares.argmax(axis=1)).mean()
    assert metrics["eval_topic_loss"] == pytest.approx(-(shares * np.log(found)).sum(axis=1).mean(), abs=1e-4)
    assert trainer.evaluations["eval"].counts["topic"].sum() == len(labelled)


def test_accumulated_steps_and_a_resumed_run_end_with_the_same_weights(train, tmp_path):
    same = {"num_train_epochs": 2, "optim": "sgd", "train_sampling_strategy": "sequential", "dropout": 0.0}
    straight = train("straight", save_strategy="epoch", per_device_train_batch_size=8, **same)
    checkpoint = str(tmp_path / "straight" / "checkpoint-8")
    resumed = train("again", resume=checkpoint, per_device_train_batch_size=8, **same)
    halves = train("halves", per_device_train_batch_size=4, gradient_accumulation_steps=2, **same)
    start = MTSBertModel.from_pretrained(checkpoint).state_dict()
    for name, weights in straight.model.state_dict().items():
        assert torch.equal(weights, resumed.model.state_dict()[name]), name
        assert torch.allclose(weights, halves.model.state_dict()[name], atol=1e-6), name
    assert not torch.equal(
        start["heads.topic.classifier.weight"], straight.model.state_dict()["heads.topic.classifier.weight"]
    )


def test_true_probabilities_are_calibrated_as_they_are():
    shares = torch.distributions.Dirichlet(torch.ones(3)).sample((20_000,))
    for logits, temperature in ((shares.log(), 1.0), (2 * shares.log(), 2.0)):
        found = fit(TOPIC, logits, shares)
        assert found.settings["temperature"] == pytest.approx(temperature, rel=1e-3)
        assert found.error_after == pytest.approx(0.0, abs=1e-4)
    assert found.error_before > 0.05
    ids = torch.multinomial(shares, 1).squeeze(1)
    hard = fit(TOPIC, shares.log(), ids)
    assert hard.settings == fit(TOPIC, shares.log(), F.one_hot(ids, 3).float()).settings
    assert hard.settings["temperature"] == pytest.approx(1.0, abs=0.1)  # 8 standard errors


def test_sure_probabilities_are_learned_as_plain_labels_are(encoder_folder, tokenizer, tmp_path):
    texts = [{"text": f"{word} wins", "topic": label} for word, label in zip("abcdef" * 2, "abcabb" * 2, strict=True)]
    sure = [{"text": row["text"], "topic": {row["topic"]: 1.0}} for row in texts]
    hard = {key: value for key, value in TOPIC.items() if key != "soft_labels"}
    weights = []
    for task, rows in ((hard, texts), (TOPIC, sure)):
        set_seed(0)
        model = MTSBertModel.from_encoder(str(encoder_folder), tasks={"topic": task})
        settings = {"max_steps": 3, "optim": "sgd", "learning_rate": 0.1, "per_device_train_batch_size": 4}
        args = MTLTrainingArguments(str(tmp_path / "run"), save_strategy="no", disable_tqdm=True, **settings)
        MTSBertTrainer(model, args, processing_class=tokenizer, train_dataset=Dataset.from_list(rows)).train()
        weights.append(model.state_dict())
    for name, of_hard in weights[0].items():
        assert torch.allclose(of_hard, weights[1][name], atol=1e-6), name


def test_a_row_that_fills_up_a_batch_has_no_probabilities(tokenizer):
    features = features_of(tokenizer, [{"text": "Oslo", "topic": {"a": 0.5, "b": 0.5}}]).features["train"]
    assert unlabelled_row(features, {"topic": TOPIC})["topic"][0] == pytest.approx(NAN, nan_ok=True)


def test_scores_are_calibrated_and_thresholds_tuned(train, rows, tmp_path, monkeypatch):
    monkeypatch.setattr("mtsbert.calibration.fitting.LEAST_ITEMS", 20)
    trainer = train("run", calibration=True)
    assert trainer.model.config.tasks["topic"]["temperature"] > 0
    trainer.save_model()
    soft = [row for row in rows if row["topic"]]
    hard = [row | {"topic": max(row["topic"], key=row["topic"].get)} for row in soft]
    found = []
    for name, lines in (("soft", soft), ("hard", hard)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        tune_thresholds(["--model", str(tmp_path / "run"), "--data", str(path), "--target", "f1"])
        settings = MTSBertModel.from_pretrained(tmp_path / "run").config.tasks["topic"]
        found.append(settings["thresholds"])
    assert found[0] == found[1]
    assert set(found[0]) == {"a", "b"}
    assert settings["soft_labels"]


def test_a_view_takes_probabilities_and_the_count_of_a_trainer(encoder_folder, tmp_path):
    MTSBertModel.from_encoder(str(encoder_folder), tasks={"topic": TOPIC}).save_pretrained(tmp_path)
    view = MTSBertForSequenceClassification.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[2, 8, 3], [2, 9, 3]])
    shares = torch.tensor([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]])
    found = view(ids, labels=shares)
    expected = -(shares * found.logits.log_softmax(dim=-1)).sum(dim=1)
    assert torch.allclose(found.loss, expected.mean(), atol=1e-6)
    counted = shares.ne(-100).sum()  # as transformers' Trainer counts
    assert torch.allclose(view(ids, labels=shares, num_items_in_batch=counted).loss, found.loss, atol=1e-6)
    hard = view(ids, labels=torch.tensor([0, 1]), num_items_in_batch=2).loss
    assert torch.allclose(hard, F.cross_entropy(found.logits, torch.tensor([0, 1])), atol=1e-6)


def test_several_labels_may_still_be_given_as_floats(encoder_folder):
    tasks = {"tags": {"type": "sequence_classification", "labels": ["a", "b", "c"], "multi_label": True}}
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks).eval()
    for number in (2, 3):
        ids, labels = torch.randint(5, 9, (number, 4)), torch.randint(2, (number, 3))
        whole, floats = (model(ids, labels={"tags": of}).loss for of in (labels, labels.float()))
        assert torch.allclose(whole, floats, atol=1e-6)


def test_features_of_plain_labels_are_taken_by_a_task_with_soft_ones(train, tokenizer):
    trainer = train("run", num_train_epochs=1)
    rows = Dataset.from_list([{"text": "oslo", "topic": "a"}, {"text": "lima", "topic": "b"}])
    hard = {"type": "sequence_classification", "labels": ["a", "b"]}
    features = features_of(tokenizer, rows.to_list(), hard).features["train"]
    one, other = trainer.evaluate(features), trainer.evaluate(rows)
    for name in ("eval_topic_loss", "eval_topic_accuracy"):
        assert one[name] == pytest.approx(other[name], abs=1e-6)


def test_pairs_are_learned_from_probabilities(model, encoder_folder):
    task = {"type": "pair_classification", "labels": ["no", "yes"], "soft_labels": True}
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks={"follows": task}).eval()
    ids = torch.tensor([[2, 8, 3], [2, 9, 3]])
    shares = torch.tensor([[0.25, 0.75], [math.nan, math.nan]])
    found = model(ids, pair_input_ids=ids.flip(0), labels={"follows": shares})
    expected = -(shares[0] * found.logits["follows"][0].log_softmax(dim=-1)).sum()
    assert found.loss.item() == pytest.approx(expected.item(), abs=1e-6)
