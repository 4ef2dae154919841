"""Tests that training without padding gives the same weights, with layers that never see padding."""

import copy
import logging
from contextlib import ExitStack

import pytest
import torch
from transformers import AlbertConfig

from mtsbert.network import padding_free
from mtsbert.network.padding_free import PaddingFree, _PutBack, _TakeOut
from tests.mtsbert.conftest import ENCODERS
from tests.mtsbert.rows import ACTIVATION_CHECKPOINTING


@pytest.fixture(autouse=True)
def little_padding_counts(monkeypatch):
    monkeypatch.setattr(padding_free, "WORTHWHILE", 0.99)


@pytest.fixture
def model_named(model, model_on):
    """A model on the encoder of that name, without dropout."""

    def build(name: str):
        built = copy.deepcopy(model) if name == "bert" else model_on(copy.deepcopy(ENCODERS[name]))
        for module in built.modules():
            for rate in ("p", "dropout_prob", "attention_dropout"):
                if isinstance(getattr(module, rate, None), float):
                    setattr(module, rate, 0.0)
        return built

    return build


@pytest.fixture
def train(trainer_of):
    """Trains for two epochs with batches of four texts of unlike length, and returns the Trainer."""

    def run(model, **arguments):
        settings = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "optim": "sgd", **arguments}
        trainer = trainer_of(of=model, **settings)
        trainer.train()
        return trainer

    return run


def test_padding_is_left_out_of_a_model_that_is_not_on_its_device_yet(trainer_of, model, monkeypatch):
    """FSDP places it when everything is prepared. Nothing can be computed on this device."""
    trainer = trainer_of(of=model)
    monkeypatch.setattr(type(trainer.args), "device", torch.device("meta"))
    with ExitStack() as trainer._while_training:
        trainer._leave_out_padding()
        assert "forward" in vars(model.encoder)
    assert "forward" not in vars(model.encoder)


def record_widths(model) -> list[int]:
    """How many places the layers compute at, each time that the first layer runs on a batch that is trained on."""
    widths = []
    linear = next(
        module
        for name, module in model.encoder.named_modules()
        if isinstance(module, torch.nn.Linear) and ".0." in name
    )
    linear.register_forward_hook(
        lambda module, inputs, output: widths.append(inputs[0][..., 0].numel()) if module.training else None
    )
    return widths


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {ACTIVATION_CHECKPOINTING: True},
        {"gradient_accumulation_steps": 2},
        {"freeze_embeddings": True, "num_frozen_layers": 1},
        {"gradual_unfreezing": True, "unfreeze_every": 1},
    ],
)
def test_the_weights_are_those_of_training_with_padding(model_named, train, flags):
    padded = train(model_named("bert"), padding_free=False, **flags).model.state_dict()
    before, found = model_named("bert").state_dict(), train(model_named("bert"), **flags).model.state_dict()
    assert any(not torch.equal(weight, before[name]) for name, weight in found.items())
    for name, weight in padded.items():
        assert torch.allclose(found[name], weight, atol=1e-5), name


@pytest.mark.parametrize("name", ["bert", "distilbert", "roberta", "electra"])
def test_the_layers_see_word_pieces_and_no_padding(model_named, train, features, name):
    model = model_named(name)
    widths = record_widths(model)
    trainer = train(model)
    lengths = [len(row) for row in features["input_ids"]]
    assert widths == [sum(lengths[:4]), sum(lengths[4:])] * 2
    padded = train(model_named(name), padding_free=False).model.state_dict()
    for key, weight in trainer.model.state_dict().items():
        assert torch.allclose(padded[key], weight, atol=1e-5), key


def test_a_batch_with_hardly_any_padding_keeps_it(model_named, train, features, monkeypatch):
    monkeypatch.setattr(padding_free, "WORTHWHILE", 0.95)
    model = model_named("bert")
    widths = record_widths(model)
    train(model)
    lengths = [len(row) for row in features["input_ids"]]
    assert 0.95 < sum(lengths[:4]) / (4 * max(lengths[:4])) < 0.99
    assert widths == [4 * max(lengths[:4]), sum(lengths[4:])] * 2


@pytest.mark.parametrize("name", ["mpnet", "modernbert"])
def test_an_encoder_that_needs_its_padding_keeps_it(model_named, train, features, name, caplog):
    model = model_named(name)
    widths = record_widths(model)
    with caplog.at_level(logging.INFO, "mtsbert"):
        train(model)
    assert "Training with padding: " in caplog.text
    lengths = [len(row) for row in features["input_ids"]]
    assert widths == [4 * max(lengths[:4]), 4 * max(lengths[4:])] * 2


@pytest.mark.parametrize("name", ["mpnet", "modernbert"])
def test_the_trial_has_padding_even_where_its_texts_are_equally_long(model_named, name):
    ids = torch.full((1, 6), 7)
    with pytest.raises(ValueError, match="without padding"):
        PaddingFree(model_named(name).eval()).check(ids, torch.ones_like(ids))


def test_eager_attention_keeps_its_padding(model_named):
    model = model_named("bert").eval()
    model.encoder.set_attn_implementation("eager")
    ids = torch.full((1, 6), 7)
    with pytest.raises(ValueError, match="without padding"):
        PaddingFree(model).check(ids, torch.ones_like(ids))


@pytest.mark.parametrize("when", ["inside", "afterwards"])
def test_a_copy_of_the_model_computes_with_padding(model_named, when):
    model = model_named("bert").eval()
    inputs = {"input_ids": torch.full((2, 9), 7), "attention_mask": torch.ones(2, 9, dtype=torch.long)}
    inputs["attention_mask"][1, 4:] = 0
    is_text = inputs["attention_mask"].bool()
    expected = model.encoder(**inputs).last_hidden_state
    with PaddingFree(model).active():
        model.encoder(**inputs)
        copied = copy.deepcopy(model)
        found = copied.encoder(**inputs).last_hidden_state
    if when == "afterwards":
        found = copied.encoder(**inputs).last_hidden_state
    assert torch.allclose(found[is_text], expected[is_text], atol=1e-6)


def test_whoever_looks_between_the_layers_sees_padding(model_named):
    model = model_named("bert").eval()
    inputs = {"input_ids": torch.full((2, 9), 7), "attention_mask": torch.ones(2, 9, dtype=torch.long)}
    inputs["attention_mask"][1, 4:] = 0
    with PaddingFree(model).active():
        states = model.encoder(**inputs, output_hidden_states=True).hidden_states
    assert {tuple(state.shape) for state in states} == {(2, 9, 32)}


def test_a_second_start_of_training_finds_the_encoder_as_it_was(model_named, trainer_of, caplog):
    """What `auto_find_batch_size` does: another data loader within one call of `train`."""
    model = model_named("bert")
    trainer = trainer_of(of=model, max_steps=1, per_device_train_batch_size=4)
    inner, seen = trainer._inner_training_loop, []

    def twice(*args, **kwargs):
        trainer.get_train_dataloader()
        output = inner(*args, **kwargs)
        seen.append(len(model.encoder.encoder.layer[0]._forward_pre_hooks))
        return output

    trainer._inner_training_loop = twice
    with caplog.at_level(logging.INFO, "mtsbert"):
        trainer.train()
    assert "Training with padding" not in caplog.text
    assert seen == [1]
    assert not model.encoder.encoder.layer[0]._forward_pre_hooks


def test_layers_that_share_their_weights_keep_their_padding(model_on, train, caplog):
    model = model_on(AlbertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64))
    with caplog.at_level(logging.INFO, "mtsbert"):
        train(model)
    assert "Training with padding: " in caplog.text


def test_cached_states_of_the_lower_half_go_on_without_padding(model_named, train, features, tmp_path):
    flags = {"freeze_embeddings": True, "num_frozen_layers": 1, "feature_cache_dtype": "fp32"}
    flags |= {"feature_cache": True, "feature_cache_dir": str(tmp_path)}
    model, widths = model_named("bert"), []
    model.encoder.encoder.layer[1].attention.self.query.register_forward_hook(
        lambda module, inputs, output: widths.append(inputs[0].shape[:2]) if module.training else None
    )
    found = train(model, **flags).model.state_dict()
    lengths = [len(row) for row in features["input_ids"]]
    assert widths == [(1, sum(lengths[:4])), (1, sum(lengths[4:]))] * 2
    padded = train(model_named("bert"), **flags | {"padding_free": False, "feature_cache": False}).model.state_dict()
    for name, weight in padded.items():
        assert torch.allclose(found[name], weight, atol=1e-5), name


def test_evaluation_within_training_says_the_same(model_named, train, features):
    settings = {"eval_strategy": "epoch", "eval_dataset": features}
    found, padded = (
        train(model_named("bert"), padding_free=padding_free, **settings).state.log_history
        for padding_free in (True, False)
    )
    metrics = [
        (one["eval_loss"], other["eval_loss"]) for one, other in zip(found, padded, strict=True) if "eval_loss" in one
    ]
    assert len(metrics) == 2
    assert all(one == pytest.approx(other, rel=1e-5) for one, other in metrics)


def test_the_model_is_as_it_was_when_training_has_ended(model_named, train):
    model = train(model_named("bert")).model
    assert "forward" not in vars(model.encoder)
    assert not model.encoder.encoder.layer[0]._forward_pre_hooks
    assert not model.encoder.encoder.layer[-1]._forward_hooks


def test_taking_rows_out_and_putting_them_back_have_the_right_gradients():
    rows = torch.tensor([0, 2, 3])
    matrix = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.equal(_TakeOut.apply(matrix, rows), matrix[rows])
    assert torch.autograd.gradcheck(lambda matrix: _TakeOut.apply(matrix, rows), matrix)
    taken = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.equal(_PutBack.apply(taken, rows, 5)[rows], taken)
    assert _PutBack.apply(taken, rows, 5).sum().item() == pytest.approx(taken.sum().item())
    assert torch.autograd.gradcheck(lambda taken: _PutBack.apply(taken, rows, 5), taken)
