"""Tests the share, scale and gradient of the faster CPU dropout."""

import pytest
import torch
from torch import nn
from transformers import set_seed
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mtsbert.network.dropout import FastDropout, fast_attention_dropout, use_fast_dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_that_is_dropped_is_p_and_the_mean_stays(p):
    set_seed(0)
    output = FastDropout(p)(torch.ones(1000, 1001))
    number = output.numel()
    deviation = (p * (1 - p) / number) ** 0.5
    assert abs((output == 0).sum().item() / number - p) < 4 * deviation
    kept = output[output != 0]
    assert torch.equal(kept, kept[:1].expand_as(kept))
    assert kept[0].item() == pytest.approx(1 / (1 - p), rel=1e-4)


def test_neighbours_are_dropped_independently():
    set_seed(0)
    kept = (FastDropout(0.5)(torch.ones(1_000_000)) != 0).float()
    for distance in (1, 2, 3, 4):
        both = (kept[:-distance] * kept[distance:]).mean().item()
        assert abs(both - 0.25) < 4 * (0.25 * 0.75 / 1e6) ** 0.5


def test_the_gradient_is_that_of_what_was_kept():
    set_seed(0)
    states = torch.randn(3, 5, 7, requires_grad=True)
    output = FastDropout(0.3)(states)
    output.sum().backward()
    assert torch.equal(states.grad != 0, output != 0)
    assert torch.allclose(output, states * states.grad)


def test_a_seed_repeats_it_and_evaluation_leaves_everything():
    dropout, states = FastDropout(0.3), torch.randn(11)
    outputs = []
    for _ in range(2):
        set_seed(5)
        outputs.append(dropout(states))
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], dropout(states))
    assert torch.equal(dropout.eval()(states), states)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_all_and_nothing(p):
    assert torch.equal(FastDropout(p)(torch.ones(10)), torch.full((10,), 1.0 - p))


def test_it_keeps_the_number_format():
    assert FastDropout(0.5)(torch.ones(8, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_every_dropout_of_a_model_is_replaced_and_the_checkpoint_does_not_know(trainer_of, model, tmp_path):
    trainer_of()
    found = [type(module) for module in model.modules() if isinstance(module, nn.Dropout)]
    assert set(found) == {FastDropout}
    before = list(model.state_dict())
    use_fast_dropout(model)
    assert list(model.state_dict()) == before


def attention(query, key, value, mask=None, dropout=0.5):
    """What a BERT layer in training asks of transformers' `sdpa` while the Trainer trains."""
    layer = nn.Module()
    layer.is_causal = False
    with fast_attention_dropout():
        return ALL_ATTENTION_FUNCTIONS["sdpa"](layer, query, key, value, mask, dropout=dropout, scaling=0.5)[0]


@pytest.fixture
def states():
    set_seed(1)
    return [torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]


@pytest.fixture
def mask():
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    mask[1, :, :, 3:] = False
    return mask


def test_attention_with_dropout_is_attention_on_average(states, mask):
    query, key, value = (state.detach().repeat(400, 1, 1, 1) for state in states)
    dropped = attention(query, key, value, mask.repeat(400, 1, 1, 1))
    plain = attention(query, key, value, mask.repeat(400, 1, 1, 1), dropout=0.0)
    assert not torch.allclose(dropped, plain)
    spread = dropped.view(400, 2, 5, 3, 4).std(dim=0) / 400**0.5
    difference = dropped.view(400, 2, 5, 3, 4).mean(dim=0) - plain[:2]
    assert (difference.abs() < 5 * spread).all()


def test_attention_with_dropout_has_the_right_gradient(states, mask):
    def seeded(*states):
        set_seed(3)
        return attention(*states, mask)

    assert torch.autograd.gradcheck(seeded, states)


@pytest.mark.parametrize("is_masked", [True, False])
def test_attention_without_dropout_is_that_of_torch_and_so_is_its_gradient(states, mask, is_masked):
    given = mask if is_masked else None
    query, key, value = states
    expected = nn.functional.scaled_dot_product_attention(query, key, value, given, scale=0.5).transpose(1, 2)
    of_torch = torch.autograd.grad(expected.square().sum(), states)
    found = attention(*states, given, dropout=0.0)
    assert torch.allclose(found, expected)
    for ours, theirs in zip(torch.autograd.grad(found.square().sum(), states), of_torch, strict=True):
        assert torch.allclose(ours, theirs)


def test_torch_computes_attention_where_nothing_is_learned(states, mask, monkeypatch):
    """Its kernel is slow in the backward pass alone."""
    calls, kernel = [], nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        nn.functional, "scaled_dot_product_attention", lambda *args, **kw: calls.append(1) or kernel(*args, **kw)
    )
    attention(*states, mask, dropout=0.0)
    assert calls == []
    with torch.no_grad():
        attention(*states, mask, dropout=0.0)
    attention(*(state.detach() for state in states), mask, dropout=0.0)
    assert calls == [1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_masked_has_no_part_in_attention(states, mask, dtype):
    query, key, value = (state.detach().to(dtype) for state in states)
    outputs = []
    for masked_value in (0.0, 1e4):
        value[1, :, 3:] = masked_value
        set_seed(2)
        outputs.append(attention(query, key, value, mask))
    assert torch.equal(*outputs)
    nothing = attention(query, key, value, torch.zeros_like(mask))
    assert nothing.isfinite().all()


def test_a_mask_of_numbers_is_added(states, mask):
    numbers = torch.zeros(mask.shape, dtype=torch.float64).masked_fill_(~mask, -1e9)
    outputs = []
    for either in (mask, numbers):
        set_seed(2)
        outputs.append(attention(*states, either))
    assert torch.allclose(*outputs)


def test_causal_attention_is_left_to_transformers(states):
    layer = nn.Module()
    layer.is_causal = True
    with fast_attention_dropout():
        set_seed(2)
        ours = ALL_ATTENTION_FUNCTIONS["sdpa"](layer, *states, None, dropout=0.5)[0]
    set_seed(2)
    assert torch.equal(ours, ALL_ATTENTION_FUNCTIONS["sdpa"](layer, *states, None, dropout=0.5)[0])


def test_attention_is_as_before_when_training_has_ended(trainer_of):
    before, inside = ALL_ATTENTION_FUNCTIONS["sdpa"], []
    trainer = trainer_of(max_steps=1)
    compute_loss = trainer.compute_loss
    trainer.compute_loss = lambda *args, **kwargs: (
        inside.append(ALL_ATTENTION_FUNCTIONS["sdpa"]) or compute_loss(*args, **kwargs)
    )
    trainer.train()
    assert inside[0] is not before
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is before
