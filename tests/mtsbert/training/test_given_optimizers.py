"""Tests optimizers and schedules that the user gives: what they must have, and what is said of them."""

import copy

import pytest
import torch

from mtsbert.arguments import MTLTrainingArguments
from mtsbert.results.tables import parameter_table
from mtsbert.training.trainer import MTSBertTrainer


@pytest.fixture
def trainer_with(model, features, tokenizer, tmp_path):
    """Builds a Trainer on the eight rows; `given` are arguments of the Trainer, others those of training."""

    def build(given: dict, **arguments) -> MTSBertTrainer:
        settings = {"precision": "fp32", "num_train_epochs": 2, "learning_rate": 1e-2, "disable_tqdm": True}
        arguments = MTLTrainingArguments(str(tmp_path / "run"), save_strategy="no", **settings | arguments)
        return MTSBertTrainer(model, arguments, train_dataset=features, processing_class=tokenizer, **given)

    return build


def sgd(parameters) -> dict:
    return {"optimizers": (torch.optim.SGD(parameters, lr=0.5), None)}


@pytest.mark.filterwarnings("ignore::UserWarning")  # peft's
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"lora_r": 4}, r"does not have encoder\..*lora_B.* and 7 more, which would never be trained"),
        ({"loss_balancing": "uncertainty"}, "does not have the weights that `loss_balancing` learns, which"),
    ],
    ids=str,
)
def test_an_optimizer_that_lacks_what_the_trainer_puts_in_is_refused(trainer_with, model, flags, message):
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        trainer_with(sgd(model.parameters()), **flags).train()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_an_optimizer_of_some_weights_needs_the_others_frozen(trainer_with, model):
    trainer = trainer_with(sgd(model.heads.parameters()))
    with pytest.raises(ValueError, match=r"does not have encoder\..* more, which would never be trained"):
        trainer.train()
    before = copy.deepcopy(model.state_dict())
    model.encoder.requires_grad_(False)
    trainer.train()
    moved = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved == {name for name in before if name.startswith("heads.")}


def test_an_optimizer_may_lack_what_flags_freeze_to_the_end_and_not_what_thaws(trainer_with, model):
    trainer_with(sgd(model.heads.parameters()), freeze_encoder=True).train()
    with pytest.raises(ValueError, match=r"does not have encoder\."):
        trainer_with(sgd(model.heads.parameters()), gradual_unfreezing=True).train()


@pytest.mark.parametrize("name", ["head_learning_rate", "layer_decay", "step_decay_every"])
def test_rates_beside_an_optimizer_and_a_schedule_that_have_their_own_are_refused(trainer_with, model, name):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    with pytest.raises(ValueError, match=f"`{name}` sets rates that an optimizer or a schedule of yours"):
        trainer_with({"optimizers": (optimizer, schedule)}, **{name: 0.5})


def test_the_rates_of_a_given_optimizer_are_those_in_the_table(trainer_with, model, caplog):
    groups = [{"params": list(model.encoder.parameters()), "lr": 0.25}, {"params": list(model.heads.parameters())}]
    trainer = trainer_with(sgd(groups))
    with caplog.at_level("INFO", "mtsbert"):
        trainer.train()
    of_encoder = dict.fromkeys(("encoder.embeddings", "encoder.layer.0", "encoder.layer.1"), 0.25)
    expected = of_encoder | {"heads.topic": 0.5, "heads.ner": 0.5}
    assert f"What is trained:\n{parameter_table(trainer.freezing, expected)}" in caplog.text
    assert "Optimizer SGD, linear schedule." in caplog.text


def test_a_class_of_optimizers_trains_with_the_rate_that_it_was_given_with(trainer_with, model, caplog):
    arguments = {"lr": 0.25, "momentum": 0.5}
    with caplog.at_level("INFO", "mtsbert"):
        trainer = trainer_with({"optimizer_cls_and_kwargs": (torch.optim.SGD, arguments)}, head_learning_rate=0.75)
        trainer.train()
    groups = trainer.optimizer.param_groups
    assert {(group["initial_lr"], group["momentum"]) for group in groups} == {(0.25, 0.5), (0.75, 0.5)}
    assert "Optimizer SGD, linear schedule." in caplog.text
