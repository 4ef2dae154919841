"""Tests which layers adaptive freezing freezes, and when, and that a run goes on the same from any checkpoint."""

import copy
import logging

import pytest
import torch
from transformers import BertConfig, TrainerCallback

from modeling_mtsbert import MTSBertModel
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.network.freezing import Freezing
from mtsbert.training.adaptive_freezing import AdaptiveFreezing, num_settled
from mtsbert.training.losses.joint import TEACHER
from tests.mtsbert.conftest import ENCODERS, SMALL


@pytest.fixture
def deep_model(model_on):
    """A model whose encoder has four layers."""
    return model_on(BertConfig(**SMALL | {"num_hidden_layers": 4}))


@pytest.mark.parametrize(
    ("topic", "ner", "percentile", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4], 50, 2),
        ([0.1, 0.2, 0.3, 0.4], [0.1, 0.4, 0.3, 0.2], 50, 1),  # for one of the tasks, the second still changes
        ([0.1, 0.2, 0.3, 0.4], [0.4, 0.1, 0.2, 0.3], 50, 0),  # nothing is frozen above a layer that is not
        ([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4], 0, 1),
        ([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4], 67, 3),
        ([0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4], 100, 3),  # never the last layer
        ([0.2, 0.2, 0.2, 0.2], [0.0, 0.0, 0.0, 0.0], 50, 3),
        ([0.3], [0.1], 100, 0),
    ],
)
def test_a_layer_has_settled_if_the_change_is_small_for_every_task(topic, ner, percentile, expected):
    assert num_settled({"topic": topic, "ner": ner}, percentile) == expected


def decided(model, percentile: float = 50, *, step: int = 32, means=None, norms=None, **flags) -> dict[str, int]:
    """What is frozen after `step` of 120 steps, given the norms of the last interval and of the current one."""
    freezing = Freezing(model, MTLTrainingArguments("unused", adaptive_freezing=True, **flags))
    adaptive = AdaptiveFreezing(freezing, percentile)
    adaptive.begin(["topic", "ner"], num_steps=120)  # so an interval has ten steps
    adaptive.load_state({"means": means or {}, "norms": norms or {}})
    has_frozen = adaptive.end_step(step, lambda tensor: tensor, torch.device("cpu"))
    assert has_frozen == bool(freezing.settled)
    assert all(not weight.requires_grad for name in freezing.settled for weight in freezing.parts[name].parameters)
    return freezing.settled


BEFORE = {"topic": [1.0, 2.0, 1.0, 1.0], "ner": [2.0, 1.0, 1.0, 4.0]}
# Means 1.1, 1.8, 1.4, 0.5 and 2.0, 1.0, 0.7, 2.0, so changes of 0.1, 0.1, 0.4, 0.5 and 0, 0, 0.3, 0.5.
NOW = {"topic": [[1.0, 1.8, 1.4, 0.25], [1.2, 1.8, 1.4, 0.75]], "ner": [[2.0, 1.0, 0.7, 2.0]]}
LOWEST_TWO = ["encoder.embeddings", "encoder.layer.0", "encoder.layer.1"]


def test_norms_are_averaged_and_compared_with_those_of_the_interval_before(deep_model):
    assert decided(deep_model, step=20, means=BEFORE, norms=NOW) == dict.fromkeys(LOWEST_TWO, 20)
    fewer = NOW | {"ner": [[2.0, 2.0, 0.7, 2.0]]}  # changes of 0, 1, 0.3, 0.5
    assert decided(deep_model, step=20, means=BEFORE, norms=fewer) == dict.fromkeys(LOWEST_TWO[:2], 20)


@pytest.mark.parametrize(
    ("step", "means", "norms"),
    [
        (25, BEFORE, NOW),  # within an interval
        (120, BEFORE, NOW),  # at the end of the run
        (10, {}, NOW),  # after the first interval, with nothing to compare with
        (20, BEFORE, {"topic": NOW["topic"]}),  # no step had a label of the other task
    ],
)
def test_nothing_is_frozen_before_all_tasks_can_be_compared(deep_model, step, means, norms):
    assert decided(deep_model, step=step, means=means, norms=norms) == {}


def test_the_next_decision_compares_with_the_layers_that_are_left(deep_model):
    adaptive = AdaptiveFreezing(Freezing(deep_model, MTLTrainingArguments("unused", adaptive_freezing=True)), 50)
    adaptive.begin(["topic", "ner"], num_steps=120)
    adaptive.load_state({"means": BEFORE, "norms": NOW})
    assert adaptive.end_step(20, lambda tensor: tensor, torch.device("cpu"))
    assert adaptive.state()["norms"] == {}
    assert adaptive.state()["means"] == {"topic": [1.4, 0.5], "ner": [0.7, 2.0]}


def test_a_gradient_that_was_zero_has_changed_if_it_no_longer_is(deep_model):
    before = {"topic": [0.0, 1.0, 1.0, 1.0], "ner": [0.0, 1.0, 1.0, 1.0]}
    still = {"topic": [[0.0, 1.0, 1.2, 1.2]], "ner": [[0.0, 1.0, 1.2, 1.2]]}
    begins = still | {"ner": [[0.1, 1.0, 1.2, 1.2]]}
    assert decided(deep_model, step=20, means=before, norms=still) == dict.fromkeys(LOWEST_TWO, 20)
    assert decided(deep_model, step=20, means=before, norms=begins) == {}


def test_what_flags_freeze_is_passed_over(deep_model):
    means = {task: values[1:] for task, values in BEFORE.items()}
    norms = {task: [row[1:] for row in rows] for task, rows in NOW.items()}
    flags = {"freeze_embeddings": True, "freeze_layers": [0, 2]}
    # Changes of 0.1, 0.4, 0.5 and 0, 0.3, 0.5: the second layer has settled, and the third is frozen anyway.
    assert decided(deep_model, 20, step=20, means=means, norms=norms, **flags) == {"encoder.layer.1": 20}


SETTINGS = {  # intervals of four steps, and epochs as well
    "adaptive_freezing": True,
    "per_device_train_batch_size": 2,
    "num_train_epochs": 6,
    "train_sampling_strategy": "group_by_length",
    "weight_decay": 0.1,
    "learning_rate": 1e-3,
}
ALL_AT_ONCE = SETTINGS | {"adaptive_freezing_percentile": 100}


@pytest.fixture
def start(trainer_of, deep_model, tmp_path):
    """Builds a Trainer of the model with four layers."""

    def build(*callbacks, of=deep_model, **settings):
        trainer = trainer_of(of=copy.deepcopy(of), feature_cache_dir=str(tmp_path / "cache"), **settings)
        for callback in callbacks:
            trainer.add_callback(callback)
        return trainer

    return build


class Watch(TrainerCallback):
    """The weights after every optimizer step, and whether every layer was in training mode in it."""

    def __init__(self):
        self.weights, self.modes = [], []

    def on_step_end(self, args, state, control, model, **kwargs):
        self.weights.append({name: weight.clone() for name, weight in model.state_dict().items()})

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        encoder = model.encoder
        self.modes.append([module.training for module in (encoder.embeddings, *encoder.encoder.layer)])


def is_below(name: str, num_layers: int) -> bool:
    layers = tuple(f"encoder.encoder.layer.{index}." for index in range(num_layers))
    return name.startswith(("encoder.embeddings.", *layers))


@pytest.mark.parametrize("cached", [False, True])
def test_settled_layers_stay_bit_identical_in_evaluation_mode_and_the_others_move(start, cached):
    trainer = start(watch := Watch(), **ALL_AT_ONCE, feature_cache=cached)
    trainer.train()
    assert trainer.freezing.settled == dict.fromkeys([*LOWEST_TWO, "encoder.layer.2"], 8)
    assert (trainer.feature_cache is not None) == cached
    assert watch.modes == [[True] * 5] * 8 + [[False] * 4 + [True]] * 16
    for step, (before, after) in enumerate(zip(watch.weights, watch.weights[1:], strict=False), start=1):
        moved = {name for name in after if not torch.equal(after[name], before[name])}
        assert moved == {name for name in after if step < 8 or not is_below(name, 3)}, step


def test_layers_are_frozen_one_after_the_other_from_the_bottom(start):
    trainer = start(watch := Watch(), **SETTINGS | {"num_train_epochs": 12})
    trainer.train()
    steps = [trainer.freezing.settled.get(f"encoder.layer.{index}", 48) for index in range(4)]
    assert steps == sorted(steps)
    assert len(set(steps)) > 2  # not all at once
    assert steps[-1] == 48
    for index, step in enumerate(steps):
        name = f"encoder.encoder.layer.{index}.output.dense.weight"
        assert not torch.equal(watch.weights[step - 2][name], watch.weights[step - 1][name])
        assert torch.equal(watch.weights[step - 1][name], watch.weights[-1][name])


def test_the_last_layer_that_flags_leave_is_always_trained(start):
    trainer = start(**ALL_AT_ONCE, freeze_layers=[3])
    trainer.train()
    assert trainer.freezing.settled == dict.fromkeys(LOWEST_TWO, 8)


def test_the_gradient_of_each_task_is_measured_on_the_biases_and_norms_of_a_layer(start, deep_model):
    trainer = start(**SETTINGS | {"max_steps": 1, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2})
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model = copy.deepcopy(trainer.model)
    trainer.train()
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(8)])
    for task, (found,) in trainer.adaptive_freezing.state()["norms"].items():
        model.zero_grad()
        model(**batch).losses[task].backward()
        encoder = model.encoder
        parts = [[encoder.embeddings, encoder.encoder.layer[0]], *([layer] for layer in encoder.encoder.layer[1:])]
        weights = [[p for module in part for p in module.parameters() if p.dim() == 1] for part in parts]
        expected = [torch.cat([p.grad for p in part]).norm().item() for part in weights]
        assert found == pytest.approx(expected, rel=1e-4), task


@pytest.mark.parametrize("cached", [False, True])
def test_a_run_resumed_before_or_after_a_decision_equals_the_uninterrupted_one(start, tmp_path, cached):
    flags = SETTINGS | {"save_strategy": "steps", "save_steps": 1, "feature_cache": cached, "num_train_epochs": 12}
    flags |= {"gradient_accumulation_steps": 2, "adaptive_freezing_percentile": 70}
    straight = start(**flags)
    straight.train()
    first = min(straight.freezing.settled.values())
    for checkpoint in (3, first - 1, first, first + 3):
        resumed = start(**flags)
        resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{checkpoint}"))
        assert resumed.state.global_step == 24
        assert resumed.freezing.settled == straight.freezing.settled
        for name, weight in straight.model.state_dict().items():
            assert torch.equal(weight, resumed.model.state_dict()[name]), (checkpoint, name)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_skipping_frozen_layers_changes_nothing_but_the_time(start, model_on, encoder):
    flags = ALL_AT_ONCE | {"feature_cache_dtype": "fp32", "optim": "sgd", "learning_rate": 0.1, "num_train_epochs": 4}
    model = model_on(copy.deepcopy(ENCODERS[encoder]))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    plain, cached = (start(of=model, **flags, feature_cache=is_cached) for is_cached in (False, True))
    plain.train()
    cached.train()
    assert cached.num_cached_layers == 1
    assert plain.freezing.settled == cached.freezing.settled == dict.fromkeys(plain.freezing.settled, 8)
    for name, weight in plain.model.state_dict().items():
        assert torch.allclose(weight, cached.model.state_dict()[name], atol=1e-5), name


def test_another_training_begins_with_nothing_frozen(start):
    trainer = start(**ALL_AT_ONCE | {"num_train_epochs": 4})
    trainer.train()
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    assert not any(torch.equal(weight, before[name]) for name, weight in trainer.model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"freeze_encoder": True}, "`adaptive_freezing` has nothing left to freeze with `freeze_encoder`"),
        ({"gradual_unfreezing": True}, "`gradual_unfreezing` and `thaw_at` train what has been frozen; drop one"),
        ({"freeze_embeddings": True, "thaw_at": "3"}, "`gradual_unfreezing` and `thaw_at` train what has been frozen"),
        ({"lora_r": 2}, "freezes weights that `lora_r` does not train anyway"),
        ({"gradient_aggregator": "UPGrad"}, "`gradient_aggregator` joins gradients on the same weights in every step"),
        ({"fsdp": "full_shard"}, "measures gradients of whole layers, which FSDP and DeepSpeed share out"),
        (
            {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}},
            "which reentrant activation checkpointing does not support",
        ),
        ({"feature_cache": True, "torch_compile": True}, "`feature_cache` skips layers in the middle of a run"),
        ({"adaptive_freezing_percentile": 101}, r"`adaptive_freezing_percentile` is 101; it must lie in \[0, 100\]"),
        (
            {"adaptive_freezing": False, "adaptive_freezing_percentile": 40},
            "`adaptive_freezing_percentile` says what `adaptive_freezing` freezes",
        ),
        (
            {"num_frozen_layers": 1, "freeze_embeddings": True},
            "it always trains the last layer that all",
        ),
    ],
)
def test_flags_that_leave_nothing_to_decide_are_refused(trainer_of, arguments, message):
    with pytest.raises(ValueError, match=message):
        trainer_of(**{"adaptive_freezing": True, **arguments})


def test_what_was_frozen_and_when_is_told(start, tmp_path, caplog):
    trainer = start(**ALL_AT_ONCE)
    with caplog.at_level(logging.INFO, "mtsbert"):
        metrics = trainer.train().metrics
    assert "Step 8: the embeddings and the lowest 3 of 4 layers are frozen from here on" in caplog.text
    frozen = {key: value for key, value in metrics.items() if key.startswith("frozen_from_step_")}
    assert frozen == {f"frozen_from_step_{name}": 8 for name in [*LOWEST_TWO, "encoder.layer.2"]}
    numbers = [line["num_frozen_layers"] for line in trainer.state.log_history if "loss" in line]
    assert numbers == [0] * 7 + [3] * 17
    trainer.create_model_card()
    lines = (tmp_path / "run" / "README.md").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if "encoder.layer" in line and "frozen from step 8 on" in line]) == 3


@pytest.mark.parametrize(
    ("num_epochs", "flags", "is_cached"),
    [
        (6, {}, True),  # four epochs are left
        (3, {}, False),  # one epoch
        (3, {"feature_cache": True}, True),
        (6, {"feature_cache": False}, False),
    ],
)
def test_frozen_layers_are_computed_once_where_enough_epochs_are_left(start, tmp_path, num_epochs, flags, is_cached):
    trainer = start(**ALL_AT_ONCE | {"num_train_epochs": num_epochs}, **flags)
    was_training = []
    attention = trainer.model.encoder.encoder.layer[2].attention
    attention.register_forward_hook(lambda *_: was_training.append(trainer.model.training))
    trainer.train()
    assert trainer.num_cached_layers == (3 if is_cached else 0)
    assert sum(was_training) == (8 if is_cached else 4 * num_epochs)
    assert not list((tmp_path / "cache").glob("*/states.bin"))  # of no use to any other run


def test_a_cache_that_gains_little_waits_for_the_next_decision(start, model):
    trainer = start(of=model, **ALL_AT_ONCE | {"num_train_epochs": 4})  # of two layers, the lower one, for two epochs
    trainer.train()
    assert set(trainer.freezing.settled) == {"encoder.embeddings", "encoder.layer.0"}
    assert trainer.num_cached_layers == 0


class CachedLayers(TrainerCallback):
    """How many layers each optimizer step of a Trainer skips."""

    def __init__(self):
        self.trainer, self.numbers = None, []

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.numbers.append(self.trainer.num_cached_layers)


def test_what_is_frozen_from_the_start_is_computed_once_and_again_when_it_grows(start):
    flags = ALL_AT_ONCE | {"freeze_embeddings": True, "num_frozen_layers": 1}
    watch = CachedLayers()
    watch.trainer = trainer = start(watch, **flags)
    trainer.train()
    assert watch.numbers == [1] * 8 + [3] * 16
    assert set(trainer.freezing.settled) == {"encoder.layer.1", "encoder.layer.2"}


def test_the_distillation_of_the_embedding_is_one_more_task(start, model_on, tmp_path, tasks):
    model_on(BertConfig(**SMALL | {"num_hidden_layers": 4}))
    layered = MTSBertModel.from_encoder(str(tmp_path / "encoder"), tasks=tasks, num_task_layers=1)
    trainer = start(of=layered, **ALL_AT_ONCE, embedding_distillation=1.0)
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    assert trainer.adaptive_freezing.gradients.tasks == ["topic", "ner", "embedding"]
    assert trainer.freezing.settled == dict.fromkeys(LOWEST_TWO, 8)  # the last layer that the tasks share is trained
    assert not any(torch.equal(weight, before[name]) for name, weight in trainer.model.state_dict().items())


def test_the_answers_of_a_teacher_are_one_more_task(start, model, tokenizer, tmp_path):
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "teacher")
    trainer = start(**ALL_AT_ONCE, teacher=str(tmp_path / "teacher"))
    trainer.train()
    gradients = trainer.adaptive_freezing.gradients
    assert gradients.tasks == ["topic", "ner", TEACHER]
    assert gradients.gradients[TEACHER].norm() > 0
    assert set(trainer.freezing.settled.values()) == {8}


def test_a_task_without_any_label_does_not_keep_layers_from_freezing(start, features):
    unlabelled = features.map(lambda row: {"ner": [-100] * len(row["ner"])})
    trainer = start(**ALL_AT_ONCE, train_dataset=unlabelled)
    trainer.train()
    assert set(trainer.freezing.settled.values()) == {8}


def test_a_task_without_any_weight_decides_nothing(start):
    trainer = start(**ALL_AT_ONCE, task_weights={"ner": 0.0})
    trainer.train()
    assert trainer.adaptive_freezing.gradients.tasks == ["topic"]
    assert set(trainer.freezing.settled.values()) == {8}


def test_answers_without_any_weight_decide_nothing(start, model, tokenizer, tmp_path):
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "teacher")
    trainer = start(**SETTINGS | {"max_steps": 1}, teacher=str(tmp_path / "teacher"))
    trainer.args.distillation_weights = {"topic": 0.0, "ner": 0.0}  # as in a trial of a search
    trainer.train()
    assert trainer.adaptive_freezing.gradients.tasks == ["topic", "ner"]


@pytest.mark.parametrize("arguments", [{"adaptive_freezing": True}, {"lora_r": 2}])
@pytest.mark.parametrize("how", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_weights_that_the_launcher_shards_are_refused_before_the_first_step(trainer_of, how, arguments):
    """`accelerate launch` sets neither `fsdp` nor `deepspeed`."""
    trainer = trainer_of(**arguments)
    setattr(trainer, how, True)
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}` .* FSDP"):
        trainer.train()


def test_checkpoints_that_are_not_reentrant_can_be_measured(start):
    checkpoints = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": False}}
    trainer = start(**ALL_AT_ONCE, **checkpoints, padding_free=False)
    trainer.train()
    assert set(trainer.freezing.settled.values()) == {8}


def test_a_step_that_is_left_out_is_not_measured(start):
    trainer = start(**SETTINGS | {"max_steps": 3}, skip_nonfinite=True)
    calls = []

    def poison(head, args, logits):
        calls.append(1)
        return logits * torch.nan if len(calls) == 1 else logits

    trainer.model.heads["topic"].register_forward_hook(poison)
    trainer.train()
    norms = trainer.adaptive_freezing.state()["norms"]
    assert {task: len(of_task) for task, of_task in norms.items()} == {"topic": 2, "ner": 2}
    assert torch.tensor([norms["topic"], norms["ner"]]).isfinite().all()


@pytest.mark.parametrize("is_adaptive", [False, True])
def test_a_checkpoint_is_not_resumed_with_and_without_it(start, tmp_path, is_adaptive):
    start(**SETTINGS | {"max_steps": 1, "adaptive_freezing": is_adaptive}, save_strategy="steps", save_steps=1).train()
    other = start(**SETTINGS | {"max_steps": 2, "adaptive_freezing": not is_adaptive})
    with pytest.raises(ValueError, match="`adaptive_freezing`, and this run is with"):
        other.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))


def test_an_encoder_that_hides_its_layers_is_refused(trainer_of, model):
    model.encoder.encoder.layer = torch.nn.Sequential(*model.encoder.encoder.layer)
    with pytest.raises(ValueError, match="`adaptive_freezing` and `layer_decay` cannot be used with it"):
        trainer_of(adaptive_freezing=True)
