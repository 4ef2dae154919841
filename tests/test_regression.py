"""Tests tasks that learn one number for a text: loss, metrics, and answers through every door."""

import json
import math

import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from scipy.stats import spearmanr
from transformers import AutoModelForSequenceClassification, pipeline

from modeling_mtsbert import MTSBertForSequenceClassification, MTSBertModel
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.cli import main
from mtsbert.commands.export import export_onnx
from mtsbert.data.loading import load_data
from mtsbert.exports.pipeline import OnnxPipeline
from mtsbert.training.trainer import MTSBertTrainer


TEXTS = ["Oslo wins", "Ada Perez joins Nimbus Labs in Lima", "The final"]
GRADE = {"type": "sequence_regression", "score_range": [1, 5]}


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def rows() -> Dataset:
    """Texts whose number says how often they name Oslo."""
    return Dataset.from_list([{"text": "the final " + "oslo " * (n % 5), "grade": 1.0 + n % 5} for n in range(40)])


@pytest.fixture
def grader(encoder_folder, tokenizer, rows, tmp_path):
    """Trains on the rows, with other settings of the task or the run."""

    def train(*, of: Dataset = rows, task: dict = GRADE, **arguments) -> MTSBertTrainer:
        model = MTSBertModel.from_encoder(str(encoder_folder), tasks={"grade": dict(task)})
        settings = {"num_train_epochs": 40, "learning_rate": 5e-3, "disable_tqdm": True, "precision": "fp32"}
        args = MTLTrainingArguments(str(tmp_path / "run"), save_strategy="no", **settings | arguments)
        trainer = MTSBertTrainer(model, args, processing_class=tokenizer, train_dataset=of, eval_dataset=rows)
        trainer.train()
        return trainer

    return train


@pytest.mark.parametrize("task", [GRADE, {"type": "sequence_regression", "hidden_size": 16}], ids=["range", "hidden"])
def test_numbers_are_learned(grader, rows, task):
    trainer = grader(task=task)
    metrics = trainer.evaluate()
    found = [
        answer["grade"]["score"]
        for answer in trainer.model.eval().as_pipeline(trainer.processing_class)(rows["text"][:])
    ]
    errors = [one - right for one, right in zip(found, rows["grade"], strict=True)]
    assert metrics["eval_grade_spearman"] == pytest.approx(
        spearmanr(found, rows["grade"][:]).statistic, abs=0.01
    )  # ties
    assert metrics["eval_grade_spearman"] > 0.9
    assert metrics["eval_grade_mae"] == pytest.approx(sum(map(abs, errors)) / 40, abs=1e-4)
    assert metrics["eval_grade_r2"] == pytest.approx(
        1 - sum(e * e for e in errors) / (40 * 2.0), abs=1e-4
    )  # variance 2
    scale = 4.0 if "score_range" in task else 1.0
    assert metrics["eval_grade_loss"] == pytest.approx(sum((e / scale) ** 2 for e in errors) / 40, abs=1e-4)
    assert metrics["eval_composite"] == metrics["eval_grade_spearman"]


def test_a_missing_number_teaches_nothing(model, encoder_folder):
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks={"grade": GRADE})
    ids = torch.tensor([[2, 8, 3], [2, 9, 3]])
    both = model.eval()(ids, labels={"grade": torch.tensor([4.0, math.nan])})
    alone = model(ids[:1], labels={"grade": torch.tensor([4.0])})
    assert both.logits["grade"].shape == (2, 1)
    assert torch.allclose(both.loss, alone.loss, atol=1e-6)
    assert alone.loss.item() == pytest.approx(((alone.logits["grade"].item() - 4.0) / 4.0) ** 2, abs=1e-6)
    none = model(ids, labels={"grade": torch.tensor([math.nan, math.nan])})
    assert none.loss.item() == 0.0
    none.loss.backward()
    assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())


def test_labels_may_have_a_second_dimension_of_one(encoder_folder):
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks={"grade": GRADE}).eval()
    ids, labels = torch.tensor([[2, 8, 3], [2, 9, 3], [2, 7, 3]]), torch.tensor([1.0, math.nan, 3.0])
    flat = model(ids, labels={"grade": labels}).loss
    assert torch.equal(model(ids, labels={"grade": labels.unsqueeze(1)}).loss, flat)


def test_a_number_keeps_its_digits_under_bf16(encoder_folder):
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks={"year": {"type": "sequence_regression"}}).eval()
    with torch.no_grad():
        model.heads["year"].classifier.bias.fill_(1990.0)
    ids = torch.tensor([[2, 8, 3]])
    with torch.autocast("cpu", torch.bfloat16):
        found = model(ids).logits["year"]
    assert found.dtype == torch.float32
    assert abs(found.item() - model(ids).logits["year"].item()) < 0.1  # bf16 alone has steps of 8 there


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_number_is_asked_of_a_head_whose_weights_are_whole_numbers(encoder_folder):
    """As quantizers make them: packed into bytes, or behind a method."""
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks={"grade": {"type": "sequence_regression"}}).eval()
    model.requires_grad_(False)
    ids = torch.tensor([[2, 8, 3], [2, 9, 3]])
    expected = model(ids).logits["grade"]
    engine = next(one for one in torch.backends.quantized.supported_engines if one != "none")
    torch.backends.quantized.engine, before = engine, torch.backends.quantized.engine
    try:
        dynamic = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
        assert dynamic(ids).logits["grade"] == pytest.approx(expected, abs=0.02)
    finally:
        torch.backends.quantized.engine = before
    model.heads["grade"].classifier = Packed(model.heads["grade"].classifier)
    assert torch.equal(model(ids).logits["grade"], expected)


class Packed(torch.nn.Module):
    """A layer that keeps its weights as bytes, as one of 4 bits does."""

    def __init__(self, layer: torch.nn.Linear):
        super().__init__()
        self.weight = torch.nn.Parameter(layer.weight.detach().view(torch.uint8), requires_grad=False)
        self.bias = layer.bias

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(states, self.weight.view(torch.float32), self.bias)


def test_a_saved_view_opens_again(checkpoint, tmp_path):
    view = MTSBertForSequenceClassification.from_pretrained(checkpoint, head="grade")
    view.save_pretrained(tmp_path)
    for options in ({}, {"num_labels": 1}):
        again = MTSBertForSequenceClassification.from_pretrained(tmp_path, head="grade", **options)
        assert again.config.problem_type == "regression"
        assert "labels" not in again.config.tasks["grade"]


def test_every_door_gives_the_same_number(checkpoint, tmp_path):
    ours = pipeline("multi-task", model=str(checkpoint), trust_remote_code=True)(TEXTS)
    expected = [answer["grade"]["score"] for answer in ours]
    assert [list(answer["grade"]) for answer in ours] == [["score"]] * 3
    view = MTSBertForSequenceClassification.from_pretrained(checkpoint, head="grade")
    assert (view.config.problem_type, view.config.id2label, view.num_labels) == ("regression", {0: "grade"}, 1)
    tokenizer = str(checkpoint)
    standard = pipeline("text-classification", model=view, tokenizer=tokenizer)(TEXTS)
    assert [answer["label"] for answer in standard] == ["grade"] * 3
    export_onnx(str(checkpoint), tmp_path / "onnx")
    onnx = OnnxPipeline(tmp_path / "onnx")(TEXTS)
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    for name in ("answers.jsonl", "answers.parquet"):
        main(
            [
                "predict",
                "--model",
                str(checkpoint),
                "--input",
                str(texts),
                "--output",
                str(tmp_path / name),
                "--precision",
                "fp32",
            ]
        )
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    table = pq.read_table(tmp_path / "answers.parquet").to_pylist()
    for door in (standard, *([answer["grade"] for answer in door] for door in (onnx, lines, table))):
        assert [answer["score"] for answer in door] == pytest.approx(expected, abs=1e-5)


def test_a_checkpoint_whose_first_text_task_is_a_regression_opens_as_one(grader, tmp_path):
    trainer = grader(num_train_epochs=1)
    trainer.save_model(str(tmp_path / "saved"))
    view = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", trust_remote_code=True).eval()
    assert view.config.problem_type == "regression"
    inputs = trainer.processing_class(TEXTS, return_tensors="pt", padding=True)
    logits = trainer.model.eval()(**inputs).logits["grade"]
    assert torch.allclose(view(**inputs).logits, logits, atol=1e-6)
    labels = torch.tensor([1.0, 2.0, 3.0])
    assert torch.allclose(
        view(**inputs, labels=labels).loss, ((logits.squeeze(1) - labels) / 4).square().mean(), atol=1e-6
    )


def test_the_smallest_error_is_the_best():
    best = MTLTrainingArguments("x", metric_for_best_model="eval_grade_mae")
    assert best.greater_is_better is False
    assert MTLTrainingArguments("x", metric_for_best_model="eval_grade_r2").greater_is_better is True
    assert MTLTrainingArguments("x", metric_for_best_model="a_mae", greater_is_better=True).greater_is_better is True


@pytest.mark.parametrize(
    ("task", "number", "message"),
    [
        (GRADE, 6.0, r"score 6\.0 lies outside 'score_range' \[1, 5\]"),
        (GRADE, "good", "'good' is not a score"),
        ({"type": "sequence_regression"}, math.inf, "inf is not a score"),
        (GRADE | {"score_range": [5, 1]}, 2.0, "needs 'score_range', the lowest and the highest score"),
        (GRADE | {"labels": ["a", "b"]}, 2.0, r"unknown keys \['labels'\]; a sequence_regression task may have"),
    ],
)
def test_what_is_no_number_is_refused(task, number, message):
    rows = Dataset.from_list([{"text": "Oslo", "grade": number}])
    with pytest.raises(ValueError, match=message):
        load_data(rows, {"grade": task})
