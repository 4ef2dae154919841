"""Tests that losses which compare all pairs of an optimizer step do not depend on its micro-batches and ranks."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file

from entities_mtsbert import bio_labels
from losses_mtsbert import loss_of_pairs
from modeling_mtsbert import MTSBertModel
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.data.features import build_features
from mtsbert.training.losses.nonfinite import SKIPPED_STEPS
from mtsbert.training.losses.step_losses import StepLosses
from tests.conftest import ROWS
from tests.mtsbert.rows import ACTIVATION_CHECKPOINTING, examples_of
from tests.mtsbert.training.test_ranks import train  # noqa: F401 - a fixture
from tests.mtsbert.training.test_trainer import gradients, without_dropout


PAIR_TASKS = {
    "ner": {"type": "token_classification", "labels": bio_labels(["GPE", "ORG", "PERSON"])},
    "near": {"type": "pair_similarity", "score_range": [0, 5], "loss": "cosent", "scale": 1.0},
    "rank": {"type": "pair_ranking", "scale": 1.0},  # a larger scale makes larger gradients, and so rounding errors
}
NUM_ROWS = 32


@pytest.fixture
def tasks() -> dict[str, dict]:
    return copy.deepcopy(PAIR_TASKS)


@pytest.fixture
def examples() -> list[dict]:
    """Pairs of the eight texts: some have a score, others are ranked, a few of those against a hard negative."""
    texts = [text for text, _, _ in ROWS]
    rows = []
    for row in range(NUM_ROWS):
        example = {"text": texts[row % 8], "text_pair": f"{texts[(3 * row + 1) % 8]} {texts[row // 8]}"}
        example |= {"near": float(row % 6)} if row % 3 == 0 else {"rank": 1} if row % 7 else {}
        if "rank" in example and row % 2:
            example["text_negative"] = texts[(5 * row + 2) % 8]
        example["ner"] = [{"start": s, "end": e, "label": label} for s, e, label in ROWS[row % 8][2]]
        rows.append(example)
    return rows


@pytest.fixture
def features(examples, tasks, tokenizer):
    return build_features(examples_of(examples, tasks), tasks, tokenizer, max_length=32, split="train")[0]


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """No number differs by more than a millionth of the length of them all."""
    assert set(found) == set(expected)
    length = torch.cat([tensor.flatten() for tensor in expected.values()]).norm().item()
    for name, tensor in found.items():
        assert torch.allclose(tensor, expected[name], rtol=0, atol=1e-6 * max(length, 1.0)), name


@pytest.mark.parametrize(
    "settings",
    [
        {"task_weights": {"rank": 2.0}},
        {"loss_balancing": "uncertainty", "matryoshka_dims": [32, 24]},
        {"padding_free": False, "gradual_unfreezing": True, "unfreeze_every": 1},
        {"freeze_embeddings": True, "num_frozen_layers": 1, "feature_cache": True, "feature_cache_dtype": "fp32"},
        {"embedding_distillation": 2.0},
    ],
    ids=["weights", "uncertainty", "unfreezing", "cache", "distillation"],
)
def test_accumulated_micro_batches_give_the_gradients_of_one_batch(trainer_of, model, settings, tmp_path):
    model = without_dropout(model)
    settings |= {"max_grad_norm": 0.0, "max_steps": 3, "feature_cache_dir": str(tmp_path / "cache")}
    whole = gradients(trainer_of(of=copy.deepcopy(model), per_device_train_batch_size=32, **settings))
    for size in (8, 3):
        settings |= {"per_device_train_batch_size": size, "gradient_accumulation_steps": -(-NUM_ROWS // size)}
        assert_close(gradients(trainer_of(of=copy.deepcopy(model), **settings)), whole)


def test_layers_that_freeze_during_training_are_skipped_for_pairs_as_well(trainer_of, model, tmp_path):
    model = without_dropout(model)
    settings = {"adaptive_freezing": True, "adaptive_freezing_change": 100, "max_steps": 16, "max_grad_norm": 0.0}
    settings |= {"optim": "sgd", "feature_cache_dtype": "fp32", "feature_cache_dir": str(tmp_path / "cache")}
    whole = trainer_of(of=copy.deepcopy(model), per_device_train_batch_size=32, feature_cache=False, **settings)
    settings |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4}
    cached = trainer_of(of=copy.deepcopy(model), feature_cache=True, **settings)
    for trainer in (whole, cached):
        trainer.train()
        assert trainer.freezing.settled == {"encoder.embeddings": 12, "encoder.layer.0": 12}
    assert cached.num_cached_layers == 1
    assert_close(cached.model.state_dict(), whole.model.state_dict())


def test_task_layers_get_the_gradients_of_one_batch(trainer_of, layered_model):
    model = without_dropout(layered_model)
    settings = {"max_grad_norm": 0.0, "max_steps": 1}
    whole = gradients(trainer_of(of=copy.deepcopy(model), per_device_train_batch_size=32, **settings))
    settings |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4}
    assert any(name.startswith("task_layers.") for name in whole)
    assert_close(gradients(trainer_of(of=copy.deepcopy(model), **settings)), whole)


def test_the_loss_is_that_of_all_pairs_of_the_step_by_hand(trainer_of, model, tasks):
    model = without_dropout(model)
    trainer = trainer_of(
        of=copy.deepcopy(model), per_device_train_batch_size=8, gradient_accumulation_steps=4, max_steps=1,
        gradient_statistics_steps=1,
    )  # fmt: skip
    trainer.train()
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(NUM_ROWS)])
    output = model.train()(**batch)
    line = trainer.state.log_history[0]
    for task in ("near", "rank"):
        labels = batch["labels"][task]
        loss = loss_of_pairs(tasks[task], output.pooler_output, output.pair_pooler_output, labels)
        assert line[f"{task}_loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert output.losses[task].item() == pytest.approx(loss.item(), rel=1e-5)
        assert line[f"{task}_grad_norm"] > 0
    assert line["rank_examples"] == int((batch["labels"]["rank"] == 1).sum()) == 18
    assert line["loss"] == pytest.approx(output.loss.item(), rel=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"precision": "bf16"},
        {"padding_free": False, "freeze_embeddings": True},
        {ACTIVATION_CHECKPOINTING: True},
    ],
)
@pytest.mark.parametrize("kind", ["model", "layered_model"])
def test_both_passes_have_the_same_dropout(trainer_of, request, monkeypatch, kind, settings):
    """The embeddings of the second pass are those that the gradients were computed for."""
    found: list[torch.Tensor] = []
    forward = MTSBertModel.forward

    def recorded(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        found.append(torch.cat([output.pooler_output, output.pair_pooler_output]).detach())
        return output

    monkeypatch.setattr(MTSBertModel, "forward", recorded)
    trainer = trainer_of(
        of=request.getfixturevalue(kind), per_device_train_batch_size=8, gradient_accumulation_steps=4, max_steps=1,
        **settings,
    )  # fmt: skip
    trainer.train()
    assert len(found) == 8
    for first, second in zip(found[:4], found[4:], strict=True):
        assert torch.allclose(first, second, atol=1e-6)
    trainer.model.eval()
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(8)])
    with torch.no_grad():
        assert not torch.allclose(trainer.model(**batch).pooler_output, found[0][:8], atol=1e-3)  # there is dropout


def test_a_step_of_one_batch_is_a_single_pass_and_one_without_pairs_too(trainer_of, model, features, monkeypatch):
    calls = []
    forward = MTSBertModel.forward
    monkeypatch.setattr(
        MTSBertModel, "forward", lambda self, *args, **kwargs: calls.append(1) or forward(self, *args, **kwargs)
    )
    trainer_of(of=copy.deepcopy(model), per_device_train_batch_size=16, max_steps=2).train()
    assert len(calls) == 2
    unpaired = features.map(lambda row: {"near": float("nan"), "rank": -100}, features=features.features)
    calls.clear()
    trainer_of(
        of=copy.deepcopy(model), train_dataset=unpaired, per_device_train_batch_size=8,
        gradient_accumulation_steps=2, max_steps=2,
    ).train()  # fmt: skip
    assert len(calls) == 4


def test_micro_batches_without_pairs_are_passed_over(trainer_of, model, features):
    """In a step in which only some of them have pairs, the gradient is still that of one batch."""
    half = features.map(
        lambda row, place: {"near": row["near"] if place < 16 else float("nan"), "rank": -100},
        with_indices=True,
        features=features.features,
    )
    model = without_dropout(model)
    settings = {"max_grad_norm": 0.0, "train_dataset": half}
    whole = gradients(trainer_of(of=copy.deepcopy(model), per_device_train_batch_size=32, **settings))
    settings |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4}
    assert_close(gradients(trainer_of(of=copy.deepcopy(model), **settings)), whole)


def test_aggregated_gradients_are_those_of_the_sum(trainer_of, model):
    model = without_dropout(model)
    settings = {"max_grad_norm": 0.0, "per_device_train_batch_size": 32}
    summed = gradients(trainer_of(of=copy.deepcopy(model), **settings))
    assert_close(gradients(trainer_of(of=copy.deepcopy(model), gradient_aggregator="Sum", **settings)), summed)


EVERY_STEP = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 2, "train_sampling_strategy": "random"}


def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(trainer_of, model, tmp_path):
    settings = EVERY_STEP | {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
    trainer_of(of=copy.deepcopy(model), **settings).train()
    straight = load_file(tmp_path / "run" / "checkpoint-4" / "model.safetensors")
    resumed = trainer_of(of=copy.deepcopy(model), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    for name, weight in load_file(tmp_path / "run" / "checkpoint-4" / "model.safetensors").items():
        assert torch.equal(weight, straight[name]), name
    assert resumed.state.global_step == 4


def test_the_rows_of_a_loss_that_is_no_number_are_named_or_left_out(trainer_of, model, tokenizer):
    (piece,) = tokenizer("goal", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        model.get_input_embeddings().weight[piece] = torch.nan
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 8}
    with pytest.raises(FloatingPointError, match=r"the loss of task 'rank' is not a finite number, with row \d+ of"):
        trainer_of(of=copy.deepcopy(model), **settings).train()
    trainer = trainer_of(of=model, skip_nonfinite=True, **settings)
    assert trainer.train().metrics[SKIPPED_STEPS] == 1
    for name, weight in model.state_dict().items():
        assert torch.equal(weight.nan_to_num(), before[name].nan_to_num()), name


def test_compiled_models_are_refused_where_a_step_has_several_batches(model, tmp_path):
    settings = {"output_dir": str(tmp_path), "torch_compile": True, "use_cpu": True}
    StepLosses(model, MTLTrainingArguments(**settings))
    with pytest.raises(ValueError, match=r"\['near', 'rank'\] compare all pairs .*`torch_compile` draws it anew"):
        StepLosses(model, MTLTrainingArguments(**settings, gradient_accumulation_steps=2))


def test_an_evaluation_does_not_depend_on_the_batch_size(trainer_of, model, features):
    found = [
        trainer_of(of=model, eval_dataset=features, per_device_eval_batch_size=size).evaluate() for size in (32, 5)
    ]
    for key in ("near_loss", "near_spearman", "rank_loss", "rank_mrr", "rank_recall_at_10", "loss", "composite"):
        assert found[0][f"eval_{key}"] == pytest.approx(found[1][f"eval_{key}"], abs=1e-5), key


def test_predictions_of_a_ranking_are_cosines(trainer_of, model, features):
    trainer = trainer_of(of=model, eval_dataset=features)
    predicted = trainer.predict(features)
    assert predicted.predictions["rank"].shape == (NUM_ROWS,)
    batch = trainer.data_collator([features[row] for row in range(4)])
    with torch.no_grad():
        output = model.eval()(**batch)
    expected = (output.pooler_output * output.pair_pooler_output[:4]).sum(dim=1)
    assert torch.allclose(torch.from_numpy(predicted.predictions["rank"][:4]), expected, atol=1e-5)
    assert set(predicted.predictions) == {"ner", "near", "rank"}
    assert set(predicted.label_ids["rank"].tolist()) == {1, -100}


@pytest.mark.slow
def test_one_process_accumulation_and_two_processes_give_the_same_gradients(train):  # noqa: F811
    settings = {"max_steps": 1, "loss_balancing": "uncertainty", "matryoshka_dims": [32, 24]}
    whole = train(1, 32, 1, **settings)["gradients"]
    for split in ((1, 8, 4), (2, 16, 1), (2, 4, 4)):
        assert_close(train(*split, **settings)["gradients"], whole)


@pytest.mark.slow
def test_rows_that_do_not_come_out_even_are_learned_as_in_one_process(train):  # noqa: F811
    """The last step has rows that only fill up a batch, which are no candidates."""
    settings = {"num_train_epochs": 1, "learning_rate": 0.1, "optim": "sgd"}
    one = train(1, 12, 1, **settings)  # 32 rows: the last step has 8
    two = train(2, 6, 1, **settings)
    for name, weight in one["weights"].items():
        assert torch.allclose(weight, two["weights"][name], atol=1e-6), name
    for key, value in one["metrics"].items():
        if key.startswith(("eval_near", "eval_rank", "eval_loss")):
            assert two["metrics"][key] == pytest.approx(value, rel=1e-4), key
    json.dumps(two["metrics"])
