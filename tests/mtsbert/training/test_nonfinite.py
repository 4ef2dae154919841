"""Tests that losses and gradients that are not finite are reported with step, task and rows, or skipped."""

import copy
import json
import logging
import math

import pytest
import torch
from datasets import ClassLabel

from modeling_mtsbert import MTSBertModel
from mtsbert.data.features import build_features
from mtsbert.training.losses.nonfinite import SKIPPED_STEPS, name_rows
from run_mtl import main
from tests.mtsbert.rows import examples_of


RARE_WORD = "goal"  # in the fifth row only
HALVES = {"per_device_train_batch_size": 4, "lr_scheduler_type": "constant"}  # rows 0 to 3, and 4 to 7


def poison(model: MTSBertModel, tokenizer, word: str) -> MTSBertModel:
    """The model makes no number of the word from here on."""
    (piece,) = tokenizer(word, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        model.get_input_embeddings().weight[piece] = math.nan
    return model


@pytest.fixture
def poisoned(model, tokenizer) -> MTSBertModel:
    return poison(model, tokenizer, RARE_WORD)


def weights(model: MTSBertModel) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name, weight in one.items():
        assert torch.equal(weight.nan_to_num(), other[name].nan_to_num()), name


def test_a_loss_that_is_no_number_stops_the_run_and_names_step_task_and_row(trainer_of, poisoned):
    expected = copy.deepcopy(poisoned)
    trainer_of(of=expected, max_steps=1, **HALVES).train()
    trainer = trainer_of(of=poisoned, num_train_epochs=2, **HALVES)
    with pytest.raises(
        FloatingPointError,
        match=r"^Step 2: the loss of task 'topic' is not a finite number, with row 4 of dataset 'train' "
        r"\('the final ends without a goal'\); the loss of task 'ner' is .* row 4 .*--skip_nonfinite leaves such",
    ):
        trainer.train()
    assert_same(weights(poisoned), weights(expected))


@pytest.mark.parametrize("flags", [{}, {"loss_balancing": "uncertainty"}, {"gradient_aggregator": "Sum"}])
def test_a_step_without_numbers_is_left_out_and_counted(trainer_of, poisoned, caplog, flags):
    expected = copy.deepcopy(poisoned)
    trainer_of(of=expected, max_steps=1, **HALVES, **flags).train()
    trainer = trainer_of(of=poisoned, skip_nonfinite=True, **HALVES, **flags)
    with caplog.at_level(logging.WARNING, "mtsbert"):
        output = trainer.train()
    assert_same(weights(poisoned), weights(expected))
    assert output.metrics[SKIPPED_STEPS] == 1
    assert "Step 2: the loss of task 'topic' is not a finite number, with row 4" in caplog.text


def test_the_log_has_the_means_of_the_steps_that_were_taken(trainer_of, poisoned):
    taken = trainer_of(of=copy.deepcopy(poisoned), max_steps=1, gradient_statistics_steps=1, **HALVES)
    taken.train()
    trainer = trainer_of(of=poisoned, skip_nonfinite=True, logging_steps=2, gradient_statistics_steps=1, **HALVES)
    metrics = trainer.train().metrics
    line, expected = trainer.state.log_history[0], taken.state.log_history[0]
    assert line[SKIPPED_STEPS] == 1
    for key in ("loss", "topic_loss", "ner_loss", "topic_examples", "ner_examples", "ner_grad_norm"):
        assert line[key] == pytest.approx(expected[key], rel=1e-5), key
    assert metrics["train_loss"] == pytest.approx(expected["loss"], rel=1e-4)


def test_what_is_learned_beside_labels_is_logged_for_the_steps_that_were_taken(trainer_of, model, tokenizer, tmp_path):
    (rare,) = tokenizer(RARE_WORD, add_special_tokens=False)["input_ids"]
    model.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    flags = {"teacher": str(tmp_path / "teacher"), "embedding_distillation": 1.0, "feature_cache_dir": str(tmp_path)}

    def no_number_in_training(module, inputs, vectors):
        (ids,) = inputs
        is_poisoned = (ids == rare).unsqueeze(-1) & module.training
        return torch.where(is_poisoned, math.nan, vectors)

    taken = trainer_of(of=copy.deepcopy(model), max_steps=1, **HALVES, **flags)
    taken.train()
    model.get_input_embeddings().register_forward_hook(no_number_in_training)
    trainer = trainer_of(of=model, skip_nonfinite=True, logging_steps=2, **HALVES, **flags)
    trainer.train()
    line, expected = trainer.state.log_history[0], taken.state.log_history[0]
    assert line[SKIPPED_STEPS] == 1
    for key in ("embedding_loss", "topic_distillation_loss", "ner_distillation_loss"):
        assert line[key] == pytest.approx(expected[key], rel=1e-5), key


def test_a_line_of_steps_that_were_all_left_out_has_no_loss(trainer_of, poisoned):
    trainer = trainer_of(of=poisoned, skip_nonfinite=True, **HALVES)
    trainer.train()
    line = trainer.state.log_history[1]
    assert line[SKIPPED_STEPS] == 1
    assert not {"loss", "topic_loss", "ner_loss"} & set(line)


def test_micro_batches_are_left_out_with_the_step_they_belong_to(trainer_of, poisoned):
    before = weights(poisoned)
    flags = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "num_train_epochs": 2}
    trainer = trainer_of(of=poisoned, skip_nonfinite=True, **flags)
    assert trainer.train().metrics[SKIPPED_STEPS] == 2
    assert_same(weights(poisoned), before)


@pytest.mark.parametrize("scheme", ["dwa", "first_step"])
def test_what_balancing_learns_from_has_only_steps_that_were_taken(trainer_of, poisoned, scheme):
    trainer = trainer_of(of=poisoned, skip_nonfinite=True, loss_balancing=scheme, num_train_epochs=4, **HALVES)
    trainer.train()
    assert all(math.isfinite(weight) for weight in trainer.balancing.weights().values())
    assert "NaN" not in json.dumps(trainer.balancing.state())


@pytest.mark.parametrize("scheme", ["static", "uncertainty"])
def test_a_run_that_has_ended_in_an_error_leaves_nothing_to_the_next(trainer_of, poisoned, tokenizer, scheme):
    trainer = trainer_of(of=poisoned, loss_balancing=scheme, logging_steps=2, **HALVES)
    with pytest.raises(FloatingPointError):
        trainer.train()
    with torch.no_grad():
        poisoned.get_input_embeddings().weight.nan_to_num_(0.0)
    trainer.train()
    logged = [value for log in trainer.state.log_history for name, value in log.items() if name.endswith("_loss")]
    assert len(logged) == 3  # topic, ner, and the mean of the run
    assert all(map(math.isfinite, logged))


def test_only_the_first_ones_are_told_one_by_one(trainer_of, poisoned, caplog):
    trainer = trainer_of(of=poisoned, skip_nonfinite=True, num_train_epochs=5, **HALVES)
    with caplog.at_level(logging.WARNING, "mtsbert"):
        trainer.train()
    assert trainer.num_skipped_steps == 5
    assert caplog.text.count("The step is left out") == 3
    assert "The step is left out. More of them are only counted" in caplog.text


def test_the_count_survives_a_resume(trainer_of, poisoned, tmp_path):
    flags = {"skip_nonfinite": True, "num_train_epochs": 3, "save_strategy": "steps", "save_steps": 3, **HALVES}
    trainer_of(of=copy.deepcopy(poisoned), **flags).train()
    resumed = trainer_of(of=copy.deepcopy(poisoned), **flags)
    metrics = resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3")).metrics
    assert metrics[SKIPPED_STEPS] == 3


def test_a_gradient_that_is_no_number_is_seen_though_the_loss_is_one(trainer_of, model):
    head = model.heads["topic"]
    forward = head.forward
    head.forward = lambda states: forward(states) + (states.sum() * 0.0).sqrt()  # whose slope at 0 is infinite
    before = weights(model)
    with pytest.raises(FloatingPointError, match=r"Step 1: the gradient is not a finite number, with row 0 .* 3 more"):
        trainer_of(of=model, max_grad_norm=0.0).train()
    assert_same(weights(model), before)


def test_a_sum_that_is_no_number_is_seen_though_each_loss_is_one(trainer_of):
    trainer = trainer_of(loss_balancing="uncertainty")
    with torch.no_grad():
        trainer.balancing.log_variances["ner"].fill_(-1000.0)
    with pytest.raises(FloatingPointError, match="Step 1: the weighted sum of the losses is not a finite number"):
        trainer.train()


def test_rows_are_called_by_their_numbers_in_their_datasets(features, tokenizer):
    rows = features.remove_columns(["dataset", "row"])
    rows = rows.add_column("dataset", [0, 0, 0, 1, 1, 1, 1, 1]).add_column("row", [0, 1, 2, 0, 1, 2, 3, 4])
    rows = rows.cast_column("dataset", ClassLabel(names=["news", "more"]))
    named = name_rows([2, 4], rows, tokenizer)
    assert named == (
        "row 2 of dataset 'news' ('nimbus labs opens an office in lima'), "
        "row 1 of dataset 'more' ('the final ends without a goal')"
    )
    assert name_rows(range(8), rows, tokenizer).endswith(" and 3 more")


def test_a_run_counts_in_its_results_and_names_rows_as_the_file_does(recipe, model, tokenizer, tmp_path):
    poison(model, tokenizer, "hosts").save_pretrained(tmp_path / "poisoned")  # in the last row
    tokenizer.save_pretrained(tmp_path / "poisoned")
    flags = ["--config", str(recipe(encoder_name_or_path=None)), "--model_name_or_path", str(tmp_path / "poisoned")]
    main([*flags, "--skip_nonfinite"])
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert results[SKIPPED_STEPS] == 1
    with pytest.raises(FloatingPointError, match="row 7 of dataset 'news'"):
        main([*flags, "--max_train_samples", "5"])


@torch.no_grad()
def test_a_similarity_under_bf16_is_a_cosine_in_float32(encoder_folder):
    tasks = {"near": {"type": "pair_similarity", "score_range": [0, 1]}}
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks).eval()
    texts = torch.tensor([[2, 30, 40, 3], [2, 50, 60, 3]])
    batch = {"input_ids": texts, "pair_input_ids": texts.flip(0), "labels": {"near": torch.tensor([0.2, 0.9])}}
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**batch)
    assert output.logits["near"].dtype == output.losses["near"].dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(output.pooler_output.double(), output.pair_pooler_output.double())
    assert torch.allclose(output.logits["near"].double(), cosine, atol=1e-6)
    expected = (output.logits["near"] - batch["labels"]["near"]).square().mean()
    assert torch.equal(output.losses["near"], expected)


def test_losses_under_bf16_are_those_of_its_logits_in_float32(model, features, trainer_of):
    batch = trainer_of().data_collator([features[row] for row in range(8)])
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**batch)
    for task, logits in output.logits.items():
        labels = batch["labels"][task].flatten()
        expected = torch.nn.functional.cross_entropy(logits.float().flatten(0, -2), labels)
        assert logits.dtype == torch.bfloat16
        assert output.losses[task].dtype == torch.float32
        assert output.losses[task].item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_seed_gives_the_same_weights_twice(trainer_of, model, precision):
    flags = {"num_train_epochs": 3, "train_sampling_strategy": "group_by_length", "precision": precision, **HALVES}
    runs = [copy.deepcopy(model) for _ in range(2)]
    for one in runs:
        trainer_of(of=one, **flags).train()
    assert_same(weights(runs[0]), weights(runs[1]))
    assert not all(torch.equal(weight, model.state_dict()[name]) for name, weight in weights(runs[0]).items())


def test_examples_of_all_tasks_are_looked_at(trainer_of, poisoned, examples, tasks, tokenizer):
    """Only the task whose row it is is named."""
    examples[4]["topic"] = None
    trainer = trainer_of(of=poisoned)
    trainer.train_dataset = build_features(
        examples_of(examples, tasks), tasks, tokenizer, max_length=32, split="train"
    )[0]
    with pytest.raises(
        FloatingPointError, match=r"^Step 1: the loss of task 'ner' is not a finite number, with row 4"
    ):
        trainer.train()
