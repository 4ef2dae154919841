"""Tests that the model card is valid and true, contains no local path, and that its code runs."""

import json
import logging
import os
import re
from pathlib import Path

import pytest
import yaml
from datasets import Dataset
from huggingface_hub import ModelCard

from modeling_mtsbert import MTSBertModel
from mtsbert.results.model_card import escape, fenced
from mtsbert.results.provenance import is_hub_id, public_name
from run_mtl import main


NASTY = ["<script>alert(1)</script>", "a|b", "---", "```\n# title", "[x](http://x.y)", "key: *value"]
SILVER_CARD = """---
license: apache-2.0
language:
- en
tags:
- mtsbert
- silver-labels
---

# News with topics and entities

Built by mtsbert's `data_prep` from the Hub dataset [some/news](https://huggingface.co/datasets/some/news).

**The entities are machine labels.** They were made by the spaCy pipeline tiny 1.0 and nobody has checked them.

| split | rows |
|---|---|
"""
TYPES = {"topic": "text-classification", "ner": "token-classification"}


def run(recipe, *flags: str, **changes) -> dict[str, float]:
    return main(["--config", str(recipe(**changes)), *flags])


def card_of(folder: Path) -> ModelCard:
    return ModelCard((folder / "README.md").read_text(encoding="utf-8"))


def code_of(card: ModelCard, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)\n```$", card.text, flags=re.M | re.S)


def recipe_of(card: ModelCard) -> dict:
    return yaml.safe_load(code_of(card, "yaml")[0])


@pytest.fixture
def silver_folder(news_file, tmp_path) -> Path:
    """A dataset folder as `data_prep` leaves it."""
    from datasets import Dataset

    folder = tmp_path / "silver"
    rows = [json.loads(line) for line in news_file.read_text().splitlines()]
    for split in ("train", "validation"):
        folder.mkdir(exist_ok=True)
        Dataset.from_list(rows).to_parquet(folder / f"{split}.parquet")
    (folder / "README.md").write_text(SILVER_CARD)
    return folder


@pytest.fixture
def silver(silver_folder, news_file) -> dict:
    """It, and beside it a test split that people labelled."""
    columns = {"text": "text", "label": "topic", "entities": "ner"}
    return {
        "news": {"path": str(silver_folder), "columns": columns},
        "gold": {"files": {"test": str(news_file)}, "columns": columns},
    }


def test_every_tasks_results_are_in_the_metadata(recipe, tmp_path):
    run(recipe, do_eval=True, do_predict=True, tasks={
        "topic": {"type": "sequence_classification"}, "ner": {"type": "token_classification"}})  # fmt: skip
    card, folder = card_of(tmp_path / "run"), tmp_path / "run"
    metrics = json.loads((folder / "all_results.json").read_text())
    found = {}
    for result in card.data.eval_results:
        assert result.task_type == TYPES[result.task_name]
        name = {"macro F1": "macro_f1"}.get(result.metric_name, result.metric_type)
        found[f"{ {'validation': 'eval', 'test': 'test'}[result.dataset_split] }_{result.task_name}_{name}"] = (
            result.metric_value
        )
    keys = ["topic_accuracy", "topic_macro_f1", "ner_precision", "ner_recall", "ner_f1"]
    assert found == {f"{split}_{key}": metrics[f"{split}_{key}"] for split in ("eval", "test") for key in keys}
    data = card.data.to_dict()
    assert data["model-index"][0]["name"] == "run"
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "text-classification"
    assert {"mtsbert", "multi-task", "text-classification", "token-classification"} <= set(data["tags"])
    # Encoder and data are files, and nobody has said anything of licences.
    assert not {"license", "base_model", "datasets", "language"} & set(data)
    assert all((folder / path).is_file() for path in re.findall(r"!\[.*?\]\((.*?)\)", card.text))
    assert "agreement" not in card.text


def test_two_tasks_of_a_type_stay_apart(recipe, tmp_path):
    columns = {"text": "text", "label": "topic", "same": "copy"}
    rows = [{"text": f"text {i}", "label": "ab"[i % 2], "same": "cd"[i % 2]} for i in range(8)]
    (tmp_path / "two.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = dict.fromkeys(("train", "validation"), str(tmp_path / "two.jsonl"))
    run(recipe, do_eval=True, datasets={"two": {"files": files, "columns": columns}},
        tasks={name: {"type": "sequence_classification"} for name in ("topic", "copy")})  # fmt: skip
    index = card_of(tmp_path / "run").data.to_dict()["model-index"][0]["results"]
    assert [entry["task"]["name"] for entry in index] == ["topic", "copy"]


def test_machine_labels_are_agreed_with_and_gold_is_not(recipe, tmp_path, silver):
    run(recipe, do_eval=True, do_predict=True, datasets=silver)
    card = card_of(tmp_path / "run")
    named = {(result.dataset_split, result.task_name, result.metric_name) for result in card.data.eval_results}
    assert ("validation", "ner", "entity F1 (agreement with machine labels)") in named
    assert ("test", "ner", "entity F1") in named
    assert ("validation", "topic", "accuracy") in named
    assert "made by the spaCy pipeline tiny 1.0 and nobody has checked them" in card.text
    assert "**news**: silver. Licence: apache-2.0." in card.text
    data = card.data.to_dict()
    assert data["datasets"] == ["some/news"]
    assert "language" not in data  # nobody knows the gold file's
    assert "license" not in data  # that of the data is not the model's


def test_no_path_of_the_machine_and_no_token(recipe, tmp_path, root, silver, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    run(recipe, do_eval=True, datasets=silver, feature_cache_dir=str(tmp_path / "cache"), logging_dir=None)
    text = (tmp_path / "run" / "README.md").read_text()
    assert not [part for part in (str(tmp_path), str(tmp_path.parent), str(root), str(Path.home())) if part in text]
    assert os.uname().nodename not in text
    assert "hf_secret" not in text
    settings = recipe_of(card_of(tmp_path / "run"))
    assert settings["encoder_name_or_path"].startswith("encoder")
    assert settings["datasets"]["gold"]["files"] == {"test": "news.jsonl"}
    assert settings["output_dir"] == "run"
    assert settings["per_device_train_batch_size"] == 4
    assert settings["max_length"] == 32
    assert "weight_decay" not in settings  # at its default


def test_names_that_users_chose_do_nothing(recipe, tmp_path):
    rows = [{"text": f"text {index % 3}", "label": NASTY[index % len(NASTY)]} for index in range(12)]
    (tmp_path / "nasty.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = dict.fromkeys(("train", "validation"), str(tmp_path / "nasty.jsonl"))
    folder = tmp_path / 'o"ut <b>|`---'
    name = "<img src=x>\n---\n# a|`b"
    run(recipe, do_eval=True, output_dir=str(folder), tasks={"topic": {"type": "sequence_classification"}},
        datasets={name: {"files": files, "columns": {"text": "text", "label": "topic"}}})  # fmt: skip
    card = card_of(folder)
    assert {result.dataset_name for result in card.data.eval_results} == {"<img src=x> --- # a|`b"}
    assert len(card.data.to_dict()["model-index"][0]["results"]) == 1
    outside = re.sub(r"^(`{3,})\w*\n.*?\n\1$", "", card.text, flags=re.M | re.S)
    assert not re.search(r"<(?!!)/?\w", outside)
    assert not re.search(r"(?<!\\)\]\(http", outside)
    assert r"\[x\](http&#58;//x.y)" in outside
    assert r"a\|b" in outside
    assert [line for line in outside.split("\n") if line.startswith("# ")] == [f"# {escape(folder.name)}"]
    assert "---" not in outside.split("\n")
    settings = yaml.safe_load(re.search(r"^(`{3,})yaml\n(.*?)\n\1$", card.text, flags=re.M | re.S)[2])
    assert list(settings["datasets"]) == [name]


@pytest.mark.parametrize("name", [*NASTY, "a\x00b\u202ec", "$x$", "a_b*c*~d~", "&lt;"])
def test_escaped_text_reads_as_it_was_written(name):
    markdown_it = pytest.importorskip("markdown_it", reason="renders the Markdown")
    import html

    rendered = markdown_it.MarkdownIt("gfm-like", {"linkify": False}).render(f"- x: {escape(name)}")
    shown = html.unescape(re.sub(r"</?(?:ul|li)>|\n", "", rendered)).replace(r"\$", "$")
    assert shown == "x: " + " ".join(name.replace("\x00", " ").replace("\u202e", " ").split())


def test_a_fence_is_longer_than_any_in_the_code():
    assert fenced("````\nx", "yaml") == "`````yaml\n````\nx\n`````"


def test_the_snippets_run(recipe, tmp_path, run_elsewhere):
    run(recipe, num_train_epochs=1)
    card = card_of(tmp_path / "run")
    snippets = code_of(card, "python")
    assert [re.search(r"(?:from|import) (\w+)", code)[1] for code in snippets] == [
        *("transformers", "torch", "transformers", "sentence_transformers", "spacy")
    ]
    script = "\n".join(
        [
            *snippets[:-1],
            "import numpy",
            "assert set(answer) == {'embedding', 'topic', 'ner'}, answer",
            "assert output.logits['topic'].shape == (1, 2) and output.pooler_output.shape == (1, 32)",
            "assert numpy.allclose(embeddings[0], answer['embedding'], atol=1e-5)",
        ]
    )
    run_elsewhere(script)
    for line in code_of(card, "bash"):
        assert "--model run " in line


def test_the_commands_of_the_card_are_understood(recipe, tmp_path, monkeypatch):
    import shlex

    from mtsbert.commands import export, predict

    run(recipe)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.csv").write_text("text\nLima hosts the race\n")
    commands = {line.split()[1]: shlex.split(line)[2:] for line in code_of(card_of(tmp_path / "run"), "bash")}
    assert list(commands) == ["predict", "export"]
    predict.main(commands["predict"])
    assert json.loads((tmp_path / "answers.jsonl").read_text())["topic"]["label"] in ("Business", "Sports")
    asked = {}
    monkeypatch.setattr(
        export, "export_onnx", lambda model, output, **options: asked.update(model=model, output=output)
    )
    export.main(commands["export"])
    assert asked == {"model": "run", "output": Path("onnx")}


def test_a_run_without_evaluation_has_a_card(recipe, tmp_path):
    run(recipe)
    card = card_of(tmp_path / "run")
    assert "This run has measured nothing." in card.text
    assert not {"model-index", "metrics"} & set(card.data.to_dict())
    assert "What was trained: " in card.text


def test_the_card_says_how_many_parameters_of_a_part_were_trained(recipe, tmp_path):
    run(recipe, bitfit=True)
    card = card_of(tmp_path / "run")
    assert re.search(r"\| encoder\.layer\.0 +\| [\d,]+ +\| [\d,]+ of [\d,]+ trained +\|", card.text)
    assert re.search(r"\| heads\.topic +\| [\d,]+ +\| trained +\|", card.text)


def test_with_everything_frozen_the_card_has_results_and_no_snippets(recipe, tmp_path):
    metrics = run(recipe, do_eval=True, freeze_encoder=True, freeze_heads=["topic", "ner"])
    card = card_of(tmp_path / "run")
    assert {result.metric_value for result in card.data.eval_results} >= {metrics["eval_topic_accuracy"]}
    assert "left no checkpoint here" in card.text
    assert not code_of(card, "python")


def test_an_evaluation_leaves_the_card_of_the_training_alone(recipe, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run(recipe, do_eval=True)
    before = (tmp_path / "run" / "README.md").read_bytes()
    frozen = {"freeze_encoder": True, "freeze_heads": ["topic", "ner"]}
    run(recipe, "--model_name_or_path", str(tmp_path / "run"), do_eval=True, seed=1, **frozen)
    assert (tmp_path / "run" / "README.md").read_bytes() == before
    assert "stays as it is, because this run has trained nothing" in caplog.text


def test_the_card_tells_of_the_checkpoint_that_was_kept(trainer_of, features, tmp_path):
    trainer = trainer_of(
        eval_dataset=features, num_train_epochs=4, eval_strategy="epoch", save_strategy="epoch", learning_rate=1e-3,
        load_best_model_at_end=True, metric_for_best_model="eval_topic_loss", greater_is_better=True,
    )  # fmt: skip
    trainer.train()
    lines = [line for line in trainer.state.log_history if "eval_topic_loss" in line]
    best = max(lines, key=lambda line: line["eval_topic_loss"])
    assert best["step"] != lines[-1]["step"]
    assert trainer.evaluations["eval"].metrics["topic_loss"] == best["eval_topic_loss"]
    trainer.create_model_card()
    values = {result.metric_value for result in card_of(tmp_path / "run").data.eval_results}
    assert best["eval_topic_accuracy"] in values


def test_a_push_in_training_finds_our_card_with_the_results_so_far(trainer_of, features, tmp_path):
    trainer = trainer_of(eval_dataset=features, num_train_epochs=2, eval_strategy="epoch")
    texts = []

    def push(args, state, control, **kwargs):
        trainer.callback_handler.on_push_begin(args, state, control)
        texts.append((tmp_path / "run" / "README.md").read_text())

    trainer.callback_handler.callbacks[-1].on_evaluate = push
    trainer.train()
    assert len(texts) == 2
    assert "not finished when this was written" in texts[0]
    assert len(ModelCard(texts[0]).data.eval_results) == 5
    assert "2 optimizer steps" in texts[1]


def test_the_trainers_own_card_is_ours(trainer_of, tmp_path):
    trainer = trainer_of()
    trainer.create_model_card(license="mit", language="de", tags="mine", model_name="Ada", finetuned_from="some/base")
    card = card_of(tmp_path / "run")
    data = card.data.to_dict()
    assert (data["license"], data["language"], data["base_model"]) == ("mit", "de", "some/base")
    assert {"mine", "mtsbert"} <= set(data["tags"])
    assert card.text.strip().startswith("# Ada\n")
    assert "Nothing was trained" in card.text


def test_a_card_takes_what_run_glue_gives_to_it(trainer_of, tmp_path):
    of_script = {"finetuned_from": "some/base", "tasks": "text-classification", "language": "en"}
    of_script |= {"dataset_tags": "nyu-mll/glue", "dataset_args": "mrpc", "dataset": "GLUE MRPC"}
    trainer_of().create_model_card(**of_script)
    data = card_of(tmp_path / "run").data.to_dict()
    assert (data["datasets"], data["language"], data["base_model"]) == (["nyu-mll/glue"], "en", "some/base")
    assert "text-classification" in data["tags"]


def test_a_hub_id_is_the_models_name_in_every_snippet(trainer_of, tmp_path):
    trainer = trainer_of(hub_model_id="some/name")
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "model.safetensors").touch()
    trainer.create_model_card()
    card = card_of(tmp_path / "run")
    code = [*code_of(card, "python"), *code_of(card, "bash")]
    assert len(code) == 7
    assert all('"some/name"' in piece or "--model some/name " in piece for piece in code)
    assert card.text.strip().startswith("# name\n")


def test_pair_tasks_have_a_card_and_code_of_their_own(trainer_of, encoder_folder, tmp_path):
    pairs = {
        "nli": {"type": "pair_classification", "labels": ["no", "yes"]},
        "sts": {"type": "pair_similarity", "score_range": [0, 5]},
        "many": {"type": "sequence_classification", "labels": ["a", "b"], "multi_label": True},
    }
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "model.safetensors").touch()
    for tasks, tag in ((pairs, "text-classification"), ({"sts": pairs["sts"]}, "sentence-similarity")):
        (tmp_path / "run" / "README.md").unlink(missing_ok=True)
        model = MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks)
        trainer_of(of=model, train_dataset=None).create_model_card()
        card = card_of(tmp_path / "run")
        assert card.data.pipeline_tag == tag
        snippets = code_of(card, "python")
        assert all(f'["{task}"]' in snippets[0] for task in tasks)
        for code in snippets:
            compile(code, "card", "exec")
        assert ("token-classification" in card.text) is False
        assert "scores from 0 to 5, scaled to 0 to 1" in card.text


def test_the_card_of_a_ranking_says_what_it_is(trainer_of, encoder_folder, tmp_path):
    tasks = {
        "fits": {"type": "pair_ranking"},
        "near": {"type": "pair_similarity", "score_range": [0, 5], "loss": "cosent"},
    }
    (tmp_path / "run").mkdir(exist_ok=True)
    rows = Dataset.from_list([{"text": "Oslo beat Lima", "text_pair": "Lima lost"}] * 2)
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks)
    trainer = trainer_of(of=model, train_dataset=None, eval_dataset=rows)
    trainer.evaluate()
    trainer.create_model_card()
    card = card_of(tmp_path / "run")
    assert card.data.pipeline_tag == "sentence-similarity"
    assert "whether two texts belong together" in card.text
    assert "scores from 0 to 5, of which only the order is learned" in card.text
    assert re.search(r"\| fits +\| mean reciprocal rank +\| 1\.0000", card.text)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("package:x/model", False),
        ("bert-base-uncased", True),
        ("some/model", True),
        ("runs/some/model", False),
        ("/some/model", False),
        ("./model", False),
        ("tests", False),  # a folder that is there
    ],
)
def test_hub_ids(name, expected, root, monkeypatch):
    monkeypatch.chdir(root)
    assert is_hub_id(name) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("data/news", "data/news"),
        ("/data/somebody/news.csv", "news.csv"),
        ("../../somebody/news", "news"),
        ("~/news", "news"),
        ("C:\\Users\\somebody\\news", "news"),
        ("https://user:secret@host/a/news.csv?key=1", "news.csv"),
        ("package:some/model", "package:some/model"),
    ],
)
def test_public_names(name, expected):
    assert public_name(name) == expected


def test_a_path_in_the_working_directory_is_relative_to_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert public_name(str(tmp_path / "data" / "news")) == "data/news"
