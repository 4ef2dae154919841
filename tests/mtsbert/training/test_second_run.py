"""Tests `train()` when it is called again on the same Trainer: what is made anew, and what is kept."""

import copy
import math

import pytest
import torch


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"learning_rate": 1e-5}, {"initial_lr": {1e-5}}),
        ({"head_learning_rate": 1e-5}, {"initial_lr": {1e-2, 1e-5}}),
        ({"weight_decay": 0.25}, {"weight_decay": {0.25, 0.0}}),
        ({"adam_beta1": 0.5}, {"betas": {(0.5, 0.999)}}),
        ({"optim": "sgd"}, {"betas": {None}}),
    ],
    ids=str,
)
def test_an_optimizer_is_made_anew_for_settings_that_have_changed_since_the_last_run(trainer_of, changes, expected):
    trainer = trainer_of()
    trainer.train()
    for name, value in changes.items():
        setattr(trainer.args, name, value)
    trainer.train()
    for name, values in expected.items():
        assert {group.get(name) for group in trainer.optimizer.param_groups} == values


def test_an_optimizer_whose_settings_stay_is_kept_for_the_next_run(trainer_of):
    trainer = trainer_of()
    trainer.train()
    before = trainer.optimizer.optimizer
    trainer.args.num_train_epochs = 2
    trainer.train()
    assert trainer.optimizer.optimizer is before
    assert {int(state["step"]) for state in before.state.values()} == {3}


def test_what_is_unfrozen_by_hand_is_trained_by_the_next_run(trainer_of, model):
    model.encoder.requires_grad_(False)
    trainer = trainer_of()
    trainer.train()
    before = copy.deepcopy(model.state_dict())
    model.encoder.requires_grad_(True)
    trainer.train()
    assert not [name for name, weight in model.named_parameters() if torch.equal(weight, before[name])]


def test_a_balancing_that_is_chosen_for_the_next_run_learns(trainer_of):
    trainer = trainer_of(num_train_epochs=2)
    trainer.train()
    trainer.args.loss_balancing = "uncertainty"
    trainer.train()
    assert all(weight != 1.0 for weight in trainer.balancing.weights().values())
    learned = trainer.balancing.weights()
    trainer.args.learning_rate = 0.0
    trainer.train()
    assert trainer.balancing.weights() == learned


@pytest.mark.parametrize("scheme", ["dwa", "first_step"])
def test_a_balancing_by_losses_begins_anew_with_the_next_run(trainer_of, scheme):
    trainer = trainer_of(loss_balancing=scheme, num_train_epochs=3)
    for _ in range(2):
        trainer.train()
        lines = [log for log in trainer.state.log_history if "loss" in log]
        topic, ner = ([line[f"{task}_loss"] for line in lines] for task in ("topic", "ner"))
        expected = [1 / ner[0]] * 3
        if scheme == "dwa":
            powers = [math.exp(losses[1] / losses[0] / 2) for losses in (topic, ner)]
            expected = [1.0, 1.0, 2 * powers[1] / sum(powers)]
        assert [line["ner_weight"] for line in lines] == pytest.approx(expected)
