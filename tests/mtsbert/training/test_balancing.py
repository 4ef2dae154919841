"""Tests each balancing scheme against values computed by hand."""

import json
import math

import pytest
import torch

from mtsbert.training.losses.balancing import BALANCING


TASKS = {
    "topic": {"type": "sequence_classification"},
    "sts": {"type": "pair_similarity", "score_range": [0, 5]},
}
WEIGHTS = {"topic": 2.0, "sts": 1.0}
ALL = {"topic": torch.tensor(1.0), "sts": torch.tensor(1.0)}


def balancing(name: str):
    return BALANCING[name](TASKS, WEIGHTS)


def losses(topic: float, sts: float) -> dict[str, torch.Tensor]:
    return {"topic": torch.tensor(topic), "sts": torch.tensor(sts)}


def test_static_weights():
    assert balancing("static").combine(losses(0.5, 3.0), ALL).item() == 2.0 * 0.5 + 3.0
    assert balancing("static").weights() == WEIGHTS


def test_uncertainty_loss_and_gradients_by_hand():
    scheme = balancing("uncertainty")
    s_topic, s_sts = 0.4, -0.6
    scheme.load_state({"log_variances": {"topic": s_topic, "sts": s_sts}})
    total = scheme.combine(losses(0.5, 3.0), ALL)
    expected = 2 * (math.exp(-s_topic) * 0.5 + s_topic / 2) + (math.exp(-s_sts) / 2 * 3.0 + s_sts / 2)
    assert total.item() == pytest.approx(expected)
    total.backward()
    assert scheme.log_variances["topic"].grad.item() == pytest.approx(2 * (-math.exp(-s_topic) * 0.5 + 0.5))
    assert scheme.log_variances["sts"].grad.item() == pytest.approx(-math.exp(-s_sts) / 2 * 3.0 + 0.5)
    assert scheme.weights() == pytest.approx({"topic": 2 * math.exp(-s_topic), "sts": math.exp(-s_sts) / 2})


def test_only_a_squared_error_has_half_the_precision():
    tasks = {
        "mse": {"type": "pair_similarity", "score_range": [0, 5]},
        "cosent": {"type": "pair_similarity", "score_range": [0, 5], "loss": "cosent"},
        "fits": {"type": "pair_ranking"},
    }
    scheme = BALANCING["uncertainty"](tasks, dict.fromkeys(tasks, 1.0))
    assert {task: scheme.factor(task).item() for task in tasks} == {"mse": 0.5, "cosent": 1.0, "fits": 1.0}


def test_an_absent_task_does_not_move_its_uncertainty():
    scheme = balancing("uncertainty")
    scheme.combine(losses(0.8, 0.0), {"topic": torch.tensor(1.0), "sts": torch.tensor(0.0)}).backward()
    assert scheme.log_variances["sts"].grad.item() == 0.0
    assert scheme.log_variances["topic"].grad.item() != 0.0


def test_the_parts_of_a_step_add_up():
    whole, parts = balancing("uncertainty"), balancing("uncertainty")
    whole.combine(losses(0.8, 2.0), ALL).backward()
    for share in (0.25, 0.75):
        parts.combine(losses(0.8 * share, 2.0 * share), dict.fromkeys(TASKS, torch.tensor(share))).backward()
    for task in TASKS:
        assert parts.log_variances[task].grad.item() == pytest.approx(whole.log_variances[task].grad.item())


def test_dynamic_weight_average_by_hand():
    scheme = balancing("dwa")
    for topic, sts in ((1.0, 4.0), (3.0, 2.0)):  # means 2 and 3
        scheme.end_step({"topic": topic, "sts": sts})
    scheme.begin_epoch(1)
    assert scheme.weights() == WEIGHTS
    scheme.end_step({"topic": 1.0, "sts": 2.7})
    scheme.begin_epoch(1)
    assert scheme.weights() == WEIGHTS
    scheme.begin_epoch(2)
    powers = {"topic": math.exp(0.5 / 2), "sts": math.exp(0.9 / 2)}
    factors = {task: 2 * power / sum(powers.values()) for task, power in powers.items()}
    assert scheme.weights() == pytest.approx({"topic": 2 * factors["topic"], "sts": factors["sts"]})
    assert scheme.combine(losses(0.5, 3.0), ALL).item() == pytest.approx(
        2 * factors["topic"] * 0.5 + factors["sts"] * 3
    )


def test_dynamic_weight_average_takes_a_task_that_paused_as_unchanged():
    scheme = balancing("dwa")
    for epoch in range(3):
        scheme.end_step({"topic": 1.0} if epoch == 1 else {"topic": 1.0, "sts": 2.0})
        scheme.begin_epoch(epoch + 1)
    assert scheme.weights() == pytest.approx(WEIGHTS)


def test_dynamic_weight_average_survives_a_loss_that_jumps():
    scheme = balancing("dwa")
    for epoch, topic in enumerate((1e-9, 5.0)):
        scheme.end_step({"topic": topic, "sts": 1.0})
        scheme.begin_epoch(epoch + 1)
    assert scheme.weights() == pytest.approx({"topic": 4.0, "sts": 0.0})


def test_losses_are_divided_by_those_of_the_first_step():
    scheme = balancing("first_step")
    assert scheme.combine(losses(0.5, 3.0), ALL).item() == 2 * 0.5 + 3.0
    scheme.end_step({"topic": 0.5})
    scheme.end_step({"topic": 0.1, "sts": 4.0})
    assert scheme.combine(losses(0.5, 3.0), ALL).item() == pytest.approx(2 * 1.0 + 3.0 / 4.0)


@pytest.mark.parametrize("name", ["uncertainty", "dwa", "first_step"])
def test_the_state_of_a_scheme_goes_through_json(name):
    one, other = balancing(name), balancing(name)
    for epoch in range(2):
        one.combine(losses(0.5, 3.0), ALL)
        one.end_step({"topic": 0.3, "sts": 1.7})
        one.begin_epoch(epoch + 1)
    one.end_step({"topic": 0.1, "sts": 1.1})
    if name == "uncertainty":
        one.load_state({"log_variances": {"topic": 0.123456789, "sts": -1.5}})
    other.load_state(json.loads(json.dumps(one.state())))
    assert other.state() == one.state()
    assert other.weights() == one.weights()


@pytest.mark.parametrize("name", ["dwa", "first_step"])
def test_a_scheme_that_follows_losses_begins_every_run_anew(name):
    scheme = balancing(name)
    for epoch in range(3):
        scheme.end_step({"topic": 0.3 / (epoch + 1), "sts": 1.7})
        scheme.begin_epoch(epoch + 1)
    assert scheme.weights() != WEIGHTS
    scheme.begin_run()
    assert scheme.state() == balancing(name).state()


def test_learned_variances_are_kept_for_the_next_run_without_their_gradients():
    scheme = balancing("uncertainty")
    scheme.load_state({"log_variances": {"topic": 0.5, "sts": -1.5}})
    scheme.combine(losses(math.nan, 3.0), ALL).backward()
    scheme.begin_run()
    assert scheme.state() == {"log_variances": {"topic": 0.5, "sts": -1.5}}
    assert all(parameter.grad is None for parameter in scheme.parameters())
