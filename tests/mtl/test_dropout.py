"""The processor's dropout: the right share, the right scale, the right gradient."""

import pytest
import torch
from torch import nn
from transformers import set_seed

from mtl.dropout import FastDropout, use_fast_dropout


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
