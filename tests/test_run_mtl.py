"""Tests whole runs of the program, from a recipe to a checkpoint, and that errors are raised before the first step."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch

from modeling_mtsbert import MTSBertModel
from mtsbert.recipe import parse_arguments
from run_mtl import main
from tests.conftest import ROOT


FSDP = ROOT / "recipes" / "accelerate" / "fsdp.yaml"


def run(recipe, *flags: str, **changes) -> dict[str, float]:
    return main(["--config", str(recipe(**changes)), *flags])


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_trains_evaluates_predicts_and_saves(recipe, tmp_path, capsys):
    metrics = run(recipe, do_eval=True, do_predict=True, num_train_epochs=30, learning_rate=3e-3)
    folder = tmp_path / "run"
    assert metrics["eval_topic_accuracy"] == 1.0
    assert metrics["test_ner_f1"] > 0.9
    assert json.loads((folder / "all_results.json").read_text()) == pytest.approx(metrics)
    assert re.search(r"\| topic +\| accuracy", capsys.readouterr().out)
    model = MTSBertModel.from_pretrained(folder)
    assert list(model.config.tasks) == ["topic", "ner"]
    assert {"model.safetensors", "tokenizer.json", "modeling_mtsbert.py", "pipeline_mtsbert.py"} <= {
        path.name for path in folder.iterdir()
    }
    answers = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert answers[0]["text"] == "Ada Perez joins Nimbus Labs in Oslo"
    assert [answer["topic"]["label"] for answer in answers] == ["Business", "Sports"] * 2 + ["Sports"] + [
        "Business"
    ] * 2 + ["Sports"]
    assert all(set(answer) == {"text", "topic", "ner"} for answer in answers)


def test_a_checkpoint_can_be_evaluated_alone(recipe, tmp_path):
    trained = run(recipe, do_eval=True, num_train_epochs=3)
    before = contents(tmp_path / "run")
    flags = ["--model_name_or_path", str(tmp_path / "run"), "--do_train", "False", "--do_predict"]
    alone = run(recipe, *flags, do_eval=True, output_dir=str(tmp_path / "alone"))
    for name in ("eval_loss", "eval_topic_accuracy", "eval_ner_f1", "eval_composite"):
        assert alone[name] == pytest.approx(trained[name], rel=1e-5)
    assert sorted(path.name for path in (tmp_path / "alone").iterdir()) == ["all_results.json", "predictions.jsonl"]
    assert contents(tmp_path / "run") == before


def test_an_evaluation_alone_keeps_what_training_has_measured(recipe, tmp_path):
    path = tmp_path / "run" / "all_results.json"
    run(recipe, do_eval=True, do_predict=True, num_train_epochs=3)
    trained = json.loads(path.read_text())
    marked = trained | {"eval_topic_accuracy": 9.0, "eval_gone_accuracy": 9.0, "test_topic_accuracy": 9.0}
    path.write_text(json.dumps(marked | {"frozen_from_step_encoder.layer.0": 3}))
    flags = ["--model_name_or_path", str(tmp_path / "run" / ".." / "run"), "--do_train", "False"]
    run(recipe, *flags, do_eval=True)
    found = json.loads(path.read_text())
    assert set(found) - {"eval_model_preparation_time"} == {*trained, "frozen_from_step_encoder.layer.0"}
    assert found["eval_topic_accuracy"] == trained["eval_topic_accuracy"]
    assert found["test_topic_accuracy"] == 9.0  # this split was not measured again
    of_training = [name for name in trained if name.startswith(("train_", "num_trained", "eval_embedding_"))]
    assert {"train_loss", "num_trained_parameters", "eval_embedding_cosine"} <= set(of_training)
    assert all(found[name] == trained[name] for name in of_training)
    run(recipe, *flags, do_predict=True, do_eval=False)
    assert json.loads(path.read_text())["test_topic_accuracy"] == trained["test_topic_accuracy"]


def test_the_results_of_another_model_do_not_stay(recipe, tmp_path):
    run(recipe)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "all_results.json").write_text('{"train_loss": 9.0}')
    flags = ["--model_name_or_path", str(tmp_path / "run"), "--do_train", "False"]
    metrics = run(recipe, *flags, do_eval=True, output_dir=str(tmp_path / "other"))
    assert json.loads((tmp_path / "other" / "all_results.json").read_text()) == pytest.approx(metrics)


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_results_that_cannot_be_read_are_written_anew(recipe, tmp_path, content):
    run(recipe)
    path = tmp_path / "run" / "all_results.json"
    path.write_text(content)
    metrics = run(recipe, "--model_name_or_path", str(tmp_path / "run"), "--do_train", "False", do_eval=True)
    assert json.loads(path.read_text()) == pytest.approx(metrics)


def test_texts_without_labels_are_predicted_by_a_checkpoint_and_its_own_tasks(recipe, tmp_path):
    run(recipe)
    (tmp_path / "texts.csv").write_text("text\nLima hosts the race\nShares rise\n")
    metrics = run(
        recipe, "--model_name_or_path", str(tmp_path / "run"), "--do_train", "False", "--do_predict", tasks=None,
        output_dir=str(tmp_path / "answers"), datasets={"new": {"files": {"test": str(tmp_path / "texts.csv")}}},
    )  # fmt: skip
    assert metrics == {}
    answers = [json.loads(line) for line in (tmp_path / "answers" / "predictions.jsonl").read_text().splitlines()]
    assert [answer["text"] for answer in answers] == ["Lima hosts the race", "Shares rise"]
    assert all(set(answer) == {"text", "topic", "ner"} for answer in answers)


def test_a_checkpoint_is_evaluated_without_naming_its_tasks_again(recipe, tmp_path):
    trained = run(recipe, do_eval=True)
    flags = ["--model_name_or_path", str(tmp_path / "run"), "--do_train", "False"]
    alone = run(recipe, *flags, tasks=None, do_eval=True, output_dir=str(tmp_path / "alone"))
    assert alone["eval_composite"] == pytest.approx(trained["eval_composite"], rel=1e-5)


def test_training_goes_on_from_a_checkpoint(recipe, tmp_path):
    first = run(recipe, do_eval=True, num_train_epochs=4, learning_rate=1e-3)
    flags = ["--model_name_or_path", str(tmp_path / "run"), "--output_dir", str(tmp_path / "more")]
    more = run(recipe, *flags, do_eval=True, num_train_epochs=4, learning_rate=1e-3)
    assert more["train_loss"] < first["train_loss"]


def test_the_same_seed_gives_the_same_weights(recipe, tmp_path):
    for name in ("one", "two"):
        run(recipe, output_dir=str(tmp_path / name), seed=5)
    one, two = (MTSBertModel.from_pretrained(tmp_path / name).state_dict() for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_everything_frozen_only_evaluates_and_says_so(recipe, tmp_path, caplog):
    metrics = run(recipe, do_eval=True, freeze_encoder=True, freeze_heads=["topic", "ner"])
    assert "Everything is frozen" in caplog.text
    assert "eval_loss" in metrics
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_row_limits(recipe, caplog):
    caplog.set_level("INFO")
    run(recipe, "--max_train_samples", "5", "--max_eval_samples", "3", "--max_predict_samples", "2",
        do_eval=True, do_predict=True)  # fmt: skip
    assert [f"{n} texts" in caplog.text for n in (5, 3, 2)] == [True] * 3


def test_a_run_resumes_from_its_last_checkpoint(recipe, tmp_path):
    settings = {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 4}
    run(recipe, **settings)
    straight = MTSBertModel.from_pretrained(tmp_path / "run").state_dict()
    (tmp_path / "run" / "model.safetensors").unlink()
    run(recipe, "--resume_from_checkpoint", "True", **settings)
    resumed = MTSBertModel.from_pretrained(tmp_path / "run").state_dict()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    # A fresh run would give the same weights: what is resumed must come from the checkpoint.
    last = max((tmp_path / "run").glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    changed = MTSBertModel.from_pretrained(last)
    with torch.no_grad():
        changed.heads["topic"].classifier.bias.add_(7.0)
    changed.save_pretrained(last)
    run(recipe, "--resume_from_checkpoint", "True", **settings)
    bias = MTSBertModel.from_pretrained(tmp_path / "run").heads["topic"].classifier.bias
    assert (bias - straight["heads.topic.classifier.bias"] > 6.0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_train": False}, "Nothing to do: set `do_train`, `do_eval` or `do_predict`"),
        ({"output_dir": "/dev/null/run"}, "The output folder /dev/null/run cannot be written"),
        ({"encoder_name_or_path": "/no/such/encoder"}, "Unknown encoder '/no/such/encoder'"),
        ({"tasks": None}, "There are no `tasks`: name some in the recipe"),
        (
            {"tasks": {"topic": {"type": "sequence_classification"}}},
            "maps column 'entities' to 'ner', which is neither",
        ),
        ({"num_frozen_layers": 3}, "`num_frozen_layers` is 3; the encoder has 2 layers"),
        ({"max_length": 65}, "`max_length` is 65; this encoder reads from 3 to 64 tokens"),
        ({"prepare": {"outputs": "x"}}, r"`prepare` has unknown keys \['outputs'\]"),
        ({"prepare": {"source": "sample"}}, "`prepare` needs an 'output' folder"),
    ],
)
def test_mistakes_are_named_before_training(recipe, changes, message, monkeypatch):
    monkeypatch.setattr(
        "mtsbert.training.trainer.MTSBertTrainer.train", lambda *args, **kwargs: pytest.fail("training began")
    )
    with pytest.raises(ValueError, match=message):
        run(recipe, **changes)


@pytest.mark.parametrize("role", ["encoder_name_or_path", "embedding_reference", "teacher"])
def test_a_run_does_not_write_over_a_model_that_it_reads(recipe, encoder_folder, tmp_path, role):
    read = shutil.copytree(encoder_folder, tmp_path / "read")
    before = {path.name: path.read_bytes() for path in read.iterdir()}
    changes = {"embedding_distillation": 1.0} if role == "embedding_reference" else {}
    with pytest.raises(ValueError, match=r"`output_dir` is the folder of .*read', which the run would write over"):
        run(recipe, **{role: str(read)}, **changes, output_dir=f"{read}/../read")
    assert {path.name: path.read_bytes() for path in read.iterdir()} == before


def test_a_split_that_no_dataset_has_is_named(recipe, news_file):
    path = recipe(do_eval=True)
    _, data_args, _ = parse_arguments(["--config", str(path)])
    data_args.datasets["news"]["files"] = {"train": str(news_file)}
    with pytest.raises(ValueError, match=r"needs a 'validation' split, and no dataset has one; they have \['train'\]"):
        main(["--config", str(path), "--datasets", json.dumps(data_args.datasets)])


def test_a_run_can_go_on_with_new_tasks_and_leave_old_ones_alone(recipe, tmp_path):
    """Sentence-BERT's order: learn one task, then another on the same encoder."""
    run(recipe)
    rows = [
        {"text": "Lima wins", "text_pair": "Lima won", "sts": 1.0},
        {"text": "Oslo", "text_pair": "No", "sts": 0.0},
    ]
    (tmp_path / "sts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = ["--model_name_or_path", str(tmp_path / "run"), "--output_dir", str(tmp_path / "more")]
    metrics = run(
        recipe, *flags, tasks={"sts": {"type": "pair_similarity", "score_range": [0, 1]}}, do_eval=True,
        datasets={"sts": {"files": dict.fromkeys(("train", "validation"), str(tmp_path / "sts.jsonl"))}},
    )  # fmt: skip
    assert "eval_sts_spearman" in metrics
    first, more = (MTSBertModel.from_pretrained(tmp_path / name) for name in ("run", "more"))
    assert list(more.config.tasks) == ["topic", "ner", "sts"]
    assert torch.equal(first.heads["topic"].classifier.bias, more.heads["topic"].classifier.bias)
    weights = [model.encoder.get_input_embeddings().weight for model in (first, more)]
    assert not torch.equal(*weights)


def test_a_task_that_no_training_row_labels_is_named(recipe, tmp_path):
    rows = [{"text": "Oslo", "label": None, "entities": []}, {"text": "Lima", "label": None, "entities": []}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = recipe(tasks={"topic": {"type": "sequence_classification", "labels": ["a", "b"]}, "ner": {
        "type": "token_classification", "labels": ["GPE"]}})  # fmt: skip
    _, data_args, _ = parse_arguments(["--config", str(path)])
    data_args.datasets["news"]["files"] = {"train": str(tmp_path / "train.jsonl")}
    with pytest.raises(ValueError, match="No training row has a label for task 'topic'"):
        main(["--config", str(path), "--datasets", json.dumps(data_args.datasets)])


def test_resuming_where_there_is_no_checkpoint_is_refused(recipe):
    with pytest.raises(ValueError, match=r"`resume_from_checkpoint` is true, but .* has no checkpoint in it"):
        run(recipe, "--resume_from_checkpoint", "true")


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        ["-m", "accelerate.commands.launch", "--num_processes", "1"],
        ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"],
        pytest.param(
            ["-m", "accelerate.commands.launch", "--config_file", str(FSDP), "--num_processes", "1"],
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
        ),
    ],
    ids=["accelerate", "two processes", "FSDP"],
)
def test_the_program_runs_under_its_launchers(recipe, root, tmp_path, launcher):
    path = recipe(do_eval=True, do_predict=True, use_cpu=str(FSDP) not in launcher, per_device_train_batch_size=3)
    done = subprocess.run(
        [sys.executable, *launcher, str(root / "run_mtl.py"), "--config", str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(re.findall(r"\| task +\| metric", done.stdout)) == 1
    metrics = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert metrics["eval_loss"] == pytest.approx(metrics["test_loss"], rel=1e-5)
    assert len((tmp_path / "run" / "predictions.jsonl").read_text().splitlines()) == 8


PARTLY_LABELLED = {
    "topics": [
        {"text": "Oslo beat Lima in the final", "topic": "Sports"},
        {"text": "Shares rise", "topic": "Business"},
    ],
    "entities": [
        {"text": "Ada Perez joins", "ner": [{"start": 0, "end": 9, "label": "PERSON"}]},
        {"text": "No one", "ner": []},
    ],
    "pairs": [
        {"text": "Lima wins", "text_pair": "Lima won", "nli": "yes", "sts": 5},
        {"text": "Lima wins", "text_pair": "Shares rise", "nli": "no", "sts": 0},
    ],
}
FOUR_TASKS = {
    "topic": {"type": "sequence_classification"},
    "ner": {"type": "token_classification"},
    "nli": {"type": "pair_classification"},
    "sts": {"type": "pair_similarity", "score_range": [0, 5]},
}


@pytest.fixture
def partly_labelled(recipe, tmp_path):
    """A recipe of three datasets that share no task."""
    datasets = {}
    for name, rows in PARTLY_LABELLED.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows * 3)))
        datasets[name] = {"files": dict.fromkeys(("train", "validation", "test"), str(path))}

    def write(**changes):
        return recipe(**{"datasets": datasets, "tasks": FOUR_TASKS, "do_eval": True, **changes})

    return write


@pytest.mark.parametrize("sampling", ["proportional", "temperature", "round_robin", "weights"])
def test_partly_labelled_datasets_train_one_model(partly_labelled, tmp_path, sampling):
    weights = {"topics": 1, "entities": 1, "pairs": 2} if sampling == "weights" else None
    metrics = run(
        partly_labelled, dataset_sampling=sampling, sampling_weights=weights, num_train_epochs=20, learning_rate=3e-3,
        do_predict=True,
    )  # fmt: skip
    keys = ["topic_accuracy", "ner_f1", "nli_accuracy", "sts_spearman"]
    assert metrics["eval_composite"] == pytest.approx(sum(metrics[f"eval_{key}"] for key in keys) / 4)
    assert metrics["eval_composite"] > 0.8
    answers = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert set(answers[0]) == {"text", "topic", "ner"}
    assert set(answers[-1]) == {"text", "text_pair", "topic", "ner", "nli", "sts"}


def test_the_composite_picks_the_checkpoint_where_the_last_dataset_would_pick_another(partly_labelled, tmp_path):
    """The pairs come last, and in validation their labels are swapped: the more is learned, the worse they look."""
    path = partly_labelled(
        num_train_epochs=10, learning_rate=2e-3, eval_strategy="epoch", save_strategy="epoch",
        load_best_model_at_end=True, metric_for_best_model="eval_composite", tasks={**FOUR_TASKS}, do_eval=False,
    )  # fmt: skip
    swapped = [dict(row, nli={"yes": "no", "no": "yes"}[row["nli"]]) for row in PARTLY_LABELLED["pairs"]]
    (tmp_path / "swapped.jsonl").write_text("\n".join(map(json.dumps, swapped * 3)))
    _, data_args, _ = parse_arguments(["--config", str(path)])
    data_args.datasets["pairs"]["files"]["validation"] = str(tmp_path / "swapped.jsonl")
    main(["--config", str(path), "--datasets", json.dumps(data_args.datasets)])
    states = sorted((tmp_path / "run").glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
    state = json.loads(states[-1].read_text())
    lines = [line for line in state["log_history"] if "eval_composite" in line]
    by_composite = max(lines, key=lambda line: line["eval_composite"])["step"]
    by_last_dataset = max(lines, key=lambda line: line["eval_nli_accuracy"])["step"]
    assert by_composite != by_last_dataset
    assert state["best_global_step"] == by_composite


def test_sampling_weights_must_name_the_datasets(partly_labelled):
    with pytest.raises(
        ValueError, match=r"`sampling_weights` names \['topics'\]; the training datasets are \['topics', "
    ):
        run(partly_labelled, dataset_sampling="weights", sampling_weights={"topics": 1})


@pytest.mark.parametrize("flags", [[], ["--config", "nowhere.yaml"], ["--encoder_name_or_path", "nowhere"]])
def test_wrong_input_ends_with_one_line(root, warm_python, flags):
    done = warm_python.run("run_mtl.py", *flags, cwd=root)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert re.search(r"^(Error|run_mtl.py: error): .", done.stderr, re.MULTILINE)
