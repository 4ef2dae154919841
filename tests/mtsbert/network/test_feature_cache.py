"""Tests that training with the feature cache is the same, whatever happens to its files."""

import copy
import logging
import os
import resource

import pytest
import torch
from transformers import FNetConfig, LongformerConfig, SqueezeBertConfig, TrainerCallback, XLNetConfig

from modeling_mtsbert import MTSBertModel
from mtsbert.data.features import build_features
from mtsbert.network.disk_cache import STATES_FILE
from tests.mtsbert.conftest import ENCODERS, SMALL
from tests.mtsbert.rows import ACTIVATION_CHECKPOINTING, examples_of


FROZEN_ENCODER = {"freeze_encoder": True}
LOWER_HALF = {"freeze_embeddings": True, "num_frozen_layers": 1, "feature_cache": True}


@pytest.fixture
def train(trainer_of, model, tmp_path):
    """Trains a copy of the model for two epochs and returns the trainer; the cache is in fp32."""

    def run(*, of: MTSBertModel = model, **arguments):
        settings = {
            "num_train_epochs": 2,
            "per_device_train_batch_size": 4,
            "feature_cache_dir": str(tmp_path / "cache"),
            "feature_cache_dtype": "fp32",
            "train_sampling_strategy": "group_by_length",
            **arguments,
        }
        trainer = trainer_of(of=copy.deepcopy(of), **settings)
        trainer.train()
        return trainer

    return run


def assert_same_weights(one, other, tolerance: float = 1e-5) -> None:
    for name, weight in one.model.state_dict().items():
        assert torch.allclose(weight, other.model.state_dict()[name], atol=tolerance), name


def encoded_texts(trainer) -> int:
    """How often the encoder's first layer runs in another training, cache building included."""
    layer, calls = trainer.model.encoder.encoder.layer[0], []
    hook = layer.register_forward_hook(lambda *_: calls.append(1))
    trainer.train()
    hook.remove()
    return len(calls)


@pytest.mark.parametrize("flags", [FROZEN_ENCODER, LOWER_HALF, LOWER_HALF | {ACTIVATION_CHECKPOINTING: True}])
def test_cached_and_uncached_training_end_with_the_same_weights(train, flags):
    cached = train(**flags, eval_strategy="no")
    assert cached.feature_cache is not None
    assert_same_weights(cached, train(**flags | {"feature_cache": False}))


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision_caches_are_nearly_as_good(train, dtype):
    cached = train(**FROZEN_ENCODER, feature_cache_dtype=dtype, optim="sgd")
    assert cached.feature_cache.states.dtype.itemsize == 2
    assert_same_weights(cached, train(**FROZEN_ENCODER, feature_cache=False, optim="sgd"), tolerance=1e-3)


def test_the_frozen_part_does_not_run_once_it_is_cached(trainer_of, tmp_path):
    settings = {"num_train_epochs": 3, "feature_cache_dir": str(tmp_path), **FROZEN_ENCODER}
    assert encoded_texts(trainer_of(**settings)) == 3  # the eight rows once in a batch, and two first looks
    assert encoded_texts(trainer_of(**settings)) == 2  # found on disk
    assert encoded_texts(trainer_of(**settings, feature_cache=False, padding_free=False)) == 3


@pytest.mark.parametrize(
    ("arguments", "is_cached"),
    [
        (FROZEN_ENCODER, True),
        (FROZEN_ENCODER | {"num_train_epochs": 1}, False),
        (FROZEN_ENCODER | {"feature_cache": False}, False),
        ({"freeze_embeddings": True, "num_frozen_layers": 1}, False),
        ({"freeze_embeddings": True, "num_frozen_layers": 2}, True),  # the whole encoder in other words
        ({}, False),
    ],
)
def test_it_is_used_where_the_whole_encoder_is_frozen_unless_the_flag_says_otherwise(train, arguments, is_cached):
    assert (train(**arguments).feature_cache is not None) == is_cached


def test_a_cached_run_evaluates_and_resumes_as_any_other(train, features, tmp_path):
    settings = FROZEN_ENCODER | {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 3}
    settings |= {"eval_strategy": "epoch", "eval_dataset": features}
    straight = train(**settings)
    resumed = train(**settings | {"num_train_epochs": 1})  # a Trainer to go on with
    resumed.args.num_train_epochs = 3
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert_same_weights(straight, resumed, tolerance=0.0)
    uncached = train(**settings | {"feature_cache": False})
    assert straight.state.log_history[-2]["eval_loss"] == pytest.approx(
        uncached.state.log_history[-2]["eval_loss"], rel=1e-4
    )


def damage_bytes(folder):
    with (folder / STATES_FILE).open("r+b") as file:
        file.seek(100)
        file.write(b"\x01\x02\x03\x04")


def cut_in_half(folder):
    file = folder / STATES_FILE
    os.truncate(file, file.stat().st_size // 2)


def write_another_description(folder):
    (folder / "cache.json").write_text('{"crc32": 1}')


def write_no_json(folder):
    (folder / "cache.json").write_text("not JSON")


@pytest.mark.parametrize("damage", [damage_bytes, cut_in_half, write_another_description, write_no_json])
def test_a_damaged_cache_is_found_and_computed_again(train, tmp_path, caplog, damage):
    sound = train(**FROZEN_ENCODER)
    (folder,) = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    content = (folder / STATES_FILE).read_bytes()
    damage(folder)
    with caplog.at_level(logging.WARNING, "mtsbert"):
        again = train(**FROZEN_ENCODER)
    assert "is damaged: it is computed again" in caplog.text
    assert (folder / STATES_FILE).read_bytes() == content
    assert_same_weights(sound, again, tolerance=0.0)


def test_what_a_killed_run_left_is_no_cache(train, tmp_path):
    sound = train(**FROZEN_ENCODER)
    (folder,) = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    folder.rename(folder.with_suffix(".partial"))
    cut_in_half(folder.with_suffix(".partial"))
    assert_same_weights(sound, train(**FROZEN_ENCODER), tolerance=0.0)
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()] == [folder.name]


def test_other_weights_texts_or_formats_have_a_cache_of_their_own(
    train, model, trainer_of, examples, tasks, tokenizer, tmp_path
):
    train(**FROZEN_ENCODER)
    train(**FROZEN_ENCODER, feature_cache_dtype="fp16")
    train(**LOWER_HALF)
    with torch.no_grad():
        model.encoder.encoder.layer[1].output.dense.bias[0] += 1e-3
    train(**FROZEN_ENCODER)
    train(**LOWER_HALF)  # the layer that changed is not in its frozen part: found
    trainer = trainer_of(**FROZEN_ENCODER, num_train_epochs=2, feature_cache_dir=str(tmp_path / "cache"))
    trainer.train_dataset, _ = build_features(
        examples_of(examples, tasks), tasks, tokenizer, max_length=8, split="train"
    )
    trainer.train()
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 5


def test_number_formats_and_projections_below_the_layers_are_part_of_the_key(train, model_on, tmp_path):
    def folders() -> int:
        return len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()])

    model = model_on(ENCODERS["electra"])
    train(of=model, **LOWER_HALF)
    train(of=model, **LOWER_HALF, precision="bf16")
    assert folders() == 2
    with torch.no_grad():
        model.encoder.embeddings_project.bias[0] += 1e-3
    train(of=model, **LOWER_HALF)
    assert folders() == 3


def test_caches_beyond_the_limit_make_room_and_one_that_is_too_large_is_not_written(train, tmp_path, caplog):
    train(**FROZEN_ENCODER)
    (first,) = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    size = (first / STATES_FILE).stat().st_size
    train(**LOWER_HALF, feature_cache_gb=1.5 * size / 1e9)
    (second,) = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert second != first
    with caplog.at_level(logging.WARNING, "mtsbert"):
        assert train(**FROZEN_ENCODER, feature_cache_gb=0.9 * size / 1e9).feature_cache is None
    assert "is more than `feature_cache_gb`" in caplog.text


def test_a_full_disk_means_training_without_a_cache_and_one_warning(train, caplog, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, limits[1]))  # no file may grow beyond 4,000 bytes
    try:
        with caplog.at_level(logging.WARNING, "mtsbert"):
            trainer = train(**FROZEN_ENCODER)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert trainer.feature_cache is None
    assert caplog.text.count("No feature cache") == 1
    assert trainer.state.global_step == 4
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


TWO_RUNS = """
import sys
from pathlib import Path
import torch
from datasets import load_from_disk
from modeling_mtsbert import MTSBertModel
from mtsbert.network.disk_cache import DiskCache
from mtsbert.network.feature_cache import open_feature_cache
from mtsbert.network.frozen_prefix import FrozenPrefix

folder = Path(sys.argv[1])
model = MTSBertModel.from_pretrained(folder).requires_grad_(False)
runs = []
run = FrozenPrefix.run
FrozenPrefix.run = lambda self, *texts: runs.append(1) or run(self, *texts)
cache = open_feature_cache(
    FrozenPrefix(model), load_from_disk(folder / "features"), disk=DiskCache(folder / "cache", limit_gb=1),
    dtype=torch.float32, batch_size=1, padding_side="right", autocast=lambda: torch.autocast("cpu", enabled=False),
)
print(len(runs), cache.states.sum().item())
"""


def test_of_two_runs_that_start_together_one_computes_and_both_read(model, features, tmp_path, root, warm_python):
    model.save_pretrained(tmp_path)
    features.save_to_disk(tmp_path / "features")
    script = tmp_path / "run.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(root)!r})\n" + TWO_RUNS)
    done = warm_python.run(script, tmp_path, num_ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    answers = [line.split() for line in done.stdout.splitlines()]
    looks = sorted(int(number) for number, _ in answers)
    assert looks[0] < looks[1] == looks[0] + 8  # one text at a time
    assert answers[0][1] == answers[1][1]


def test_pairs_and_several_datasets_are_cached(trainer_of, encoder_folder, tokenizer, tmp_path):
    tasks = {
        "topic": {"type": "sequence_classification", "labels": ["a", "b"]},
        "same": {"type": "pair_classification", "labels": ["no", "yes"]},
        "near": {"type": "pair_similarity", "score_range": [0, 1]},
    }
    texts = ["Oslo beat Lima", "Shares of Nimbus Labs rise in Oslo", "Lima hosts the race", "The final ends"]
    rows = [{"text": text, "topic": "ab"[i % 2], "dataset": 0} for i, text in enumerate(texts)]
    rows += [
        {"text": text, "text_pair": texts[i - 1], "same": ["no", "yes"][i % 2], "near": i / 4, "dataset": 1}
        for i, text in enumerate(texts)
    ]
    rows.append({"text": texts[0], "text_pair": None, "topic": "b", "dataset": 1})  # among pairs
    features, _ = build_features(
        examples_of(rows, tasks), tasks, tokenizer, max_length=32, split="train", dataset_names=["one", "two"]
    )
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks)
    found = []
    for cached in (True, False):
        trainer = trainer_of(
            of=copy.deepcopy(model), num_train_epochs=2, per_device_train_batch_size=5, freeze_encoder=True,
            feature_cache=cached, feature_cache_dir=str(tmp_path), feature_cache_dtype="fp32",
            train_sampling_strategy="random", dataset_sampling="round_robin", train_dataset=features,
        )  # fmt: skip
        trainer.train()
        found.append(trainer)
    assert found[0].feature_cache is not None
    assert_same_weights(*found)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_other_encoders_are_cached_too(model_on, train, encoder):
    model = model_on(ENCODERS[encoder])
    cached = train(of=model, **LOWER_HALF)
    assert cached.feature_cache is not None
    assert_same_weights(cached, train(of=model, **LOWER_HALF | {"feature_cache": False}))


@pytest.mark.parametrize(
    "config",
    [LongformerConfig(**SMALL, attention_window=8), XLNetConfig(d_model=32, n_layer=2, n_head=2, d_inner=64)],
)
def test_layers_that_do_not_give_one_state_for_each_token_are_not_cached(model_on, train, config):
    with pytest.raises(ValueError, match="Model do not give one state for each token, in order"):
        train(of=model_on(config), **LOWER_HALF)


def test_layers_that_are_not_run_as_modules_are_not_cached(model_on, train):
    model = model_on(SqueezeBertConfig(**SMALL | {"num_attention_heads": 4}, embedding_size=32))
    with pytest.raises(ValueError, match="`feature_cache`: SqueezeBertModel does not run its layers as modules"):
        train(of=model, **LOWER_HALF)


def test_states_that_depend_on_padding_are_not_cached(model_on, train, caplog):
    model = model_on(FNetConfig(hidden_size=32, num_hidden_layers=2, intermediate_size=64))
    with caplog.at_level(logging.WARNING, "mtsbert"):
        assert train(of=model, **FROZEN_ENCODER).feature_cache is None  # not asked for: a warning
    assert "No feature cache: `feature_cache`: the states of FNetModel depend on how a text is padded" in caplog.text
    with pytest.raises(ValueError, match="depend on how a text is padded"):
        train(of=model, **FROZEN_ENCODER, feature_cache=True)


def test_left_padding_moves_the_positions_of_bert_so_nothing_is_cached(trainer_of, tmp_path):
    trainer = trainer_of(**FROZEN_ENCODER, num_train_epochs=2, feature_cache_dir=str(tmp_path))
    trainer.processing_class.padding_side = "left"
    try:
        trainer.train()
    finally:
        trainer.processing_class.padding_side = "right"
    assert trainer.feature_cache is None


def test_the_cache_is_of_the_weights_that_a_resumed_run_loads(trainer_of, model, tmp_path):
    untrained = copy.deepcopy(model)
    trainer_of(num_train_epochs=1, save_strategy="epoch", learning_rate=0.1).train()
    runs = []
    for cached in (True, False):
        trainer = trainer_of(
            of=copy.deepcopy(untrained), **FROZEN_ENCODER, num_train_epochs=3, feature_cache=cached,
            feature_cache_dir=str(tmp_path / "cache"), feature_cache_dtype="fp32",
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
        runs.append(trainer)
    assert_same_weights(*runs)


def test_a_second_training_without_a_cache_does_not_read_the_first_one_s(trainer_of, model, tmp_path):
    runs = []
    for cached in (True, False):
        trainer = trainer_of(
            of=copy.deepcopy(model), **FROZEN_ENCODER, num_train_epochs=2, feature_cache=cached,
            feature_cache_dir=str(tmp_path), feature_cache_dtype="fp32",
        )  # fmt: skip
        trainer.train()
        trainer.args.feature_cache = False
        trainer.train()
        runs.append(trainer)
    assert_same_weights(*runs)
    assert "input_ids" in next(iter(runs[0].get_train_dataloader()))


def test_a_copy_of_the_model_in_training_is_a_model_of_its_own(trainer_of, model, tmp_path):
    class Copy(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            self.copied = copy.deepcopy(kwargs["model"])

    trainer = trainer_of(**LOWER_HALF, num_train_epochs=2, feature_cache_dir=str(tmp_path))
    trainer.add_callback(callback := Copy())
    trainer.train()
    copied = callback.copied.eval()
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
        assert not copied(torch.tensor([[2, 5, 3]])).last_hidden_state.any()
        assert model.eval()(torch.tensor([[2, 5, 3]])).last_hidden_state.any()
    assert "forward" not in vars(model.encoder)


def test_a_training_that_breaks_off_leaves_the_model_as_it_was(trainer_of, model, tmp_path):
    class Break(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    trainer = trainer_of(**LOWER_HALF, num_train_epochs=2, feature_cache_dir=str(tmp_path))
    trainer.add_callback(Break())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert not [name for name, module in model.named_modules() if "forward" in vars(module)]
    assert "input_ids" in next(iter(trainer.get_train_dataloader()))


def test_an_encoder_that_does_more_than_its_layers_is_refused(trainer_of, model):
    def add_embeddings_at_the_end(module, inputs, output):
        output.last_hidden_state = output.last_hidden_state + inputs[0]

    model.encoder.encoder.register_forward_hook(add_embeddings_at_the_end)
    with pytest.raises(ValueError, match="cannot pass over the frozen layers of BertModel"):
        trainer_of(**LOWER_HALF).train()


def test_frozen_layers_that_use_trained_parameters_are_refused(trainer_of, model):
    frozen, trained = model.encoder.encoder.layer
    frozen.register_forward_pre_hook(lambda module, inputs: (inputs[0] + trained.output.dense.bias,))
    with pytest.raises(ValueError, match="frozen layers of BertModel use parameters that are trained"):
        trainer_of(**LOWER_HALF).train()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"feature_cache": True}, "`feature_cache` needs a frozen lower end of the encoder"),
        ({"feature_cache": True, "num_frozen_layers": 1}, "`feature_cache` needs a frozen lower end"),
        ({"feature_cache_dtype": "int4"}, "`feature_cache_dtype` is 'int4'"),
        ({"feature_cache_gb": 0}, "`feature_cache_gb` is 0"),
    ],
)
def test_flags_that_make_no_sense_are_refused(train, arguments, message):
    with pytest.raises(ValueError, match=message):
        train(**arguments)


def test_a_cache_is_computed_and_read_under_autocast(train):
    cached = train(**FROZEN_ENCODER, precision="bf16", optim="sgd")
    assert cached.feature_cache is not None
    uncached = train(**FROZEN_ENCODER, precision="bf16", feature_cache=False, optim="sgd")
    assert_same_weights(cached, uncached, tolerance=1e-3)
