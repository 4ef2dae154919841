"""Tests adapters: what is trained, that checkpoints hold merged weights, and that runs resume exactly."""

import copy
import json

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, GPT2Config, pipeline

from configuration_mtsbert import MTSBertConfig
from modeling_mtsbert import MTSBertModel
from mtsbert.adapters.at_once import AtOnce
from mtsbert.adapters.lora import add_adapters
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.network.adapters import merge_adapters
from mtsbert.training.checkpoints import flaw_of
from tests.mtsbert.conftest import ENCODERS
from tests.mtsbert.network.test_freezing import states_and_rates


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # peft's
LORA = {"lora_r": 4, "learning_rate": 1e-2}
TEXTS = ["Oslo wins the race", "Ada Perez joins Nimbus Labs"]
EVERY_STEP = {"per_device_train_batch_size": 4, "num_train_epochs": 4, "save_strategy": "steps", "save_steps": 1}


def adapters_of(model: MTSBertModel) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in model.named_parameters() if ".lora_" in name}


def same(one, other, tolerance: float = 0.0) -> bool:
    one, other = one.state_dict(), other if isinstance(other, dict) else other.state_dict()
    return one.keys() == other.keys() and all(
        torch.allclose(weight, other[name], atol=tolerance, rtol=0) for name, weight in one.items()
    )


def test_before_training_nothing_has_changed(trainer_of, model):
    before = copy.deepcopy(model)
    trainer = trainer_of(**LORA)
    assert len(adapters_of(trainer.model)) == 8  # two layers, queries and values, two factors each
    assert same(trainer.model, before)
    inputs = trainer.processing_class(TEXTS, return_tensors="pt", padding=True)
    assert torch.equal(trainer.model.eval()(**inputs).pooler_output, before.eval()(**inputs).pooler_output)


def test_adapters_and_heads_are_trained_and_nothing_else(trainer_of, model):
    trainer = trainer_of(num_train_epochs=3, weight_decay=0.1, **LORA)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trainer.train()
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == set(adapters_of(model)) | {name for name in before if name.startswith("heads.")}
    trained = sum(weight.numel() for name, weight in model.named_parameters() if name in moved)
    assert trainer.freezing.num_trained_parameters == trained


def test_the_table_of_what_is_trained_counts_adapters_alone(trainer_of, model):
    total = sum(weight.numel() for weight in model.encoder.encoder.layer[0].parameters())
    some = f"512 of {total + 512:,} trained"  # queries and values: two factors of 4 x 32 each
    found = list(states_and_rates(trainer_of(**LORA)).values())
    assert found == [("frozen", ""), *[(some, "0.01")] * 2, *[("trained", "0.01")] * 2]


def test_the_copies_that_tasks_have_of_layers_get_adapters_too(trainer_of, layered_model):
    trainer = trainer_of(of=layered_model, num_train_epochs=2, embedding_distillation=1.0, **LORA)
    trainer.train()
    learned = [name for name, weight in adapters_of(layered_model).items() if "lora_B" in name and weight.any()]
    assert {name.split(".")[0] for name in learned} == {"encoder", "task_layers"}


def test_a_checkpoint_has_the_merged_weights_and_opens_everywhere(trainer_of, model, tokenizer, tmp_path, root):
    trainer = trainer_of(num_train_epochs=3, **LORA)
    trainer.train()
    trainer.save_model(str(tmp_path / "by_trainer"))
    model.save_pretrained(tmp_path / "by_model")
    tokenizer.save_pretrained(tmp_path / "by_model")
    inputs = tokenizer(TEXTS, return_tensors="pt", padding=True)
    expected = model.eval()(**inputs)
    for name in ("by_trainer", "by_model"):
        folder = tmp_path / name
        assert not [key for key in load_file(folder / "model.safetensors") if "lora" in key or "base_layer" in key]
        assert not (folder / "adapters.safetensors").exists()
        plain, info = MTSBertModel.from_pretrained(folder, output_loading_info=True)
        assert not any(info.values()), info
        assert same(plain, model)
        found = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()(**inputs)
        assert torch.allclose(found.pooler_output, expected.pooler_output, atol=1e-5)
        for task in model.config.tasks:
            assert torch.allclose(found.logits[task], expected.logits[task], atol=1e-5)
        answers = pipeline("multi-task", model=str(folder), trust_remote_code=True)(TEXTS)
        ours = model.as_pipeline(tokenizer)(TEXTS)
        assert [one["topic"]["label"] for one in answers] == [one["topic"]["label"] for one in ours]


@pytest.mark.parametrize("checkpoint", [1, 3, 6])
def test_a_resumed_run_equals_the_uninterrupted_one(trainer_of, model, tmp_path, checkpoint):
    straight = trainer_of(of=copy.deepcopy(model), **EVERY_STEP, **LORA)
    straight.train()
    resumed = trainer_of(of=copy.deepcopy(model), **EVERY_STEP, **LORA)
    folder = tmp_path / "run" / f"checkpoint-{checkpoint}"
    assert same(MTSBertModel.from_pretrained(folder), load_file(folder / "model.safetensors"))
    resumed.train(resume_from_checkpoint=str(folder))
    for name, weight in straight.model.named_parameters():
        assert torch.equal(weight, resumed.model.get_parameter(name)), name


def test_the_best_checkpoint_is_the_model_at_the_end(trainer_of, model, features, tmp_path):
    trainer = trainer_of(
        eval_dataset=features, eval_strategy="steps", eval_steps=1, load_best_model_at_end=True,
        metric_for_best_model="eval_loss", **EVERY_STEP, **LORA | {"learning_rate": 0.3},
    )  # fmt: skip
    trainer.train()
    losses = {log["step"]: log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log}
    best = min(losses, key=losses.get)
    assert best != 8  # with such steps the last one is not the best
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[best], abs=1e-5)
    assert same(trainer.model, load_file(tmp_path / "run" / f"checkpoint-{best}" / "model.safetensors"), 1e-6)


def test_an_encoder_that_peft_does_not_know_gets_them_in_every_linear_layer(tasks):
    model = MTSBertModel(MTSBertConfig(encoder_config=copy.deepcopy(ENCODERS["modernbert"]), tasks=tasks)).eval()
    ids = torch.tensor([[2, 8, 3]])
    before = model(ids).pooler_output
    add_adapters(model, MTLTrainingArguments("unused", lora_r=4))
    assert torch.equal(model(ids).pooler_output, before)
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in adapters_of(model)} == {"Wi", "Wo", "Wqkv"}


def test_one_word_stands_for_all_linear_layers(model):
    named, by_word = copy.deepcopy(model), copy.deepcopy(model)
    names = ["query", "key", "value", "dense"]
    add_adapters(named, MTLTrainingArguments("unused", lora_r=4, lora_target=names))
    add_adapters(by_word, MTLTrainingArguments("unused", lora_r=4, lora_target=["all-linear"]))
    assert adapters_of(by_word).keys() == adapters_of(named).keys()
    assert len(adapters_of(by_word)) == 2 * 2 * 6  # two factors in both layers: attention has four, and two are above


def gradients(model: MTSBertModel, inputs: dict, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """Of the sum of all answers; with a dtype, under autocast."""
    model.zero_grad()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        output = model(**inputs)
        total = sum(value.double().sum() for value in [output.pooler_output, *output.logits.values()])
    total.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.fixture
def at_once_and_by_peft(model) -> tuple[MTSBertModel, MTSBertModel]:
    """The same model with the same adapters, which have learned something, computed by us and by peft."""
    add_adapters(model, MTLTrainingArguments("unused", lora_r=4, lora_target=["all-linear"]))
    for name, weight in adapters_of(model).items():
        nn.init.normal_(weight, generator=torch.Generator().manual_seed(len(name)))
    model.double().eval()  # without dropout
    by_peft = copy.deepcopy(model)
    layers = [module for module in by_peft.modules() if isinstance(module, AtOnce)]
    assert len(layers) == 2 * 6
    for layer in layers:
        layer.__class__ = Linear
    return model, by_peft


def test_adapters_computed_at_once_have_the_answers_and_gradients_of_peft(at_once_and_by_peft, tokenizer):
    ours, theirs = at_once_and_by_peft
    inputs = dict(tokenizer(TEXTS, return_tensors="pt", padding=True))
    assert torch.allclose(ours(**inputs).pooler_output, theirs(**inputs).pooler_output, atol=1e-12, rtol=0)
    found, expected = gradients(ours, inputs), gradients(theirs, inputs)
    assert found.keys() == expected.keys() >= adapters_of(ours).keys()
    for name, gradient in found.items():
        assert (gradient - expected[name]).norm() <= 1e-6 * gradient.norm(), name


def test_adapters_computed_at_once_are_trained_in_16_bits(at_once_and_by_peft, tokenizer):
    ours, theirs = (model.float() for model in at_once_and_by_peft)
    inputs = dict(tokenizer(TEXTS, return_tensors="pt", padding=True))
    exact = gradients(theirs, inputs)
    found, expected = (gradients(model, inputs, torch.bfloat16) for model in (ours, theirs))
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    ours, theirs = (
        sum((one[name] - gradient).norm() for name, gradient in exact.items()) for one in (found, expected)
    )
    assert 0.0 < ours <= 1.1 * theirs


@pytest.mark.parametrize("change", ["a weight beside it is trained", "dropout", "two adapters", "other precision"])
def test_what_only_peft_computes_is_left_to_it(model, tokenizer, change):
    arguments = MTLTrainingArguments("unused", lora_r=4, lora_dropout=0.5 if change == "dropout" else 0.0)
    add_adapters(model, arguments)
    layer = model.encoder.encoder.layer[0].attention.self.query
    assert type(layer) is (Linear if change == "dropout" else AtOnce)
    if change == "a weight beside it is trained":
        layer.base_layer.weight.requires_grad_(True)
    if change == "two adapters":
        inject_adapter_in_model(LoraConfig(r=2, target_modules=["query"]), model.encoder, "other")
        layer.set_adapter(["default", "other"])
    if change == "other precision":
        layer.base_layer.to(torch.bfloat16)
    trained = {name for name, weight in layer.named_parameters() if weight.requires_grad}
    states = torch.ones(3, 5, 32, dtype=layer.base_layer.weight.dtype)
    layer.train()(states).float().sum().backward()
    assert {name for name, weight in layer.named_parameters() if weight.grad is not None} == trained


def test_adapters_alone_are_no_checkpoint(trainer_of, model, tmp_path):
    trainer_of(of=copy.deepcopy(model), **EVERY_STEP, **LORA).train()
    folder = tmp_path / "run" / "checkpoint-8"
    assert flaw_of(folder) is None
    (folder / "model.safetensors").unlink()
    assert (folder / "adapters.safetensors").is_file()
    assert flaw_of(folder).startswith("it has no weights")


@pytest.mark.parametrize("change", [{"lora_r": 2}, {"lora_target": ["query"]}, {"lora_r": None}])
def test_a_run_with_other_adapters_is_not_resumed(trainer_of, model, tmp_path, change):
    trainer_of(of=copy.deepcopy(model), **EVERY_STEP, **LORA).train()
    other = trainer_of(of=copy.deepcopy(model), **EVERY_STEP, **LORA | change)
    with pytest.raises(ValueError, match="The checkpoint has adapters of"):
        other.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))


def test_a_second_trainer_goes_on_with_the_same_adapters(trainer_of, model):
    trainer_of(num_train_epochs=1, **LORA).train()
    before = copy.deepcopy(adapters_of(model))
    trainer = trainer_of(num_train_epochs=1, **LORA)
    assert all(torch.equal(weight, before[name]) for name, weight in adapters_of(model).items())
    trainer.train()
    assert not all(torch.equal(weight, before[name]) for name, weight in adapters_of(model).items())


@pytest.mark.parametrize("other", [{}, {"lora_r": 8}, {"lora_r": 4, "lora_alpha": 64}])
def test_a_trainer_that_asks_for_other_adapters_than_the_model_has_is_refused(trainer_of, model, other):
    trainer_of(**LORA)
    with pytest.raises(ValueError, match=r"The model has adapters of .*, and this Trainer asks for"):
        trainer_of(**other)


def test_what_the_user_froze_stays_frozen(trainer_of, model):
    model.heads["topic"].requires_grad_(False)
    before = copy.deepcopy(model.heads["topic"].state_dict())
    trainer_of(num_train_epochs=2, **LORA).train()
    assert all(torch.equal(weight, before[name]) for name, weight in model.heads["topic"].state_dict().items())


def test_what_is_frozen_by_hand_beside_adapters_stays_frozen_until_it_is_undone(trainer_of, model):
    trainer = trainer_of(num_train_epochs=2, **LORA)
    base = {name: weight.detach().clone() for name, weight in model.named_parameters() if "lora_" not in name}
    model.heads["topic"].requires_grad_(False)
    trainer.train()
    heads = {name for name in base if name.startswith("heads.")}
    of_topic = {name for name in heads if name.startswith("heads.topic.")}
    moved = {name for name, weight in base.items() if not torch.equal(model.get_parameter(name), weight)}
    assert moved == heads - of_topic
    model.requires_grad_(True)  # which is not what adapters hold
    trainer.train()
    moved = {name for name, weight in base.items() if not torch.equal(model.get_parameter(name), weight)}
    assert moved == heads


@pytest.mark.parametrize("flags", [{"freeze_heads": ["topic"]}, {"freeze_encoder": True}], ids=str)
def test_what_flags_of_an_earlier_trainer_froze_is_trained_beside_adapters(trainer_of, model, flags):
    trainer_of(**flags).train()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trainer_of(num_train_epochs=2, **LORA).train()
    now = {name.replace(".base_layer", ""): weight for name, weight in model.named_parameters()}
    moved = {name for name, weight in before.items() if not torch.equal(now[name], weight)}
    assert moved == {name for name in before if name.startswith("heads.")}
    assert any(weight.any() for name, weight in adapters_of(model).items() if "lora_B" in name)


def test_merged_adapters_leave_a_model_that_is_trained_like_any_other(trainer_of, model, tokenizer, tmp_path):
    trainer_of(num_train_epochs=2, **LORA).train()
    merged = merge_adapters(copy.deepcopy(model))
    assert same(merged, model)
    again = copy.deepcopy(merged)
    trainer_of(of=merged).train()
    now = merged.state_dict()
    assert not [name for name, weight in again.state_dict().items() if torch.equal(weight, now[name])]
    trainer = trainer_of(of=again, num_train_epochs=2, **LORA)
    before = {name: weight.detach().clone() for name, weight in again.named_parameters()}
    assert len(adapters_of(again)) == 8
    trainer.train()
    moved = {name for name, weight in again.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == set(adapters_of(again)) | {name for name in before if name.startswith("heads.")}
    again.save_pretrained(tmp_path / "twice")
    opened = MTSBertModel.from_pretrained(tmp_path / "twice").eval()
    inputs = tokenizer(TEXTS, return_tensors="pt", padding=True)
    assert torch.allclose(opened(**inputs).pooler_output, again.eval()(**inputs).pooler_output, atol=1e-5)


def test_a_trainer_whose_adapters_were_merged_puts_in_new_ones(trainer_of, model):
    trainer = trainer_of(num_train_epochs=2, **LORA)
    trainer.train()
    merge_adapters(model)
    trainer.train()
    adapters = adapters_of(model)
    assert len(adapters) == 8
    assert all(weight.any() for name, weight in adapters.items() if "lora_B" in name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lora_r": 0}, "`lora_r` is 0"),
        ({"lora_r": 4, "lora_dropout": 1.0}, r"`lora_dropout` 1\.0"),
        ({"lora_r": 4, "freeze_encoder": True}, "`freeze_encoder` keeps frozen; drop one"),
        ({"lora_target": ["query"]}, "`lora_merge` need `lora_r`, the rank of the adapters"),
        ({"lora_alpha": 64}, "`lora_merge` need `lora_r`, the rank of the adapters"),
        ({"lora_r": 4, "lora_target": ["query", "vlaue"]}, r"`lora_target` names \['vlaue'\]"),
        ({"lora_r": 4, "lora_target": ["qeury"]}, r"`lora_target` names \['qeury'\]; .* are \['dense', 'key',"),
        ({"lora_r": 4, "lora_target": ["query", "all-linear"]}, r"names \['all-linear'\]; .*'all-linear' alone"),
        ({"lora_r": 4, "gradient_aggregator": "UPGrad"}, "`lora_r` cannot be used with `gradient_aggregator`"),
        ({"lora_r": 4, "fsdp": "full_shard"}, "`lora_r` cannot be used with FSDP"),
    ],
)  # fmt: skip
def test_adapters_that_cannot_be_are_refused(trainer_of, arguments, message):
    with pytest.raises(ValueError, match=message):
        trainer_of(**arguments)


def test_an_encoder_without_linear_layers_gets_no_adapters(trainer_of, model_on):
    model = model_on(GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=64))  # whose layers are convolutions
    with pytest.raises(ValueError, match=r"adapters are for linear layers .*, and GPT2Model has none"):
        trainer_of(of=model, lora_r=4)


def test_a_recipe_trains_adapters(recipe, tmp_path):
    from mtsbert.commands.train import main

    metrics = main(["--config", str(recipe(lora_r=2, do_eval=True))])
    assert 0 < metrics["num_trained_parameters"] < 5000
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert "lora" not in json.dumps(config)
    assert "lora_r: 2" in (tmp_path / "run" / "README.md").read_text()
