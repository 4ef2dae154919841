"""Recipes and flags: one way in, flags win, mistakes are named."""

import subprocess
import sys

import pytest

from mtl.labels import check_recipe_tasks
from mtl.recipe import build_parser, parse_arguments


def test_a_recipe_fills_the_arguments_with_the_right_types(recipe):
    path = recipe(learning_rate="5e-5", warmup_steps=0.1, freeze_heads=["topic"], task_weights={"ner": 2})
    model_args, data_args, training_args = parse_arguments(["--config", str(path)])
    assert training_args.learning_rate == 5e-5
    assert training_args.warmup_steps == 0.1
    assert training_args.freeze_heads == ["topic"]
    assert training_args.task_weights == {"ner": 2}
    assert training_args.do_train is True
    assert list(data_args.tasks) == ["topic", "ner"]
    assert model_args.new_model_settings == {}


def test_flags_win_over_the_recipe(recipe):
    path = recipe(learning_rate=5e-5, do_train=True)
    flags = ["--learning_rate", "1e-3", "--do_train", "False", "--do_eval", "--tasks", '{"topic": {}}']
    _, data_args, training_args = parse_arguments([*flags, "--config", str(path)])
    assert (training_args.learning_rate, training_args.do_train, training_args.do_eval) == (1e-3, False, True)
    assert data_args.tasks == {"topic": {}}


def test_an_empty_value_means_the_default(recipe, tmp_path):
    path = recipe()
    path.write_text(path.read_text() + "head_learning_rate:\n")
    assert parse_arguments(["--config", str(path)])[2].head_learning_rate is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rat": 1}, "unknown key 'learning_rat'. Did you mean 'learning_rate'"),
        ({"config": "x"}, "unknown key 'config'"),
        ({"zzzz": 1}, "unknown key 'zzzz'. `run_mtl.py --help` lists"),
        ({"datasets": None}, "names no `datasets`"),
        ({"datasets": ["a"]}, "is not JSON|must be a mapping"),
        ({"encoder_name_or_path": None}, "Name what to start from"),
        ({"max_length": 0}, "`max_length` is 0; it must be at least 1"),
        ({"max_train_samples": -3}, "`max_train_samples` is -3"),
        ({"precision": "int4"}, "`precision` is 'int4'; allowed are"),
        ({"precision": "fp32", "bf16": True}, "--bf16 contradicts `precision: fp32`"),
        ({"hub_token": "secret"}, "--hub_token is refused.*HF_TOKEN"),
        ({"step_decay_every": 0}, "`step_decay_every` is 0"),
        ({"step_decay_factor": 2.0}, "`step_decay_factor` is 2.0"),
        ({"head_learning_rate": -1.0}, "`head_learning_rate` is -1.0"),
        ({"num_frozen_layers": -1}, "`num_frozen_layers` is -1"),
        ({"early_stopping_patience": 0}, "`early_stopping_patience` is 0"),
        ({"early_stopping_patience": 2}, "needs `load_best_model_at_end: true`"),
        ({"task_weights": {"ner": -1}}, "gives 'ner' the weight -1"),
        ({"dataset_sampling": "random"}, "`dataset_sampling` is 'random'; allowed are"),
        ({"sampling_temperature": 0.5}, "`sampling_temperature` is 0.5; it must be at least 1"),
        (
            {"dataset_sampling": "weights"},
            "`dataset_sampling: weights` and `sampling_weights`, not all 0, go together",
        ),
        ({"sampling_weights": {"news": 1}}, "`dataset_sampling: weights` and `sampling_weights`"),
        ({"dataset_sampling": "weights", "sampling_weights": {"news": -1}}, "gives 'news' the weight -1"),
        (
            {"train_sampling_strategy": "batch_rebalance"},
            "`train_sampling_strategy` is 'batch_rebalance'; allowed are",
        ),
        ({"train_sampling_strategy": "sequential", "dataset_sampling": "round_robin"}, "leaves nothing for"),
        ({"label_smoothing_factor": 0.1}, "give a task its own `label_smoothing`"),
        ({"model_name_or_path": "x", "pooling": "max"}, r"\['pooling'\] are settings of a new model"),
        (
            {"gradient_aggregator": "Sum", "loss_balancing": "uncertainty"},
            "cannot be used with `loss_balancing: uncertainty`",
        ),
        ({"task_weights": {"ner": "much"}}, "gives 'ner' the weight 'much'"),
    ],
)
def test_what_cannot_be_is_refused(recipe, changes, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(["--config", str(recipe(**changes))])


@pytest.mark.parametrize(
    "content",
    ["seed: 1\nseed: 2\n", "tasks:\n  topic: {type: a}\n  topic: {type: b}\n", "tasks: {topic: 1, topic: 2}\n"],
)
def test_a_key_that_stands_twice_is_refused(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"'(seed|topic)' stands twice in one mapping"):
        parse_arguments(["--config", str(path)])
    with pytest.raises(ValueError, match="'topic' stands twice"):
        parse_arguments(["--encoder_name_or_path", "x", "--tasks", '{"topic": {}, "topic": {}}'])


@pytest.mark.parametrize(
    ("content", "message"),
    [("- a\n- b\n", "must be a mapping of flags to values; got list"), ("a: [", "is not YAML")],
)
def test_a_recipe_that_is_no_mapping_is_refused(tmp_path, content, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        parse_arguments(["--config", str(path)])


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"Recipe .*nowhere.yaml cannot be read"):
        parse_arguments(["--config", str(tmp_path / "nowhere.yaml")])


def test_a_mapping_on_the_command_line_must_be_json(recipe):
    with pytest.raises(ValueError, match="--task_weights is not JSON"):
        parse_arguments(["--config", str(recipe()), "--task_weights", "ner=2"])


def test_a_value_of_the_wrong_type_stops_with_its_name(recipe, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--config", str(recipe(num_train_epochs="three"))])
    assert "--num_train_epochs" in capsys.readouterr().err


def test_every_flag_of_ours_is_explained():
    ours = {"task_weights", "freeze_encoder", "tasks", "datasets", "prepare", "encoder_name_or_path", "precision"}
    helps = {action.dest: action.help for action in build_parser()._actions}
    assert all(len(helps[name]) > 40 for name in ours)


def test_help_reads_as_a_manual(root):
    done = subprocess.run([sys.executable, "run_mtl.py", "--help"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "flags win over the recipe" in done.stdout
    assert "package:NAME/FOLDER" in " ".join(done.stdout.split())


RECIPES = {
    "quickstart": ["topic", "ner"],
    "ag_news_minilm": ["topic", "ner"],
    "ag_news": ["topic", "ner"],
    "sbert": ["similarity"],
    "nli": ["entailment"],
    "topic_sentiment": ["topic", "sentiment"],
    "all_tasks": ["topic", "ner", "sentiment", "entailment", "similarity"],
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_of_the_repository_can_be_parsed(root, name, tmp_path):
    path = root / "recipes" / f"{name}.yaml"
    _, data_args, training_args = parse_arguments(["--config", str(path), "--output_dir", str(tmp_path)])
    check_recipe_tasks(data_args.tasks)
    assert list(data_args.tasks) == RECIPES[name]
    assert training_args.metric_for_best_model == "eval_composite"


def test_no_recipe_is_left_out(root):
    assert {path.stem for path in (root / "recipes").glob("*.yaml")} == set(RECIPES)
