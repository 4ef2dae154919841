"""Tests the Python API: in-memory datasets and the documented arguments of the Trainer."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, IterableDataset
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainingArguments, set_seed

import mtsbert
from mtsbert import (
    MTLTrainingArguments,
    MTSBertModel,
    MTSBertTrainer,
    MultiTaskCollator,
    infer_tasks,
    load_data,
)
from run_mtl import main
from tests.conftest import TASKS


TYPES = {"topic": "sequence_classification", "ner": "token_classification"}


@pytest.fixture
def news(examples) -> DatasetDict:
    """The eight rows in memory, with a label of each task missing."""
    examples[1]["topic"] = None
    examples[2]["ner"] = None
    rows = Dataset.from_list(examples)
    return DatasetDict(train=rows, validation=rows, test=rows)


@pytest.fixture
def arguments(tmp_path):
    def build(**changes) -> MTLTrainingArguments:
        settings = {"precision": "fp32", "max_steps": 2, "per_device_train_batch_size": 4, "disable_tqdm": True}
        return MTLTrainingArguments(str(tmp_path / "run"), save_strategy="no", **settings | changes)

    return build


@pytest.fixture
def fresh(encoder_folder, tasks):
    """Makes the same new model again and again."""

    def make() -> MTSBertModel:
        set_seed(0)
        return MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks)

    return make


# Public names


def test_the_public_names_are_these(root):
    assert mtsbert.__all__ == [
        "__version__",
        "MTLTrainingArguments",
        "MTSBertConfig",
        "MTSBertForSequenceClassification",
        "MTSBertForTokenClassification",
        "MTSBertModel",
        "MTSBertOutput",
        "MTSBertPipeline",
        "MTSBertTrainer",
        "MultiTaskCollator",
        "OnnxPipeline",
        "TaskData",
        "infer_tasks",
        "keep_layers",
        "load_data",
        "load_pipeline",
        "merge_adapters",
        "prepare",
        "resolve_name",
        "use_adapter",
    ]
    assert all(getattr(mtsbert, name) is not None for name in mtsbert.__all__)
    assert set(mtsbert.__all__) <= set(dir(mtsbert))
    with pytest.raises(AttributeError, match="module 'mtsbert' has no attribute 'MTSBertTainer'"):
        mtsbert.MTSBertTainer  # noqa: B018


def test_importing_the_package_imports_nothing_else(root):
    code = "import sys, mtsbert; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"], done.stderr


# A stranger's first tries


@pytest.mark.parametrize(
    ("script", "says"), [("stranger", r"[01]\.\d{3} \(4, 2\) "), ("first_tries", "all of it works")]
)
def test_a_strangers_script_needs_no_file_and_no_recipe(root, encoder_folder, tmp_path, warm_python, script, says):
    path = root / "tests" / "scripts" / f"{script}.py"  # which test_install.py runs from a wheel
    variables = {"PYTHONPATH": str(root)}
    done = warm_python.run(path, encoder_folder, tmp_path / "out", cwd=tmp_path, variables=variables)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.match(says, done.stdout.splitlines()[-1])


def test_the_strangers_script_is_short(root):
    script = (root / "tests" / "scripts" / "stranger.py").read_text(encoding="utf-8")
    assert len([line for line in script.splitlines() if line.strip()]) <= 25


def test_rows_in_memory_give_the_numbers_of_the_recipe(recipe, news_file, encoder_folder, arguments, tmp_path):
    path = recipe(do_eval=True, num_train_epochs=2, learning_rate=1e-3, logging_steps=1)
    of_recipe = main(["--config", str(path)])
    rows = Dataset.from_json(str(news_file))
    columns = {"text": "text", "label": "topic", "entities": "ner"}
    set_seed(42)
    tasks = infer_tasks(rows, TYPES, columns=columns)
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks)
    trainer = MTSBertTrainer(
        model,
        arguments(max_steps=-1, num_train_epochs=2, learning_rate=1e-3, logging_steps=1),
        train_dataset=rows,
        eval_dataset=rows,
        columns=columns,
        max_length=32,
    )
    trainer.train()
    of_memory = trainer.evaluate()
    scores = [key for key in of_memory if key.startswith("eval_") and not key.endswith(("runtime", "per_second"))]
    assert len(scores) > 8
    assert {key: of_memory[key] for key in scores} == {key: of_recipe[key] for key in scores}
    trainer.save_model(str(tmp_path / "memory"))
    ours, theirs = (load_file(tmp_path / folder / "model.safetensors") for folder in ("memory", "run"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_labels_are_inferred_from_names_values_and_spans(news):
    assert infer_tasks(news, TYPES) == TASKS
    named = news["train"].filter(lambda row: row["topic"] is not None)
    named = named.cast_column("topic", ClassLabel(names=["Sports", "Business", "World"]))
    assert infer_tasks(named, {"topic": "sequence_classification"})["topic"]["labels"] == [
        "Sports",
        "Business",
        "World",
    ]


def test_several_datasets_are_learned_from_together(news, fresh, arguments):
    topics = news["train"].select_columns(["text", "topic"]).rename_column("topic", "label")
    entities = news["train"].select_columns(["text", "ner"])
    trainer = MTSBertTrainer(
        fresh(),
        arguments(dataset_sampling="weights", sampling_weights={"topics": 1, "entities": 1}),
        train_dataset={"topics": topics, "entities": entities},
        eval_dataset={"topics": topics, "entities": entities},
        columns={"topics": {"text": "text", "label": "topic"}},
    )
    assert trainer.train_dataset["dataset"] == [0] * 8 + [1] * 8
    trainer.train()
    assert {"eval_topic_accuracy", "eval_ner_f1", "eval_composite"} <= set(trainer.evaluate())
    assert "eval_topic_accuracy" not in trainer.evaluate(entities)  # whose columns are called like its tasks
    assert "eval_ner_f1" not in trainer.evaluate({"topics": topics})
    with pytest.raises(ValueError, match=r"`sampling_weights` names \['a'\]; the training datasets are \['data'\]"):
        MTSBertTrainer(
            fresh(),
            arguments(dataset_sampling="weights", sampling_weights={"a": 1}),
            train_dataset=news["train"],
        )


def test_what_load_data_returns_is_taken_as_it_is(news, fresh, tokenizer, arguments):
    data = load_data(news, TYPES, tokenizer, max_length=32)
    assert data.tasks == TASKS
    trainer = MTSBertTrainer(fresh(), arguments(), train_dataset=data["train"], eval_dataset=data["validation"])
    assert trainer.train_dataset is data["train"]
    trainer.train()
    with pytest.raises(KeyError, match="was not tokenized"):
        load_data(news, TYPES)["train"]


def test_rows_that_are_assigned_later_are_read_as_well(news, fresh, arguments):
    trainer = MTSBertTrainer(fresh(), arguments(), train_dataset=news["train"].select([0]))
    trainer.train_dataset, trainer.eval_dataset = news["train"], news["validation"]
    metrics = trainer.evaluate()
    assert metrics["eval_topic_accuracy"] == trainer.evaluate(news["validation"])["eval_topic_accuracy"]
    trainer.train()
    assert len(trainer.train_dataset) == len(news["train"])
    assert trainer.train_dataset["input_ids"][:] == trainer.eval_dataset["input_ids"][:]
    trainer.eval_dataset = broken(news, topic="Chess")
    with pytest.raises(ValueError, match="Row 3 of dataset 'data', split 'validation': label 'Chess' is not one"):
        trainer.evaluate()


# Data in memory is checked like files


def broken(news, **columns) -> Dataset:
    rows = news["train"].to_list()
    for column, value in columns.items():
        rows[3][column] = value
    return Dataset.from_list(rows)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"topic": "Chess"}, "Row 3 of dataset 'data', split 'train': label 'Chess' is not one of task 'topic'"),
        (
            {"ner": [{"start": 0, "end": 99, "label": "GPE"}]},
            r"Row 3 of dataset 'data', split 'train': column 'ner': .*outside the text, which has 31 characters",
        ),
        (
            {"ner": [{"start": 5, "end": 2, "label": "GPE"}]},
            "Row 3 of dataset 'data', split 'train': column 'ner'",
        ),
        ({"text": " "}, "Row 3 of dataset 'data', split 'train': column 'text' has no text in it"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_before_the_first_step(news, fresh, arguments, columns, message):
    with pytest.raises(ValueError, match=message):
        MTSBertTrainer(fresh(), arguments(), train_dataset=broken(news, **columns))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda rows: rows.rename_column("text", "body"), "Dataset 'data' maps no column to 'text'; its columns are"),
        (lambda rows: rows.select_columns(["text"]), "Dataset 'data' feeds no task"),
        (lambda rows: rows.select([]), "Dataset 'data', split 'train', is empty"),
        (lambda rows: rows.to_pandas(), r"`train_dataset` is a DataFrame.*Dataset.from_pandas"),
        (lambda rows: rows.to_list(), r"`train_dataset` is a list.*Dataset.from_list"),
        (lambda rows: DatasetDict(train=rows), r"has the splits \['train'\]; give one of them, as data\['train'\]"),
        (lambda rows: {"a": rows.to_list()}, "`'a', 'train_dataset'` is a list"),
        (
            lambda rows: IterableDataset.from_generator(lambda: iter([])),
            "is a IterableDataset.*Dataset.from_generator",
        ),
    ],
)
def test_what_is_no_dataset_of_ours_is_refused(news, fresh, arguments, data, message):
    with pytest.raises(ValueError, match=message):
        MTSBertTrainer(fresh(), arguments(), train_dataset=data(news["train"]))


def test_columns_are_checked(news, fresh, arguments):
    for columns, message in (
        ({"body": "text"}, "Dataset 'data', split 'train', has no column 'body'"),
        ({"text": "text", "topic": "theme"}, "maps column 'topic' to 'theme', which is neither"),
        ({"other": {"text": "text"}}, r"`columns` names the datasets \['other'\]; there are \['data'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            MTSBertTrainer(fresh(), arguments(), train_dataset=news["train"], columns=columns)


def test_a_model_without_a_name_needs_its_tokenizer(news, config, arguments, tokenizer):
    model = MTSBertModel(config)
    with pytest.raises(
        ValueError, match="not loaded from a folder or the Hub: give its tokenizer as `processing_class`"
    ):
        MTSBertTrainer(model, arguments(), train_dataset=news["train"])
    assert MTSBertTrainer(model, arguments(), train_dataset=news["train"], processing_class=tokenizer)


# Standard arguments of the Trainer


def test_plain_training_arguments_are_taken_with_our_defaults(news, fresh, tmp_path):
    settings = {"learning_rate": 3e-4, "max_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    plain = TrainingArguments(str(tmp_path / "plain"), **settings)
    trainer = MTSBertTrainer(fresh(), plain, train_dataset=news["train"], eval_dataset=news["test"])
    assert isinstance(trainer.args, MTLTrainingArguments)
    assert (trainer.args.learning_rate, trainer.args.eval_strategy, trainer.args.max_steps) == (3e-4, "steps", 1)
    assert trainer.args.train_sampling_strategy == "group_by_length"
    assert not trainer.args.remove_unused_columns
    trainer.train()
    assert "eval_composite" in trainer.state.log_history[-2]


def test_metrics_of_the_users_stand_beside_ours(news, fresh, arguments):
    def more(prediction):
        assert prediction.predictions["ner"].shape[::2] == (8, 7)
        right = prediction.predictions["topic"].argmax(-1) == prediction.label_ids["topic"]
        return {"share": right[prediction.label_ids["topic"] >= 0].mean(), "topic_macro_f1": -1.0}

    trainer = MTSBertTrainer(
        fresh(), arguments(), train_dataset=news["train"], eval_dataset=news["test"], compute_metrics=more
    )
    metrics = trainer.evaluate()
    assert metrics["eval_share"] == pytest.approx(metrics["eval_topic_accuracy"])
    assert metrics["eval_topic_macro_f1"] == -1.0  # whoever names one of ours means it


def test_preprocessed_logits_are_what_metrics_and_predict_see(news, fresh, arguments):
    trainer = MTSBertTrainer(
        fresh(),
        arguments(),
        train_dataset=news["train"],
        eval_dataset=news["test"],
        compute_metrics=lambda prediction: {"most": int(prediction.predictions.max())},
        preprocess_logits_for_metrics=lambda logits, labels: logits["topic"].argmax(-1),
    )
    assert trainer.evaluate()["eval_most"] in (0, 1)
    assert trainer.predict(news["test"]).predictions.shape == (8,)


def test_predict_returns_the_logits_of_the_model(news, fresh, arguments, tokenizer):
    trainer = MTSBertTrainer(fresh(), arguments(per_device_eval_batch_size=3), train_dataset=news["train"])
    output = trainer.predict(news["test"])
    trainer.model.eval()
    for row, text in enumerate(news["test"]["text"]):
        with torch.no_grad():
            logits = trainer.model(**tokenizer(text, return_tensors="pt")).logits
        length = logits["ner"].shape[1]
        assert np.allclose(output.predictions["topic"][row], logits["topic"][0], atol=1e-5)
        assert np.allclose(output.predictions["ner"][row, :length], logits["ner"][0], atol=1e-5)
    assert output.label_ids["topic"].tolist() == [0, -100, 0, 1, 1, 0, 0, 1]
    assert output.metrics["test_topic_accuracy"] == trainer.evaluate(news["test"])["eval_topic_accuracy"]
    unlabelled = trainer.predict(news["test"].select_columns(["text"]))
    assert np.array_equal(unlabelled.predictions["topic"], output.predictions["topic"])
    assert "test_loss" not in unlabelled.metrics


def test_a_collator_callbacks_and_optimizers_of_the_users_are_used(news, fresh, arguments, tokenizer):
    seen = {"batches": 0, "steps": 0}

    class Collator(MultiTaskCollator):
        def __call__(self, features):
            seen["batches"] += 1
            return super().__call__(features)

    class Callback(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen["steps"] += 1

    model = fresh()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trainer = MTSBertTrainer(
        model,
        arguments(),
        data_collator=Collator(tokenizer, model.config.tasks),
        train_dataset=news["train"],
        callbacks=[Callback()],
        optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer)),
    )
    trainer.train()
    assert seen == {"batches": 2, "steps": 2}
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())  # a rate of 0


def test_a_collator_of_the_users_cannot_be_cached(news, fresh, arguments):
    trainer = MTSBertTrainer(
        fresh(),
        arguments(freeze_encoder=True, feature_cache=True),
        data_collator=lambda features: {},
        train_dataset=news["train"],
    )
    with pytest.raises(ValueError, match="a `data_collator` of yours cannot; drop one"):
        trainer.train()


def test_model_init_makes_a_model_for_every_training(news, fresh, arguments):
    made = []

    def model_init():
        made.append(fresh())
        return made[-1]

    trainer = MTSBertTrainer(
        model_init=model_init, args=arguments(freeze_embeddings=True, learning_rate=1e-2), train_dataset=news["train"]
    )
    assert len(made) == 1
    weights = []
    for _ in range(2):
        trainer.train()
        weights.append({name: weight.clone() for name, weight in trainer.model.state_dict().items()})
    assert len(made) == 3
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    start = fresh().state_dict()
    changed = {name for name in start if not torch.equal(start[name], weights[0][name])}
    assert changed
    assert not any(name.startswith("encoder.embeddings") for name in changed)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "either a `model`, or a `model_init`"),
        ({"compute_loss_func": print}, "`compute_loss_func` is not used here"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(fresh, arguments, given, message):
    model = {"model": fresh()} if given else {}
    with pytest.raises(ValueError, match=message):
        MTSBertTrainer(**model, args=arguments(), **given)


def test_models_of_different_tasks_are_refused(news, fresh, arguments):
    models = iter([fresh(), MTSBertModel.from_encoder(fresh().encoder_name_or_path)])
    trainer = MTSBertTrainer(model_init=lambda: next(models), args=arguments(), train_dataset=news["train"])
    with pytest.raises(ValueError, match="`model_init` makes models of different tasks"):
        trainer.train()


def test_a_trainer_without_training_rows_says_so(fresh, arguments):
    with pytest.raises(ValueError, match="give the Trainer a `train_dataset`"):
        MTSBertTrainer(fresh(), arguments()).train()


def test_a_card_is_written_without_a_recipe(news, fresh, arguments, tmp_path):
    trainer = MTSBertTrainer(fresh(), arguments(), train_dataset=news["train"], eval_dataset=news["validation"])
    trainer.train()
    trainer.evaluate()
    trainer.save_model()
    trainer.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text()
    assert re.search(r"\| topic +\| 7 +\| 7 +\|", card)
    assert "**data**: rows in memory." in card


def test_heads_without_training_labels_are_warned_about(news, fresh, arguments, caplog):
    topics = news["train"].select_columns(["text", "topic"])
    MTSBertTrainer(fresh(), arguments(), train_dataset=topics).train()
    assert "No training row has a label for ['ner']" in caplog.text
    caplog.clear()
    MTSBertTrainer(fresh(), arguments(freeze_encoder=True), train_dataset=topics).train()
    assert "No training row has a label" not in caplog.text


# Hyperparameter search


def test_every_trial_of_a_search_trains_the_model_it_was_given(news, fresh, arguments):
    started, trained = [], []

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, model, **kwargs):
            started.append({name: weight.clone() for name, weight in model.state_dict().items()})

        def on_train_end(self, args, state, control, model, **kwargs):
            trained.append({name: weight.clone() for name, weight in model.state_dict().items()})

    space = {"learning_rate": [1e-2, 1e-3], "freeze_encoder": [False, True]}
    import optuna

    trainer = MTSBertTrainer(
        model_init=fresh,
        args=arguments(),
        train_dataset=news["train"],
        eval_dataset=news["validation"],
        callbacks=[Watch()],
    )
    best = trainer.hyperparameter_search(
        lambda trial: {name: trial.suggest_categorical(name, values) for name, values in space.items()},
        n_trials=4,
        sampler=optuna.samplers.GridSampler(space, seed=0),
    )
    start = fresh().state_dict()
    assert len(started) == len(trained) == 4
    moved = []
    for first, last in zip(started, trained, strict=True):
        assert all(torch.equal(first[name], start[name]) for name in start)
        moved.append({name.split(".")[0] for name in start if not torch.equal(first[name], last[name])})
    assert sorted(map(len, moved)) == [1, 1, 2, 2]  # the heads alone, or the encoder too
    assert set(best.hyperparameters) == set(space)
    assert 0.0 <= best.objective <= 1.0


# Folders that `save_to_disk` wrote


def test_saved_datasets_are_read_as_a_path(news, recipe, tmp_path):
    news.save_to_disk(tmp_path / "news")
    news["train"].save_to_disk(tmp_path / "rows")
    metrics = main(["--config", str(recipe(do_eval=True, datasets={"news": {"path": str(tmp_path / "news")}}))])
    assert "eval_composite" in metrics
    of_rows = recipe(datasets={"news": {"path": str(tmp_path / "rows")}})
    assert "train_loss" in main(["--config", str(of_rows)])
    with pytest.raises(
        ValueError, match=r"has none of the splits \['dev'\]; it has \['train', 'validation', 'test'\]"
    ):
        main(
            ["--config", str(recipe(datasets={"news": {"path": str(tmp_path / "news"), "splits": {"train": "dev"}}}))]
        )
    (tmp_path / "rows" / "state.json").write_text(json.dumps({}))
    with pytest.raises(ValueError, match=r"rows cannot be read \(KeyError"):
        main(["--config", str(recipe(datasets={"news": {"path": str(tmp_path / "rows")}}))])
