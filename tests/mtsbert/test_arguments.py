"""Tests the arguments of training as they are given in Python; `test_recipe.py` has those of a recipe."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from transformers import Seq2SeqTrainingArguments, TrainingArguments

from mtsbert import arguments
from mtsbert.arguments import MTLTrainingArguments


@pytest.mark.parametrize(
    ("native", "asked", "expected"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"precision": "fp32"}, False),
        (False, {"precision": "bf16"}, True),
        (False, {"bf16": True}, True),
    ],
)
def test_bf16_is_used_where_it_is_native_or_asked_for(tmp_path, monkeypatch, native, asked, expected):
    monkeypatch.setattr(arguments, "has_native_bf16", lambda use_cpu: native)
    assert MTLTrainingArguments(output_dir=str(tmp_path), **asked).bf16 is expected


@pytest.mark.parametrize("sizes", [[0, 8], [8, 8]])
def test_matryoshka_sizes_that_cannot_be_are_refused(sizes, tmp_path):
    with pytest.raises(
        ValueError, match=r"`matryoshka_dims` is .*; it must be whole numbers of at least 1, each once"
    ):
        MTLTrainingArguments(str(tmp_path), matryoshka_dims=sizes)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"freeze_layers": 0}, [0]),
        ({"freeze_layers": (1, 0)}, [1, 0]),
        ({"freeze_layers": range(2)}, [0, 1]),
        ({"freeze_layers": np.arange(2)}, [0, 1]),
        ({"freeze_layers": []}, []),
        ({"freeze_layers": None}, None),
        ({"freeze_heads": "topic"}, ["topic"]),
        ({"lora_target": "all-linear", "lora_r": 4}, ["all-linear"]),
        ({"lora_target": ["query", "value"], "lora_r": 4}, ["query", "value"]),
        ({"matryoshka_dims": 16}, [16]),
        ({"num_frozen_layers": np.int64(1)}, 1),
        ({"head_learning_rate": 1}, 1),
        ({"head_learning_rate": np.float32(0.5)}, 0.5),
        ({"freeze_encoder": 1}, True),
        ({"calibration": np.False_}, False),
        ({"thaw_at": 0.5}, "0.5"),
        ({"thaw_at": 3}, "3"),
        ({"feature_cache_dir": Path("a", "b")}, str(Path("a", "b"))),
    ],
)
def test_values_are_taken_as_a_recipe_gives_them(tmp_path, given, expected):
    found = getattr(MTLTrainingArguments(str(tmp_path), **given), next(iter(given)))
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"freeze_layers": [0.0]}, r"`freeze_layers` is \[0.0\]; each must be a whole number"),
        ({"freeze_layers": "0"}, "`freeze_layers` is '0'; each must be a whole number"),
        ({"freeze_layers": [True]}, "each must be a whole number"),
        ({"freeze_layers": {0: 1}}, "`freeze_layers` is {0: 1}; each must be a whole number"),
        ({"matryoshka_dims": [2.5]}, r"`matryoshka_dims` is \[2.5\]; each must be a whole number"),
        ({"freeze_heads": [0]}, "each must be text"),
        ({"num_frozen_layers": 1.5}, "`num_frozen_layers` is 1.5; it must be a whole number"),
        ({"num_frozen_layers": "1"}, "`num_frozen_layers` is '1'; it must be a whole number"),
        ({"num_frozen_layers": True}, "`num_frozen_layers` is True; it must be a whole number"),
        ({"num_frozen_layers": None}, "`num_frozen_layers` is None; it must be a whole number"),
        ({"lora_r": 2.5}, "`lora_r` is 2.5; it must be a whole number"),
        ({"early_stopping_patience": 1.5}, "`early_stopping_patience` is 1.5; it must be a whole number"),
        ({"layer_decay": "0.9"}, "`layer_decay` is '0.9'; it must be a number"),
        ({"freeze_modules": ["a"]}, r"`freeze_modules` is \['a'\]; it must be text"),
        ({"calibration": "false"}, "`calibration` is 'false'; it must be True or False"),
        ({"freeze_encoder": 2}, "`freeze_encoder` is 2; it must be True or False"),
        ({"thaw_at": True, "freeze_encoder": True}, "`thaw_at` is .True.; it must be a number of steps"),
        ({"learning_rate": "1e-3"}, "`learning_rate` is '1e-3'; it must be a number"),
    ],
)
def test_a_value_of_another_type_is_refused(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        MTLTrainingArguments(str(tmp_path), **given)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("head_learning_rate", {}),
        ("learning_rate", {}),
        ("embedding_distillation", {}),
        ("feature_cache_gb", {}),
        ("lora_alpha", {"lora_r": 4}),
        ("task_weights", {}),
        ("distillation_temperatures", {"teacher": "a"}),
    ],
)
def test_numbers_that_are_not_finite_are_refused_before_training(tmp_path, name, other, number):
    value = {"topic": number} if name.endswith(("weights", "temperatures")) else number
    with pytest.raises(ValueError, match=f"`{name}` is {number}.*; it must be a finite number"):
        MTLTrainingArguments(str(tmp_path), **{name: value}, **other)


def test_plain_arguments_are_checked_as_ours_are(tmp_path):
    with pytest.raises(ValueError, match="`learning_rate` is nan; it must be a finite number"):
        MTLTrainingArguments.of(TrainingArguments(str(tmp_path), learning_rate=float("nan")))


@pytest.mark.parametrize(
    ("metric", "expected"), [("eval_rating_mae", False), ("eval_topic_f1", True), ("loss", False)]
)
def test_plain_arguments_know_of_which_metric_less_is_better(tmp_path, metric, expected):
    settings = {"metric_for_best_model": metric, "load_best_model_at_end": True, "save_strategy": "epoch"}
    plain = TrainingArguments(str(tmp_path), eval_strategy="epoch", **settings)
    assert MTLTrainingArguments.of(plain).greater_is_better is expected
    plain = TrainingArguments(str(tmp_path), eval_strategy="epoch", greater_is_better=False, **settings)
    assert MTLTrainingArguments.of(plain).greater_is_better is False


def test_arguments_of_other_libraries_that_nothing_reads_are_refused(tmp_path):
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    plain = {"output_dir": str(tmp_path), "learning_rate": 1e-3, "report_to": []}
    of = MTLTrainingArguments.of
    assert of(library.SentenceTransformerTrainingArguments(**plain)).learning_rate == 1e-3
    theirs = {"batch_sampler": "no_duplicates", "multi_dataset_batch_sampler": "round_robin", "prompts": "query: "}
    for name, value in theirs.items():
        with pytest.raises(ValueError, match=rf"SentenceTransformerTrainingArguments set \['{name}'\], which are not"):
            of(library.SentenceTransformerTrainingArguments(**plain, **{name: value}))
    with pytest.raises(ValueError, match=r"Seq2SeqTrainingArguments set \['predict_with_generate'\]"):
        of(Seq2SeqTrainingArguments(**plain, predict_with_generate=True))

    @dataclass
    class Mine(TrainingArguments):
        for_my_callback: int = 0

    assert of(Mine(**plain, for_my_callback=3)).learning_rate == 1e-3
    with pytest.raises(ValueError, match=r"`args` is a dict; give `MTLTrainingArguments\(...\)`"):
        of(plain)
