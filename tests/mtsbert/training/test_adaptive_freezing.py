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
    ("topic", "ner", "largest", "expected"),
    [
        # Of 10, the shares of 1, 2, 3 and 4 become those of 1.1, 2.4, 3.3 and 3.2.
        ([11, 24, 33, 32], [1, 2, 3, 4], 0.201, 3),
        ([11, 24, 33, 32], [1, 2, 3, 4], 0.199, 1),  # the third changes by 0.1, and is not frozen above the second
        ([11, 24, 33, 32], [1, 2, 3, 4], 0.0, 0),
        ([1, 2, 3, 4], [12, 18, 31, 39], 0.1, 0),  # for one of the tasks, the lowest changes
        ([1, 2, 3, 4], [11, 22, 33, 34], 0.1, 1 + 2),
        (
            [10, 20, 30, 40],
            [0.1, 0.2, 0.3, 0.4],
            0.001,
            3,
        ),  # longer, shorter, and shared out as before; never the last
        ([4, 3, 2, 1], [1, 2, 3, 4], 2, 0),
        ([4, 3, 2, 1], [1, 2, 3, 4], 3, 3),
    ],
)
def test_a_layer_has_settled_if_its_share_changes_little_for_every_task(topic, ner, largest, expected):
    before = {"topic": [1.0, 2.0, 3.0, 4.0], "ner": [1.0, 2.0, 3.0, 4.0]}
    assert num_settled(before, {"topic": topic, "ner": ner}, largest + 1e-9) == expected


def test_a_single_layer_has_no_share_to_settle():
    assert num_settled({"topic": [0.3]}, {"topic": [0.3]}, 1.0) == 0


def adaptive_of(model, largest: float = 0.25, *, means=None, norms=None, **flags) -> AdaptiveFreezing:
    """For 120 steps, so that an interval has ten, with norms of the last interval and of the current one."""
    adaptive = AdaptiveFreezing(
        Freezing(model, MTLTrainingArguments("unused", adaptive_freezing=True, **flags)), largest
    )
    adaptive.begin(["topic", "ner"], num_steps=120)
    adaptive.load_state({"means": means or {}, "norms": norms or {}})
    return adaptive


def end_step(adaptive: AdaptiveFreezing, step: int) -> bool:
    return adaptive.end_step(step, lambda tensor: tensor, torch.device("cpu"))


def ending(model, largest: float = 0.25, *, step: int = 60, **norms_and_flags) -> list[str]:
    """What ends after `step` of 120 steps. Nothing is frozen yet."""
    adaptive = adaptive_of(model, largest, **norms_and_flags)
    assert not end_step(adaptive, step)
    assert not adaptive.freezing.settled
    return adaptive.ending


BEFORE = {"topic": [1.0, 2.0, 1.0, 1.0], "ner": [2.0, 1.0, 1.0, 4.0]}
# The means are 1.1, 1.8, 1.6, 0.5 and 2.0, 1.0, 0.8, 4.2, so shares of 0.2, 0.4, 0.2, 0.2 and 0.25, 0.125, 0.125, 0.5
# become 0.22, 0.36, 0.32, 0.1 and 0.25, 0.125, 0.1, 0.525.
NOW = {"topic": [[1.0, 1.8, 1.6, 0.25], [1.2, 1.8, 1.6, 0.75]], "ner": [[2.0, 1.0, 0.8, 4.2]]}
LOWEST_TWO = ["encoder.embeddings", "encoder.layer.0", "encoder.layer.1"]


def test_norms_are_averaged_and_compared_with_those_of_the_interval_before(deep_model):
    assert ending(deep_model, means=BEFORE, norms=NOW) == LOWEST_TWO
    fewer = NOW | {"ner": [[2.0, 2.0, 0.8, 3.2]]}  # a share of 0.25 instead of 0.125
    assert ending(deep_model, means=BEFORE, norms=fewer) == LOWEST_TWO[:2]


@pytest.mark.parametrize(
    ("step", "means", "norms"),
    [
        (65, BEFORE, NOW),  # within an interval
        (50, BEFORE, NOW),  # in the first half of the run
        (110, BEFORE, NOW),  # what ends has an interval to do so, and none is left after it
        (60, {}, NOW),  # with nothing to compare with
        (60, BEFORE, {"topic": NOW["topic"]}),  # no step had a label of the other task
    ],
)
def test_nothing_ends_before_all_tasks_can_be_compared_or_too_late_to_save_time(deep_model, step, means, norms):
    assert ending(deep_model, step=step, means=means, norms=norms) == []


def test_what_ends_is_frozen_an_interval_later_and_the_next_decision_is_of_the_layers_that_are_left(deep_model):
    adaptive = adaptive_of(deep_model, means=BEFORE, norms=NOW)
    end_step(adaptive, 60)
    adaptive.load_state(adaptive.state() | {"norms": NOW})  # measured while they end
    assert not end_step(adaptive, 65)
    assert end_step(adaptive, 70)
    assert adaptive.freezing.settled == dict.fromkeys(LOWEST_TWO, 70)
    frozen = [weight for name in LOWEST_TWO for weight in adaptive.freezing.parts[name].parameters]
    assert not any(weight.requires_grad for weight in frozen)
    assert adaptive.ending == ["encoder.layer.2"]  # the same shares as before
    assert adaptive.state()["norms"] == {}
    assert adaptive.state()["means"] == {"topic": [1.6, 0.5], "ner": [0.8, 4.2]}
    assert end_step(adaptive, 80)
    assert adaptive.freezing.settled == dict.fromkeys(LOWEST_TWO, 70) | {"encoder.layer.2": 80}


def test_a_layer_that_ends_learns_more_and_more_slowly(deep_model):
    adaptive = adaptive_of(deep_model, means=BEFORE, norms=NOW)
    end_step(adaptive, 60)
    steps = []
    for step in range(60, 70):
        before = copy.deepcopy(deep_model.state_dict())
        adaptive.begin_step(step)
        with torch.no_grad():
            for weight in deep_model.parameters():
                weight += 1.0
        end_step(adaptive, step + 1)
        steps.append({name: (weight - before[name]).mean().item() for name, weight in deep_model.state_dict().items()})
    for name, _ in deep_model.named_parameters():
        expected = [1 - place / 10 for place in range(10)] if is_below(name, 2) else [1.0] * 10
        assert [step[name] for step in steps] == pytest.approx(expected, abs=1e-5), name


def test_a_gradient_that_was_zero_has_changed_if_it_no_longer_is(deep_model):
    before = {"topic": [0.0, 1.0, 1.0, 1.0], "ner": [0.0, 1.0, 1.0, 1.0]}
    still = {"topic": [[0.0, 1.0, 1.4, 0.6]], "ner": [[0.0, 1.0, 1.0, 1.0]]}
    begins = still | {"ner": [[0.1, 1.0, 1.0, 1.0]]}
    assert ending(deep_model, means=before, norms=still) == LOWEST_TWO
    assert ending(deep_model, means=before, norms=begins) == []


def test_a_task_without_any_gradient_keeps_nothing_from_ending(deep_model):
    nothing = [0.0] * 4
    no_entities = {"means": BEFORE | {"ner": nothing}, "norms": {"topic": [BEFORE["topic"]], "ner": [nothing]}}
    assert ending(deep_model, **no_entities) == [*LOWEST_TWO, "encoder.layer.2"]


def test_what_flags_freeze_is_passed_over(deep_model):
    means = {task: values[1:] for task, values in BEFORE.items()}
    norms = {task: [values[1:]] for task, values in BEFORE.items()}
    flags = {"freeze_embeddings": True, "freeze_layers": [0, 2]}
    assert ending(deep_model, means=means, norms=norms, **flags) == ["encoder.layer.1"]


SETTINGS = {  # intervals of four steps, and epochs as well
    "adaptive_freezing": True,
    "per_device_train_batch_size": 2,
    "num_train_epochs": 6,
    "train_sampling_strategy": "group_by_length",
    "weight_decay": 0.1,
    "learning_rate": 1e-3,
}
ALL_AT_ONCE = SETTINGS | {"adaptive_freezing_change": 100}


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
    assert trainer.freezing.settled == dict.fromkeys([*LOWEST_TWO, "encoder.layer.2"], 16)
    assert (trainer.feature_cache is not None) == cached
    assert watch.modes == [[True] * 5] * 16 + [[False] * 4 + [True]] * 8
    for step, (before, after) in enumerate(zip(watch.weights, watch.weights[1:], strict=False), start=1):
        moved = {name for name in after if not torch.equal(after[name], before[name])}
        assert moved == {name for name in after if step < 16 or not is_below(name, 3)}, step


def test_layers_are_frozen_one_after_the_other_from_the_bottom(start):
    trainer = start(
        watch := Watch(), **SETTINGS | {"num_train_epochs": 12, "learning_rate": 0.02, "adaptive_freezing_change": 0.1}
    )
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
    assert trainer.freezing.settled == dict.fromkeys(LOWEST_TWO, 16)


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
    flags |= {"gradient_accumulation_steps": 2, "adaptive_freezing_change": 0.5}
    straight = start(**flags)
    straight.train()
    first = min(straight.freezing.settled.values())
    for checkpoint in (3, first - 4, first - 2, first, first + 3):
        resumed = start(**flags | {"save_strategy": "no"})
        resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{checkpoint}"))
        assert resumed.state.global_step == 24
        assert resumed.freezing.settled == straight.freezing.settled
        for name, weight in straight.model.state_dict().items():
            assert torch.equal(weight, resumed.model.state_dict()[name]), (checkpoint, name)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_skipping_frozen_layers_changes_nothing_but_the_time(start, model_on, encoder):
    flags = ALL_AT_ONCE | {"feature_cache_dtype": "fp32", "optim": "sgd", "learning_rate": 0.1, "num_train_epochs": 5}
    model = model_on(copy.deepcopy(ENCODERS[encoder]))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    plain, cached = (start(of=model, **flags, feature_cache=is_cached) for is_cached in (False, True))
    plain.train()
    cached.train()
    assert cached.num_cached_layers == 1
    assert plain.freezing.settled == cached.freezing.settled == dict.fromkeys(plain.freezing.settled, 16)
    for name, weight in plain.model.state_dict().items():
        assert torch.allclose(weight, cached.model.state_dict()[name], atol=1e-5), name


def test_another_training_begins_with_nothing_frozen(start):
    trainer = start(**ALL_AT_ONCE | {"num_train_epochs": 5})
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
        ({"adaptive_freezing_change": -0.1}, r"`adaptive_freezing_change` is -0\.1; it must not be negative"),
        ({"adaptive_freezing_change": float("nan")}, "`adaptive_freezing_change` is nan; it must be a finite number"),
        (
            {"adaptive_freezing": False, "adaptive_freezing_change": 0.4},
            "`adaptive_freezing_change` says when `adaptive_freezing` freezes",
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
    assert "Step 16: the embeddings and the lowest 3 of 4 layers are frozen from here on" in caplog.text
    frozen = {key: value for key, value in metrics.items() if key.startswith("frozen_from_step_")}
    assert frozen == {f"frozen_from_step_{name}": 16 for name in [*LOWEST_TWO, "encoder.layer.2"]}
    numbers = [line["num_frozen_layers"] for line in trainer.state.log_history if "loss" in line]
    assert numbers == [0] * 15 + [3] * 9
    trainer.create_model_card()
    lines = (tmp_path / "run" / "README.md").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if "encoder.layer" in line and "frozen from step 16 on" in line]) == 3


@pytest.mark.parametrize(
    ("num_epochs", "flags", "is_cached"),
    [
        (6, {}, True),  # two epochs are left
        (5, {}, False),  # one epoch
        (5, {"feature_cache": True}, True),
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
    assert sum(was_training) == (16 if is_cached else 4 * num_epochs)
    assert not list((tmp_path / "cache").glob("*/states.bin"))  # of no use to any other run


def test_a_cache_that_gains_little_waits_for_the_next_decision(start, model):
    trainer = start(of=model, **ALL_AT_ONCE)  # of two layers, the lower one, for two epochs
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
    flags = ALL_AT_ONCE | {"freeze_embeddings": True, "num_frozen_layers": 1, "num_train_epochs": 12}
    watch = CachedLayers()
    watch.trainer = trainer = start(watch, **flags)
    trainer.train()
    assert watch.numbers == [1] * 28 + [3] * 20
    assert set(trainer.freezing.settled) == {"encoder.layer.1", "encoder.layer.2"}


def test_the_distillation_of_the_embedding_is_one_more_task(start, model_on, tmp_path, tasks):
    model_on(BertConfig(**SMALL | {"num_hidden_layers": 4}))
    layered = MTSBertModel.from_encoder(str(tmp_path / "encoder"), tasks=tasks, num_task_layers=1)
    trainer = start(of=layered, **ALL_AT_ONCE, embedding_distillation=1.0)
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    assert trainer.adaptive_freezing.gradients.tasks == ["topic", "ner", "embedding"]
    assert trainer.freezing.settled == dict.fromkeys(LOWEST_TWO, 16)  # the last layer that the tasks share is trained
    assert not any(torch.equal(weight, before[name]) for name, weight in trainer.model.state_dict().items())


def test_the_answers_of_a_teacher_are_one_more_task(start, model, tokenizer, tmp_path):
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "teacher")
    trainer = start(**ALL_AT_ONCE, teacher=str(tmp_path / "teacher"))
    trainer.train()
    gradients = trainer.adaptive_freezing.gradients
    assert gradients.tasks == ["topic", "ner", TEACHER]
    assert gradients.gradients[TEACHER].norm() > 0
    assert set(trainer.freezing.settled.values()) == {16}


def test_a_task_without_any_label_does_not_keep_layers_from_freezing(start, features):
    unlabelled = features.map(lambda row: {"ner": [-100] * len(row["ner"])})
    trainer = start(**ALL_AT_ONCE, train_dataset=unlabelled)
    trainer.train()
    assert set(trainer.freezing.settled.values()) == {16}


def test_a_task_without_any_weight_decides_nothing(start):
    trainer = start(**ALL_AT_ONCE, task_weights={"ner": 0.0})
    trainer.train()
    assert trainer.adaptive_freezing.gradients.tasks == ["topic"]
    assert set(trainer.freezing.settled.values()) == {16}


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
    assert set(trainer.freezing.settled.values()) == {16}


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
