"""Tests which parts are frozen, when they are unfrozen, and the learning rates of the others."""

import copy
import logging

import pytest
import torch
from transformers import ElectraConfig, ModernBertConfig, TrainerCallback, XLMConfig

from configuration_mtsbert import MTSBertConfig
from modeling_mtsbert import MTSBertModel
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.network.freezing import Freezing
from mtsbert.network.parts import encoder_layers, model_parts
from mtsbert.results.tables import parameter_table
from tests.mtsbert.rows import ACTIVATION_CHECKPOINTING


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture
def encoder_of(tasks):
    """A model with random weights on an encoder of this config."""
    return lambda config: MTSBertModel(MTSBertConfig(encoder_config=config, tasks=tasks))


FROZEN = {
    "freeze_encoder": ({"freeze_encoder": True}, ("encoder.",)),
    "freeze_embeddings": ({"freeze_embeddings": True}, ("encoder.embeddings.",)),
    "num_frozen_layers": ({"num_frozen_layers": 1}, ("encoder.encoder.layer.0.",)),
    "freeze_layers": ({"freeze_layers": [1]}, ("encoder.encoder.layer.1.",)),
    "freeze_heads": ({"freeze_heads": ["topic"]}, ("heads.topic.",)),
    "several flags": (
        {"freeze_embeddings": True, "num_frozen_layers": 1, "freeze_heads": ["ner"]},
        ("encoder.embeddings.", "encoder.encoder.layer.0.", "heads.ner."),
    ),
    "activation checkpointing": (
        {"freeze_embeddings": True, "num_frozen_layers": 1, ACTIVATION_CHECKPOINTING: True},
        ("encoder.embeddings.", "encoder.encoder.layer.0."),
    ),
    "gradual unfreezing that the run's end cuts short": (
        {"gradual_unfreezing": True, "num_frozen_layers": 1},  # two epochs: heads, then the last layer as well
        ("encoder.embeddings.", "encoder.encoder.layer.0."),
    ),
}


def moved(before: dict[str, torch.Tensor], model: MTSBertModel) -> set[str]:
    return {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}


def trainable_names(model: MTSBertModel, *prefixes: str) -> set[str]:
    return {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


@pytest.mark.parametrize("case", FROZEN)
def test_frozen_parameters_stay_bit_identical_and_all_others_move(trainer_of, model, case):
    arguments, prefixes = FROZEN[case]
    before = copy.deepcopy(model.state_dict())
    trainer_of(num_train_epochs=2, weight_decay=0.1, gradient_accumulation_steps=2, per_device_train_batch_size=2,
               **arguments).train()  # fmt: skip
    frozen = trainable_names(model, *prefixes)
    assert frozen
    assert moved(before, model) == trainable_names(model, "") - frozen


@pytest.mark.parametrize(
    ("arguments", "is_trained"),
    [
        ({"bitfit": True}, lambda name: name.startswith("heads.") or name.endswith("bias")),
        ({"freeze_modules": r"layer\.1\.attention"}, lambda name: "layer.1.attention" not in name),
        ({"freeze_modules": "LayerNorm|ner"}, lambda name: "LayerNorm" not in name and "ner" not in name),
    ],
    ids=["bitfit", "a module", "two patterns"],
)
def test_parameters_are_frozen_by_their_names(trainer_of, model, arguments, is_trained):
    before = copy.deepcopy(model.state_dict())
    trainer = trainer_of(num_train_epochs=2, weight_decay=0.1, **arguments)
    trainer.train()
    trained = {name for name, _ in model.named_parameters() if is_trained(name)}
    assert moved(before, model) == trained
    assert trainer.freezing.num_trained_parameters == sum(model.get_parameter(name).numel() for name in trained)
    trainer_of(num_train_epochs=1).train()  # another Trainer freezes nothing
    assert moved(before, model) == {name for name, _ in model.named_parameters()}


def test_an_encoder_without_biases_has_none_to_train(encoder_of):
    model = encoder_of(ModernBertConfig(**SMALL, pad_token_id=0))
    with pytest.raises(ValueError, match="`bitfit` trains biases, and ModernBertModel has none"):
        Freezing(model, MTLTrainingArguments("unused", bitfit=True))


def test_frozen_parts_stay_under_weight_decay_and_momentum_once_they_have_learned(trainer_of, model):
    trainer_of(weight_decay=0.1).train()
    before = copy.deepcopy(model.state_dict())
    trainer = trainer_of(weight_decay=0.1, freeze_encoder=True, num_train_epochs=3, optim="rmsprop", learning_rate=0.1,
                         optim_args=None)  # fmt: skip
    for group in trainer.create_optimizer().param_groups:
        group["momentum"] = 0.9
    trainer.train()
    assert moved(before, model) == trainable_names(model, "heads.")


def test_frozen_modules_run_in_eval_mode_while_the_rest_trains(trainer_of, model):
    trainer = trainer_of(padding_free=False, num_frozen_layers=1, freeze_heads=["topic"])
    seen = []
    model.encoder.encoder.layer[0].register_forward_pre_hook(
        lambda module, _: seen.append((module.training, model.encoder.encoder.layer[1].training))
    )
    trainer.train()
    assert set(seen) == {(False, True)}
    assert not model.heads["topic"].training
    assert model.heads["ner"].training
    trainer_of(padding_free=False, freeze_encoder=True).train()
    assert not any(module.training for module in model.encoder.modules())


def test_nothing_is_recorded_below_the_lowest_trained_part(trainer_of, model):
    recorded = {}
    for index, layer in enumerate(model.encoder.encoder.layer):
        layer.register_forward_hook(lambda module, inputs, output, i=index: recorded.update({i: output.requires_grad}))
    trainer_of(freeze_embeddings=True, num_frozen_layers=1).train()
    assert recorded == {0: False, 1: True}


class Watch(TrainerCallback):
    """Which parts moved in every optimizer step."""

    def __init__(self, model: MTSBertModel):
        self.model = model
        self.steps: list[set[str]] = []

    def on_step_begin(self, args, state, control, **kwargs):
        self.before = copy.deepcopy(self.model.state_dict())

    def on_step_end(self, args, state, control, **kwargs):
        names = moved(self.before, self.model)
        self.steps.append({part for part in PARTS if any(name.startswith(f"{part}.") for name in names)})


HEADS = {"heads.topic", "heads.ner"}
FROM_THE_TOP = ["encoder.encoder.layer.1", "encoder.encoder.layer.0", "encoder.embeddings"]
PARTS = [*HEADS, *FROM_THE_TOP]


@pytest.mark.parametrize(
    ("arguments", "thawed"),
    [
        ({}, [0, 0, 1, 1, 2, 2, 3, 3, 3, 3]),
        ({"unfreeze_every": 3}, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]),
        ({"unfreeze_every": 0.15}, [0, 0, 1, 1, 2, 2, 3, 3, 3, 3]),  # of 10 steps: every 2
        ({"freeze_embeddings": True}, [0, 0, 1, 1, 2, 2, 2, 2, 2, 2]),
    ],
)
def test_the_encoder_thaws_from_the_top_at_the_exact_step(trainer_of, model, arguments, thawed):
    arguments |= {"per_device_train_batch_size": 4, "lr_scheduler_type": "constant", "num_train_epochs": 5}
    trainer = trainer_of(gradual_unfreezing=True, **arguments)
    trainer.add_callback(watch := Watch(model))
    trainer.train()
    assert watch.steps == [HEADS | set(FROM_THE_TOP[:number]) for number in thawed]


HEADS_ALONE = {"freeze_encoder": True}


@pytest.mark.parametrize(
    ("arguments", "frozen", "num_steps"),
    [
        (HEADS_ALONE | {"thaw_at": "3"}, FROM_THE_TOP, 3),
        (HEADS_ALONE | {"thaw_at": "0.4"}, FROM_THE_TOP, 4),  # of 10 steps
        (HEADS_ALONE | {"thaw_at": "2 epochs"}, FROM_THE_TOP, 4),
        (HEADS_ALONE | {"thaw_at": "1 epoch"}, FROM_THE_TOP, 2),
        ({"freeze_embeddings": True, "num_frozen_layers": 1, "thaw_at": "5"}, FROM_THE_TOP[1:], 5),
        ({"freeze_heads": ["topic"], "thaw_at": "2"}, ["heads.topic"], 2),
    ],
    ids=str,
)
def test_what_flags_freeze_thaws_at_once_at_the_exact_step(trainer_of, model, arguments, frozen, num_steps):
    common = {"per_device_train_batch_size": 4, "lr_scheduler_type": "constant", "num_train_epochs": 5}
    trainer = trainer_of(**common, **arguments)
    trainer.add_callback(watch := Watch(model))
    trainer.train()
    before, after = set(PARTS) - set(frozen), set(PARTS)
    assert watch.steps == [before] * num_steps + [after] * (10 - num_steps)


def test_before_it_thaws_a_run_is_bit_for_bit_the_frozen_one(trainer_of, model):
    settings = {"per_device_train_batch_size": 4, "lr_scheduler_type": "constant", **HEADS_ALONE}
    settings["feature_cache"] = False  # which keeps states in fp16
    frozen = trainer_of(of=copy.deepcopy(model), max_steps=3, **settings)
    frozen.train()
    states = []

    class Keep(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            states.append(copy.deepcopy(model.state_dict()))

    thaws = trainer_of(of=copy.deepcopy(model), max_steps=5, thaw_at="3", **settings)
    thaws.add_callback(Keep())
    thaws.train()
    assert all(torch.equal(weight, states[2][name]) for name, weight in frozen.model.state_dict().items())


IN_TURN = {"gradual_unfreezing": True, "unfreeze_every": 2, "layer_decay": 0.8}
AT_ONCE = HEADS_ALONE | {"thaw_at": "0.5"}  # of 8 steps


@pytest.mark.parametrize(
    ("schedule", "checkpoint"),
    [*((IN_TURN, step) for step in (2, 3, 5)), *((AT_ONCE, step) for step in (2, 4, 5, 6))],
    ids=str,
)
def test_a_run_resumed_within_a_schedule_equals_the_uninterrupted_one(
    trainer_of, model, tmp_path, schedule, checkpoint
):
    settings = {
        "num_train_epochs": 4,
        "per_device_train_batch_size": 4,
        "save_strategy": "steps",
        "save_steps": 1,
        "weight_decay": 0.1,
        **schedule,
    }
    straight = trainer_of(of=copy.deepcopy(model), **settings)
    straight.train()
    resumed = trainer_of(of=copy.deepcopy(model), **settings | {"save_strategy": "no"})
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{checkpoint}"))
    assert resumed.state.global_step == 8
    for name, weight in straight.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def rates_and_decays(trainer) -> dict[str, tuple[float, float]]:
    """Parameter name → learning rate and weight decay of its group; every parameter in exactly one."""
    groups = trainer.create_optimizer().param_groups
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups)
    return {name: found[id(parameter)] for name, parameter in trainer.model.named_parameters()}


def test_heads_can_have_their_own_learning_rate(trainer_of):
    trainer = trainer_of(head_learning_rate=0.5, weight_decay=0.1)
    for name, (rate, decay) in rates_and_decays(trainer).items():
        assert rate == (0.5 if name.startswith("heads.") else 1e-2), name
        assert decay == (0.0 if name.endswith("bias") or "LayerNorm" in name else 0.1), name


def test_layer_decay_multiplies_the_rate_once_for_every_step_down(trainer_of):
    found = rates_and_decays(trainer_of(layer_decay=0.5, learning_rate=0.8, head_learning_rate=3.0))
    expected = dict(zip(FROM_THE_TOP, [0.4, 0.2, 0.1], strict=True)) | {"heads": 3.0}
    for name, (rate, _) in found.items():
        (prefix,) = [prefix for prefix in expected if name.startswith(prefix)]
        assert rate == pytest.approx(expected[prefix]), name


@pytest.mark.parametrize("flag", [{"freeze_encoder": True}, {"gradual_unfreezing": True}, {"num_frozen_layers": 1}])
def test_frozen_parameters_are_in_the_optimizer_from_the_start(trainer_of, model, flag):
    trainer = trainer_of(**flag)
    assert set(rates_and_decays(trainer)) == {name for name, _ in model.named_parameters()}


def test_what_the_first_layer_depends_on_counts_as_embeddings(encoder_of):
    electra = encoder_of(ElectraConfig(**SMALL, embedding_size=16))
    below = {id(parameter) for parameter in model_parts(electra)["encoder.embeddings"].parameters}
    assert id(electra.encoder.embeddings_project.weight) in below
    modern = encoder_of(ModernBertConfig(**SMALL, pad_token_id=0))
    assert model_parts(modern)["encoder.other"].parameters == list(modern.encoder.final_norm.parameters())


def test_layers_in_several_lists_are_refused_instead_of_freezing_some_of_them(encoder_of):
    xlm = encoder_of(XLMConfig(vocab_size=100, emb_dim=32, n_layers=2, n_heads=2, pad_index=0))
    with pytest.raises(ValueError, match="XLMModel does not expose a list of its 2 layers"):
        encoder_layers(xlm)


def test_what_comes_without_gradients_stays_without(trainer_of, model):
    model.encoder.encoder.layer[0].output.dense.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    trainer_of(gradual_unfreezing=True, unfreeze_every=1, num_train_epochs=5).train()
    fixed = {"encoder.encoder.layer.0.output.dense.weight", "encoder.encoder.layer.0.output.dense.bias"}
    assert moved(before, model) == trainable_names(model, "") - fixed
    assert not model.encoder.encoder.layer[0].output.dense.weight.requires_grad


EMBEDDINGS_OF_BERT = "encoder.embeddings."


def test_what_is_frozen_by_hand_once_the_trainer_is_built_stays_as_it_is(trainer_of, model):
    before = copy.deepcopy(model.state_dict())
    trainer = trainer_of(num_train_epochs=2)
    model.encoder.embeddings.requires_grad_(False)
    trainer.train()
    assert moved(before, model) == trainable_names(model, "") - trainable_names(model, EMBEDDINGS_OF_BERT)
    before = copy.deepcopy(model.state_dict())
    model.encoder.requires_grad_(False)
    trainer.train()
    assert moved(before, model) == trainable_names(model, "heads.")


@pytest.mark.parametrize("first", [{}, {"num_frozen_layers": 1, "freeze_heads": ["topic"]}], ids=str)
def test_what_is_frozen_by_hand_between_two_trainers_stays_as_it_is(trainer_of, model, first):
    trainer_of(**first).train()
    model.encoder.embeddings.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    trainer_of(num_train_epochs=2).train()  # what flags of the first one froze is trained
    assert moved(before, model) == trainable_names(model, "") - trainable_names(model, EMBEDDINGS_OF_BERT)
    model.encoder.embeddings.requires_grad_(True)
    before = copy.deepcopy(model.state_dict())
    trainer_of(num_train_epochs=2).train()
    assert moved(before, model) == trainable_names(model, "")


def test_a_trainer_sees_what_was_frozen_by_hand_before_another_was_built(trainer_of, model):
    trainer = trainer_of()
    model.heads["ner"].requires_grad_(False)
    trainer_of(freeze_encoder=True)
    before = copy.deepcopy(model.state_dict())
    trainer.train()
    assert moved(before, model) == trainable_names(model, "") - trainable_names(model, "heads.ner.")


def test_a_callback_may_freeze_by_hand_while_a_schedule_thaws(trainer_of, model):
    class Freeze(TrainerCallback):
        def on_epoch_begin(self, args, state, control, model, **kwargs):
            if state.epoch == 1:
                model.heads["topic"].requires_grad_(False)

    trainer = trainer_of(gradual_unfreezing=True, num_train_epochs=3, lr_scheduler_type="constant")
    trainer.add_callback(watch := Watch(model))
    trainer.add_callback(Freeze())
    trainer.train()
    last, lower = FROM_THE_TOP[:2]
    assert watch.steps == [HEADS, {"heads.ner", last}, {"heads.ner", last, lower}]


@pytest.mark.parametrize(
    ("flags", "frozen", "message"),
    [
        ({}, "", "Everything is frozen, so there is nothing to train"),
        ({"freeze_encoder": True}, "heads", "Everything is frozen, so there is nothing to train"),
        ({"gradual_unfreezing": True}, "heads", "begins with the heads alone, and there is none that is trained"),
    ],
    ids=str,
)
def test_what_is_frozen_by_hand_may_not_leave_a_run_without_anything_to_train(
    trainer_of, model, flags, frozen, message
):
    trainer = trainer_of(**flags)
    model.get_submodule(frozen).requires_grad_(False)
    with pytest.raises(ValueError, match=message):
        trainer.train()


def test_flags_that_change_between_two_runs_decide_whether_there_is_anything_to_train(trainer_of, model):
    trainer = trainer_of(freeze_encoder=True, freeze_heads=["topic", "ner"])
    trainer.args.freeze_heads = ["topic"]
    before = copy.deepcopy(model.state_dict())
    trainer.train()
    assert moved(before, model) == trainable_names(model, "heads.ner.")
    trainer.args.freeze_heads = ["topic", "ner"]
    with pytest.raises(ValueError, match="Everything is frozen, so there is nothing to train"):
        trainer.train()


def test_a_schedule_that_the_run_is_too_short_for_is_said(trainer_of, caplog):
    with caplog.at_level(logging.WARNING, "mtsbert"):
        trainer_of(gradual_unfreezing=True, unfreeze_every=2, num_train_epochs=5).train()
    assert "The last part would thaw at step 6, and the run has 5 steps: it stays frozen" in caplog.text
    with caplog.at_level(logging.WARNING, "mtsbert"):
        trainer_of(gradual_unfreezing=True, num_train_epochs=3).train()
    assert "The last part would thaw at epoch 3, and the run has 3 epochs" in caplog.text
    caplog.clear()
    trainer_of(gradual_unfreezing=True, num_train_epochs=4).train()
    assert "would thaw" not in caplog.text


def test_training_with_everything_frozen_is_refused(trainer_of):
    with pytest.raises(ValueError, match="Everything is frozen"):
        trainer_of(freeze_encoder=True, freeze_heads=["topic", "ner"]).train()


def test_every_parameter_is_in_exactly_one_part(model):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [names[id(parameter)] for part in model_parts(model).values() for parameter in part.parameters]
    assert sorted(found) == sorted(names.values())


def test_the_table_says_what_is_trained_and_how_fast(trainer_of):
    trainer = trainer_of(gradual_unfreezing=True, unfreeze_every=10, freeze_embeddings=True, freeze_heads=["ner"])
    trainer.freezing.begin(num_steps=100, num_epochs=1)
    table = parameter_table(trainer.freezing, dict.fromkeys(trainer.freezing.parts, 0.01))
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    number = sum(p.numel() for p in trainer.model.encoder.encoder.layer[0].parameters())
    assert [cells[0], *[[line[0], *line[2:]] for line in cells[2:]]] == [
        ["part", "parameters", "state", "learning rate"],
        ["encoder.embeddings", "frozen", ""],
        ["encoder.layer.0", "frozen until step 20", "0.01"],
        ["encoder.layer.1", "frozen until step 10", "0.01"],
        ["heads.topic", "trained", "0.01"],
        ["heads.ner", "frozen", ""],
    ]
    assert cells[3][1] == f"{number:,}"


def states_and_rates(trainer) -> dict[str, tuple[str, str]]:
    table = parameter_table(trainer.freezing, trainer.learning_rates)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    return {name: (state, rate) for name, _, state, rate in lines}


def test_the_table_says_how_many_parameters_of_a_part_are_trained(trainer_of, model):
    frozen, trained = ("frozen", ""), ("trained", "0.01")
    layer = model.encoder.encoder.layer[0]
    total = sum(weight.numel() for weight in layer.parameters())
    biases = sum(weight.numel() for name, weight in layer.named_parameters() if name.endswith("bias"))
    bitfit = states_and_rates(trainer_of(of=copy.deepcopy(model), bitfit=True))
    norm = model.encoder.embeddings.LayerNorm.bias.numel()
    of_embeddings = sum(weight.numel() for weight in model.encoder.embeddings.parameters())
    assert bitfit == {
        "encoder.embeddings": (f"{norm:,} of {of_embeddings:,} trained", "0.01"),
        "encoder.layer.0": (f"{biases:,} of {total:,} trained", "0.01"),
        "encoder.layer.1": (f"{biases:,} of {total:,} trained", "0.01"),
        "heads.topic": trained,
        "heads.ner": trained,
    }
    by_name = states_and_rates(trainer_of(of=copy.deepcopy(model), freeze_modules=r"layer\.0"))
    assert list(by_name.values()) == [trained, frozen, trained, trained, trained]
    model.encoder.requires_grad_(False)
    layer.attention.requires_grad_(True)
    rest = sum(weight.numel() for weight in layer.attention.parameters())
    by_hand = states_and_rates(trainer_of())
    assert list(by_hand.values()) == [frozen, (f"{rest:,} of {total:,} trained", "0.01"), frozen, trained, trained]
    schedule = trainer_of(gradual_unfreezing=True)
    schedule.freezing.begin(num_steps=100, num_epochs=9)
    some = f"frozen until epoch 2, then {rest:,} of {total:,} trained"
    assert list(states_and_rates(schedule).values()) == [frozen, (some, "0.01"), frozen, trained, trained]


def test_an_encoder_without_anything_to_train_is_seen(trainer_of):
    assert trainer_of(freeze_encoder=True, freeze_heads=["topic", "ner"]).freezing.is_total
    assert not trainer_of(freeze_encoder=True, freeze_heads=["ner"]).freezing.is_total


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frozen_layers": 3}, "`num_frozen_layers` is 3; the encoder has 2 layers"),
        ({"num_frozen_layers": -1}, "`num_frozen_layers` is -1"),
        ({"freeze_layers": [0, 2]}, "`freeze_layers` names 2; the encoder has the layers 0 to 1"),
        ({"freeze_layers": [-1]}, "`freeze_layers` names -1"),
        ({"freeze_modules": "attn"}, "`freeze_modules` 'attn' matches no parameter; they are called encoder"),
        ({"freeze_modules": "(a"}, r"`freeze_modules` is '\(a': "),
        (HEADS_ALONE | {"thaw_at": "2", "feature_cache": True}, "`feature_cache` keeps what is frozen to the end"),
        ({"bitfit": True, "freeze_encoder": True}, "`bitfit` trains the biases of the encoder; drop"),
        ({"freeze_heads": ["mood"]}, r"`freeze_heads` names 'mood'; the heads are \['topic', 'ner'\]"),
        ({"gradual_unfreezing": True, "freeze_encoder": True}, "keeps frozen; drop one"),
        ({"gradual_unfreezing": True, "freeze_embeddings": True, "num_frozen_layers": 2}, "has nothing to thaw"),
        ({"gradual_unfreezing": True, "freeze_heads": ["topic", "ner"]}, "begins with the heads alone"),
        ({"unfreeze_every": 1.5, "gradual_unfreezing": True}, "`unfreeze_every` is 1.5"),
        ({"unfreeze_every": float("nan"), "gradual_unfreezing": True}, "`unfreeze_every` is nan"),
        ({"unfreeze_every": 5}, "`unfreeze_every` says when `gradual_unfreezing` thaws"),
        ({"unfreeze_every": 0, "gradual_unfreezing": True}, "`unfreeze_every` is 0"),
        ({"layer_decay": 1.5}, "`layer_decay` is 1.5"),
        ({"thaw_at": "100"}, "`thaw_at` has nothing to thaw: no flag freezes a part"),
        ({"thaw_at": "100", "bitfit": True}, "what `bitfit` and `freeze_modules` freeze stays frozen to the end"),
        (
            {"thaw_at": "100", "freeze_modules": "bias"},
            "what `bitfit` and `freeze_modules` freeze stays frozen",
        ),
        (HEADS_ALONE | {"thaw_at": "1.5"}, "`thaw_at` is '1.5'; it must be a number of steps"),
        (HEADS_ALONE | {"thaw_at": "0"}, "`thaw_at` is '0'"),
        (HEADS_ALONE | {"thaw_at": "soon"}, "`thaw_at` is 'soon'"),
        (HEADS_ALONE | {"thaw_at": "2 steps"}, "`thaw_at` is '2 steps'"),
        (HEADS_ALONE | {"thaw_at": "0.5 epochs"}, "`thaw_at` is '0.5 epochs'"),
        ({"gradual_unfreezing": True, "thaw_at": "2"}, "`thaw_at` thaws everything at once"),
        (
            HEADS_ALONE | {"freeze_heads": ["topic", "ner"], "thaw_at": "2"},
            "comes after steps without them, and there is",
        ),
        ({"layer_decay": 0.9, "freeze_encoder": True}, "`layer_decay` sets the rates of the encoder"),
    ],
)
def test_flags_that_fit_nothing_or_contradict_each_other_are_refused(trainer_of, arguments, message):
    with pytest.raises(ValueError, match=message):
        trainer_of(**arguments)


@pytest.mark.parametrize("arguments", [{"num_frozen_layers": 1}, {"gradual_unfreezing": True}])
def test_an_encoder_that_hides_its_layers_is_refused(trainer_of, model, arguments):
    model.encoder.encoder.layer = torch.nn.Sequential(*model.encoder.encoder.layer)
    with pytest.raises(ValueError, match="BertModel does not expose a list of its 2 layers"):
        trainer_of(**arguments)


def test_layer_decay_needs_layers_too(trainer_of, model):
    model.encoder.encoder.layer = torch.nn.Sequential(*model.encoder.encoder.layer)
    with pytest.raises(ValueError, match="`layer_decay` cannot be used"):
        trainer_of(layer_decay=0.9)
