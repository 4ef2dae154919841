"""Tests that recipes and flags are parsed by the same code, flags override recipes, and errors are clear."""

import pytest

from mtsbert.data.labels import check_recipe_tasks
from mtsbert.recipe import build_parser, parse_arguments


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
        ({"datasets": ["a"]}, r"'datasets' must be a mapping; got \['a'\]"),
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
        (
            {"gradient_aggregator": "Sum", "loss_balancing": "uncertainty"},
            "cannot be used with `loss_balancing: uncertainty`",
        ),
        ({"task_weights": {"ner": "much"}}, "gives 'ner' the weight 'much'"),
        ({"task_weights": {"ner": float("nan")}}, "`task_weights` is nan for 'ner'; it must be a finite number"),
        ({"task_weights": {"ner": True}}, "`task_weights` is True for 'ner'; it must be a number"),
        ({"head_learning_rate": float("nan")}, "`head_learning_rate` is nan; it must be a finite number"),
        ({"learning_rate": -1.0}, "`learning_rate` is -1.0; it must be at least 0"),
        ({"per_device_train_batch_size": 0}, "`per_device_train_batch_size` is 0; it must be at least 1"),
        ({"num_train_epochs": 0}, "`num_train_epochs` is 0.0; it must be more than 0"),
        ({"seed": -1}, "`seed` is -1; it must be at least 0"),
        ({"neftune_noise_alpha": -1.0}, "`neftune_noise_alpha` is -1.0; it must be at least 0"),
        ({"seed": 2**32}, "`seed` is 4294967296; it must be at most 4,294,967,295"),
        ({"max_length": [8, 9]}, r"'max_length' must be one value; got \[8, 9\]"),
        ({"task_weights": [1]}, r"'task_weights' must be a mapping; got \[1\]"),
        ({"output_dir": {"a": 1}}, "'output_dir' must not be a mapping; got {'a': 1}"),
        (
            {"freeze_heads": ["topic", "--output_dir", "x"]},
            "a list of words that begin with no '-'; got '--output_dir'",
        ),
        ({"freeze_heads": [["topic"]]}, r"a list of words that begin with no '-'; got \['topic'\]"),
        ({"output_dir": "--"}, "'output_dir' must not be '--'"),
        ({"lr_scheduler_type": "steep"}, "Recipe .*lr_scheduler_type.*invalid choice: 'steep'"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"accelerator_config": "nowhere.json"}, r"These flags cannot be used \(FileNotFoundError: .*nowhere.json"),
        ({"bad_rows": "ignore"}, "`bad_rows` is 'ignore'; allowed are"),
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
    [
        ("- a\n- b\n", "must be a mapping of flags to values; got list"),
        ("", "must be a mapping of flags to values; got NoneType"),
        ("a: [", "is not YAML"),
        ("a: b: c", "is not YAML"),
        ("? [a]\n: b\n", "is not YAML: .*a key is no list or mapping"),
        ("seed: !!python/name:os.system\n", "is not YAML: .*could not determine a constructor"),
        ("seed: !!binary aGk=\n", "is not YAML: .*could not determine a constructor"),
        ("seed: !!int one\n", "Recipe .*invalid literal for int"),
        (f"seed: {'9' * 5_000}\n", "Recipe .*Exceeds the limit"),
        (f"tasks: {'[' * 2_000}", "Recipe .*recipe.yaml is nested too deeply"),
        ("tasks: &a\n  more: *a\n", "is not YAML: .*recursive"),
        ("tasks: {a: &a [x, *a]}\n", "Recipe .*recipe.yaml"),
        ("pooling: \0\n", "is not YAML: .*special characters are not allowed"),
    ],
)
def test_a_recipe_that_is_no_mapping_is_refused(tmp_path, content, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        parse_arguments(["--config", str(path)])


def test_a_few_aliases_do_not_make_a_recipe_endless(tmp_path):
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12))]
    path = tmp_path / "recipe.yaml"
    path.write_text("tasks:\n" + "\n".join(f"  {line}" for line in lines))
    with pytest.raises(ValueError, match=r"Recipe .*recipe.yaml: it has more than 100,000 values"):
        parse_arguments(["--config", str(path)])


def test_a_date_stays_the_text_that_it_is(recipe):
    path = recipe(tasks={"topic": {"type": "sequence_classification", "labels": ["2024-01-31", "2024-13-45"]}})
    path.write_text(path.read_text().replace("'2024", "2024").replace("31'", "31").replace("45'", "45"))
    labels = parse_arguments(["--config", str(path)])[1].tasks["topic"]["labels"]
    assert labels == ["2024-01-31", "2024-13-45"]


def test_an_empty_list_means_the_default(recipe):
    assert parse_arguments(["--config", str(recipe(freeze_heads=[]))])[2].freeze_heads is None


def test_a_recipe_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(b"seed: \xff\n")
    with pytest.raises(ValueError, match=r"Recipe .*recipe.yaml cannot be read: 'utf-8' codec"):
        parse_arguments(["--config", str(tmp_path / "recipe.yaml")])


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"Recipe .*nowhere.yaml cannot be read"):
        parse_arguments(["--config", str(tmp_path / "nowhere.yaml")])


def test_a_mapping_on_the_command_line_must_be_json(recipe):
    with pytest.raises(ValueError, match="--task_weights is not JSON"):
        parse_arguments(["--config", str(recipe()), "--task_weights", "ner=2"])


def test_a_value_of_the_wrong_type_stops_with_its_name(recipe, capsys):
    with pytest.raises(ValueError, match=r"Recipe .*recipe.yaml: argument --num_train_epochs.* 'three'"):
        parse_arguments(["--config", str(recipe(num_train_epochs="three"))])
    with pytest.raises(SystemExit):
        parse_arguments(["--config", str(recipe()), "--num_train_epochs", "three"])
    assert "--num_train_epochs" in capsys.readouterr().err


def test_every_flag_of_ours_is_explained():
    ours = {"task_weights", "freeze_encoder", "tasks", "datasets", "prepare", "encoder_name_or_path", "precision"}
    helps = {action.dest: action.help for action in build_parser()._actions}
    assert all(len(helps[name]) > 40 for name in ours)


def test_help_reads_as_a_manual(root, warm_python):
    done = warm_python.run("run_mtl.py", "--help", cwd=root)
    assert done.returncode == 0, done.stderr
    assert "flags win over the recipe" in done.stdout
    assert "package:NAME/FOLDER" in " ".join(done.stdout.split())


RECIPES = {
    "quickstart": ["topic", "ner"],
    "ag_news_minilm": ["topic", "ner"],
    "ag_news_agreed": ["topic", "ner"],
    "ag_news": ["topic", "ner"],
    "ag_news_distilled": ["topic", "ner"],
    "sbert": ["similarity"],
    "sbert_ranking": ["ranking"],
    "sbert_cosent": ["similarity"],
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
