"""Tests that a smaller model has evenly spaced layers of a larger one, and everything else of it."""

import pytest
import torch
from transformers import BertConfig, DistilBertConfig, ModernBertConfig, MPNetConfig

from modeling_mtsbert import MTSBertModel
from mtsbert.distillation.layers import keep_layers, kept_layers
from mtsbert.network.parts import encoder_layers


SIZES = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.mark.parametrize(
    ("num_layers", "num_kept", "expected"),
    [(6, 3, [1, 3, 5]), (6, 4, [1, 2, 4, 5]), (12, 6, [1, 3, 5, 7, 9, 11]), (6, 1, [5]), (6, 6, [0, 1, 2, 3, 4, 5])],
)
def test_layers_are_evenly_spaced_and_the_last_one_is_kept(num_layers, num_kept, expected):
    assert kept_layers(num_layers, num_kept) == expected


@pytest.fixture
def text(tokenizer):
    return tokenizer("Ada Perez wins the race in Lima", return_tensors="pt")


@pytest.mark.parametrize(
    "config",
    [
        BertConfig(**SIZES, num_hidden_layers=4),
        DistilBertConfig(dim=32, n_layers=4, n_heads=2, hidden_dim=64),
        MPNetConfig(**SIZES, num_hidden_layers=4, pad_token_id=0),  # a position bias that all layers share
    ],
    ids=lambda config: config.model_type,
)
def test_the_smaller_model_computes_what_the_kept_layers_compute(model_on, text, config):
    model = model_on(config).eval()
    student = keep_layers(model, 2)
    assert student.config.num_hidden_layers == len(encoder_layers(student)) == 2
    layers = encoder_layers(model)
    for index in (2, 0):
        del layers[index]  # of the larger one, in place
    with torch.no_grad():
        expected, found = model(**text), student(**text)
    assert torch.equal(found.pooler_output, expected.pooler_output)
    assert torch.equal(found.logits["ner"], expected.logits["ner"])


@pytest.mark.parametrize(("num_kept", "num_copies"), [(4, 2), (2, 1), (1, 0)])
def test_copies_of_kept_layers_are_kept(model_on, text, tmp_path, num_kept, num_copies):
    plain = model_on(BertConfig(**SIZES, num_hidden_layers=4))
    model = MTSBertModel.from_encoder(str(tmp_path / "encoder"), tasks=plain.config.tasks, num_task_layers=2).eval()
    for weight in model.task_layers.parameters():
        weight.data.mul_(1.1)  # they have learned something since
    student = keep_layers(model, num_kept)
    assert student.config.num_task_layers == num_copies
    if num_copies:
        last, of_model = student.task_layers.layers[-1].state_dict(), model.task_layers.layers[-1].state_dict()
        assert all(torch.equal(last[name], of_model[name]) for name in last)
        own = encoder_layers(model)[-1].state_dict()
        assert not all(torch.equal(last[name], own[name]) for name in last)
    if num_kept == 4:
        with torch.no_grad():
            assert torch.equal(student(**text).logits["topic"], model(**text).logits["topic"])


def test_the_larger_model_stays_as_it_is_and_shares_no_weight(model):
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    student = keep_layers(model, 1)
    for weight in student.parameters():
        weight.data.zero_()
    assert model.config.num_hidden_layers == 2
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("number", [0, 3, True])
def test_impossible_numbers_of_layers_are_refused(model, number):
    with pytest.raises(ValueError, match=rf"`num_layers` is {number}; the encoder has 2 layers"):
        keep_layers(model, number)


def test_an_encoder_whose_layers_differ_is_refused(model_on):
    config = ModernBertConfig(**SIZES, num_hidden_layers=4, pad_token_id=0)  # its first layer has a norm less
    with pytest.raises(ValueError, match="The layers of the encoder ModernBertModel are not all alike"):
        keep_layers(model_on(config), 2)


def test_a_smaller_model_opens_again(model, text, tmp_path):
    student = keep_layers(model, 1)
    student.save_pretrained(tmp_path / "student")
    again = MTSBertModel.from_pretrained(tmp_path / "student").eval()
    with torch.no_grad():
        assert torch.equal(again(**text).logits["topic"], student(**text).logits["topic"])
