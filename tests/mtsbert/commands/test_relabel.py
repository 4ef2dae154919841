"""Tests that labels on which a model and its teacher agree are kept, and all others are left open."""

import re

import pytest
import yaml
from datasets import ClassLabel, Dataset, Features, List, Value

from mtsbert.cli import main
from mtsbert.commands.evaluate.entities import Finder
from mtsbert.commands.relabel import Agreement, agree, lost_types, relabel
from mtsbert.formats.folders import read_folder
from mtsbert.relabelling.models import FoldModels


def span(start: int, end: int, label: str | None = "GPE") -> dict:
    return {"start": start, "end": end, "label": label}


def test_what_both_say_is_kept_and_differences_are_left_open():
    given = [span(0, 4), span(5, 9, "ORG"), span(10, 14), span(30, 34)]
    found = [span(0, 4), span(5, 9, "PERSON"), span(12, 20), span(18, 22), span(25, 28)]
    spans, counts = agree(given, found)
    assert spans == [span(0, 4), span(5, 9, None), span(10, 22, None), span(25, 28, None), span(30, 34, None)]
    assert counts == Agreement(given=4, agreed=1, added=4, open=4)


def test_what_touches_is_not_joined_and_what_was_open_stays_open():
    assert agree([span(0, 4)], [span(4, 6)])[0] == [span(0, 4, None), span(4, 6, None)]
    assert agree([span(0, 4, None)], []) == ([span(0, 4, None)], Agreement(given=0, agreed=0, added=0, open=1))
    assert agree([span(0, 4, None), span(8, 10)], [span(8, 10)])[1] == Agreement(given=1, agreed=1, added=0, open=1)
    assert agree([], []) == ([], Agreement())


@pytest.fixture
def prepared(tmp_path):
    """A folder as data_prep makes it."""
    features = Features(
        {
            "text": Value("string"),
            "label": ClassLabel(names=["World", "Sports"]),
            "entities": List({"start": Value("int32"), "end": Value("int32"), "label": Value("string")}),
            "tokens": List(Value("string")),
            "ner_tags": List(ClassLabel(names=["O", "B-GPE", "I-GPE"])),
        }
    )
    rows = [
        {"text": "Oslo wins", "label": 1, "entities": [span(0, 4)], "tokens": ["Oslo", "wins"], "ner_tags": [1, 0]},
        {"text": "No Lima", "label": 0, "entities": [], "tokens": ["No", "Lima"], "ner_tags": [0, 0]},
    ]
    folder = tmp_path / "news"
    folder.mkdir()
    for split in ("train", "test"):
        Dataset.from_list(rows, features=features).to_parquet(folder / f"{split}.parquet")
    (folder / "README.md").write_text("# News\n")
    return folder


FINDER = Finder("runs/student", ["GPE"], lambda texts: [[span(*found)] for found in [(0, 4), (3, 7)]])


def test_only_training_rows_change_and_the_card_says_how(prepared, tmp_path):
    (prepared / "report").mkdir()
    (prepared / "report.md").write_text("Of the labels as they were.\n")
    counts = relabel(FINDER, prepared, tmp_path / "agreed")
    assert counts == Agreement(given=1, agreed=1, added=1, open=1)
    assert sorted(path.name for path in (tmp_path / "agreed").iterdir()) == [
        "README.md",
        "test.parquet",
        "train.parquet",
    ]
    splits = read_folder(tmp_path / "agreed", {"train": "train", "test": "test"})
    assert splits["train"].column_names == ["text", "label", "entities"]
    assert splits["train"].features["label"].names == ["World", "Sports"]
    assert splits["train"]["entities"][:] == [[span(0, 4)], [span(3, 7, None)]]
    assert splits["test"]["entities"][:] == [[span(0, 4)], []]
    card = (tmp_path / "agreed" / "README.md").read_text()
    assert card.startswith("# News\n")
    assert "Of the training rows' 1 entities, 1 were also found by student" in card


def test_rows_without_labels_stay_as_they_are(prepared, tmp_path, monkeypatch, capsys):
    rows = Dataset.from_parquet(str(prepared / "train.parquet"))
    rows.map(lambda row: {"entities": row["entities"] or None}).to_parquet(prepared / "train.parquet")
    monkeypatch.setattr("mtsbert.commands.relabel.load_finder", lambda *args, **kwargs: FINDER)
    main(["relabel", "--model", "student", "--data", str(prepared), "--output", str(tmp_path / "agreed")])
    assert "of 1 entities 1 are agreed on; the models have 0 others; 0 places are left open" in capsys.readouterr().out
    agreed = read_folder(tmp_path / "agreed", {"train": "train"})["train"]
    assert agreed["entities"][:] == [[span(0, 4)], None]
    assert lost_types(prepared, tmp_path / "agreed") == []


@pytest.mark.parametrize("text", [None, " "])
def test_a_row_without_text_is_not_relabelled(prepared, tmp_path, text):
    rows = Dataset.from_parquet(str(prepared / "train.parquet"))
    rows.map(lambda row: {"text": text if row["label"] == 0 else row["text"]}).to_parquet(prepared / "train.parquet")
    with pytest.raises(ValueError, match=rf"Row 1 of .*train.parquet has no text in it: {text!r}"):
        relabel(FINDER, prepared, tmp_path / "agreed")


def test_ids_of_classes_are_not_compared_with_what_a_model_finds(prepared, tmp_path):
    entity = {"start": Value("int32"), "end": Value("int32"), "label": ClassLabel(names=["GPE"])}
    features = Features({"text": Value("string"), "entities": List(entity)})
    rows = {"text": ["Oslo wins"], "entities": [[span(0, 4, 0)]]}
    Dataset.from_dict(rows, features=features).to_parquet(prepared / "train.parquet")
    with pytest.raises(ValueError, match=r"train.parquet has ids of a ClassLabel in 'entities'; write the types as"):
        relabel(FINDER, prepared, tmp_path / "agreed")


def test_what_cannot_be_relabelled_is_named_and_nothing_is_left_behind(prepared, tmp_path):
    with pytest.raises(ValueError, match=r"empty has no train\.parquet; `python -m data_prep` makes such a folder"):
        relabel(FINDER, tmp_path / "empty", tmp_path / "agreed")
    with pytest.raises(ValueError, match="news exists already"):
        relabel(FINDER, prepared, prepared)
    with pytest.raises(ValueError, match=r"agreed lies in .*news, whose rows would be read from both"):
        relabel(FINDER, prepared, prepared / "of" / "agreed")
    fails = Finder("x", ["GPE"], lambda texts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        relabel(fails, prepared, tmp_path / "agreed")
    assert [path.name for path in tmp_path.iterdir()] == ["news"]
    Dataset.from_dict({"text": ["Oslo"]}).to_parquet(prepared / "train.parquet")
    with pytest.raises(ValueError, match=r"has no columns \['entities'\]; it has \['text'\]"):
        relabel(FINDER, prepared, tmp_path / "agreed")


@pytest.mark.parametrize("other", ["train-2.parquet", "more/train.parquet"])
def test_other_files_of_the_training_split_are_neither_lost_nor_left_as_they_were(prepared, tmp_path, other):
    (prepared / "more").mkdir()
    (prepared / "train.parquet").rename(prepared / other)
    (prepared / "more" / "test-2.parquet").write_bytes((prepared / "test.parquet").read_bytes())
    (prepared / "test.parquet").rename(prepared / "train.parquet")
    with pytest.raises(ValueError, match=rf"{other} has training rows as well, and those of train.parquet alone"):
        relabel(FINDER, prepared, tmp_path / "agreed")
    (prepared / other).unlink()
    relabel(FINDER, prepared, tmp_path / "agreed")
    assert read_folder(tmp_path / "agreed", {"test": "test"})["test"]["text"][:] == ["Oslo wins", "No Lima"]


@pytest.fixture
def large(tmp_path):
    """A prepared folder with enough entities that each of two models learns some."""
    names = ["Oslo", "Lima", "Bern", "Rome", "Kiel", "Nice"]
    rows = [
        {"text": f"{number}: {one} beat {two}", "label": number % 2,
         "entities": [span(len(f"{number}: "), len(f"{number}: ") + 4)]}
        for number, (one, two) in enumerate(zip(names * 4, names[1:] * 5, strict=False))
    ]  # fmt: skip
    rows[0]["entities"] = rows[5]["entities"] = None
    entity = {"start": Value("int32"), "end": Value("int32"), "label": Value("string")}
    features = Features(
        {"text": Value("string"), "label": ClassLabel(names=["World", "Sports"]), "entities": List(entity)}
    )
    folder = tmp_path / "large"
    folder.mkdir()
    Dataset.from_list(rows, features=features).to_parquet(folder / "train.parquet")
    return folder


@pytest.fixture
def first(large, recipe):
    columns = {"text": "text", "label": "topic", "entities": "ner"}
    published = {"push_to_hub": True, "hub_model_id": "org/finished"}  # which the models of the folds are not
    published |= {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    published |= {"early_stopping_patience": 1, "metric_for_best_model": "eval_topic_accuracy"}
    return recipe(datasets={"news": {"path": str(large), "columns": columns}}, output_dir="unused", **published)


@pytest.mark.slow
def test_entities_are_confirmed_out_of_fold_and_an_interrupted_run_goes_on(
    large, first, tmp_path, capsys, monkeypatch, warm_runs
):
    output = tmp_path / "confirmed"
    command = ["relabel", "--config", str(first), "--folds", "2", "--data", str(large), "--output", str(output),
               "--precision", "fp32"]  # fmt: skip
    found = FoldModels.found

    def interrupted(self, fold, *rest):
        if fold == 1:
            raise KeyboardInterrupt
        return found(self, fold, *rest)

    monkeypatch.setattr(FoldModels, "found", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(command)
    assert "Trains 2 models by" in capsys.readouterr().out
    assert not output.exists()
    assert (tmp_path / ".confirmed.folds" / "found_0.jsonl").is_file()
    with pytest.raises(SystemExit, match="what an interrupted run has found with another recipe"):
        main([*command[:3], "--folds", "3", *command[5:]])
    monkeypatch.setattr(FoldModels, "found", found)
    seen = []
    train = FoldModels._train
    monkeypatch.setattr(FoldModels, "_train", lambda self, fold, *rest: seen.append(fold) or train(self, fold, *rest))
    main(command)
    assert seen == [1]
    assert not (tmp_path / ".confirmed.folds").exists()
    rows = read_folder(output, {"train": "train"})["train"]
    before = read_folder(large, {"train": "train"})["train"]
    assert rows["text"][:] == before["text"][:]
    assert [confirmed is None for confirmed in rows["entities"]] == [given is None for given in before["entities"]]
    assert rows["entities"][:][:6].count(None) == 2
    for given, confirmed in zip(before["entities"], rows["entities"], strict=True):
        if given is None:
            continue
        marks = {(one["start"], one["end"], one["label"]) for one in given}
        assert all(one["label"] is None or (one["start"], one["end"], one["label"]) in marks for one in confirmed)
    assert "were also found by 2 models" in (output / "README.md").read_text()


def test_types_of_which_nothing_is_left_are_named(prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mtsbert.commands.relabel.load_finder", lambda *args, **kwargs: FINDER)
    main(["relabel", "--model", "student", "--data", str(prepared), "--output", str(tmp_path / "some")])
    assert "is left. Where other splits" not in capsys.readouterr().out
    rejects = Finder("x", ["GPE"], lambda texts: [[] for _ in texts])
    monkeypatch.setattr("mtsbert.commands.relabel.load_finder", lambda *args, **kwargs: rejects)
    main(["relabel", "--model", "student", "--data", str(prepared), "--output", str(tmp_path / "none")])
    assert "No entity of GPE is left. Where other splits have them" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--folds", "0"], "--folds is 0; there must be 2 at least"),
        (["--task", "topic"], r"that find entities are \['ner'\]; --task is 'topic'"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["--folds", "1"], "--folds is 1; there must be 2 at least"),
        (["--data", "elsewhere"], r"elsewhere has no train\.parquet"),
        (["--model", "runs/a"], "not allowed with argument"),
    ],
)
def test_what_cannot_be_confirmed_is_told_before_training(large, first, tmp_path, change, message, capsys):
    output = tmp_path / "confirmed"
    with pytest.raises(SystemExit) as stopped:
        main(["relabel", "--config", str(first), "--data", str(large), "--output", str(output), *change])
    assert re.search(message, f"{stopped.value} {capsys.readouterr().err}")
    assert sorted(path.name for path in tmp_path.iterdir() if "confirmed" in path.name) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "Recipe .*broken.yaml: it must be a mapping of flags to values; got list"),
        ("a: [1", "Recipe .*broken.yaml is not YAML"),
        ("\0", "Recipe .*broken.yaml is not YAML: unacceptable character"),
        ("", "Recipe .*broken.yaml: it must be a mapping of flags to values; got NoneType"),
    ],
)
def test_a_recipe_that_is_none_is_refused(large, tmp_path, text, message):
    (tmp_path / "broken.yaml").write_text(text)
    with pytest.raises(SystemExit, match=message):
        main(["relabel", "--config", str(tmp_path / "broken.yaml"), "--data", str(large), "--output", "o"])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("datasets", [1], r"'datasets' must be a mapping; got \[1\]"),
        ("datasets", "news", "--datasets is not JSON"),
        ("datasets", {"news": "data/news"}, "Dataset 'news' needs either 'path' or 'files'; got 'data/news'"),
        ("datasets", {"news": {"path": 5}}, "Dataset 'news' needs either 'path' or 'files'; got {'path': 5}"),
        ("datasets", {"news": {"files": ["a.csv"]}}, "Dataset 'news' needs either 'path' or 'files'; got {'files'"),
        ("tasks", ["ner"], r"'tasks' must be a mapping; got \['ner'\]"),
        ("tasks", {"ner": 5}, "Task 'ner'"),
        ("prepare", {"source": "sample"}, "`prepare` needs an 'output' folder"),
        ("num_train_epochs", "many", "invalid float value: 'many'"),
    ],
)
@pytest.mark.parametrize("command", ["relabel", "study"])
def test_a_recipe_with_what_cannot_be_is_refused_before_the_first_run(
    large, recipe, tmp_path, command, key, value, message
):
    options = ["--data", str(large), "--output"] if command == "relabel" else ["--strategies", "full", "--output_dir"]
    with pytest.raises(SystemExit, match=message):
        main([command, "--config", str(recipe(**{key: value})), *options, str(tmp_path / "o")])
    assert not list(tmp_path.glob("**/log.txt"))


def test_a_run_that_fails_is_told_with_the_end_of_its_log(large, first, tmp_path, monkeypatch):
    def fails(*args, name, **options):
        raise RuntimeError(f"{name} failed; the end of log.txt:\nError: no row has a label")

    monkeypatch.setattr("mtsbert.relabelling.models.run_once", fails)
    with pytest.raises(SystemExit, match=r"Error: model_0 failed; the end of log.txt:\nError: no row has a label"):
        main(["relabel", "--config", str(first), "--data", str(large), "--output", str(tmp_path / "o")])


def test_a_recipe_that_does_not_train_on_the_data_is_refused(large, recipe, tmp_path):
    with pytest.raises(SystemExit, match="trains on no dataset whose path is"):
        main(["relabel", "--config", str(recipe()), "--data", str(large), "--output", str(tmp_path / "o")])


def test_what_people_marked_is_not_relabelled(large, first, tmp_path):
    recipe = yaml.safe_load(first.read_text())
    recipe["datasets"] = {name: spec | {"gold": True} for name, spec in recipe["datasets"].items()}
    gold = tmp_path / "gold.yaml"
    gold.write_text(yaml.safe_dump(recipe))
    with pytest.raises(SystemExit, match=r"is `gold` in .*: what people marked is not relabelled"):
        main(["relabel", "--config", str(gold), "--data", str(large), "--output", str(tmp_path / "o")])


def test_names_that_a_recipe_changes_are_not_relabelled(large, first, tmp_path):
    recipe = yaml.safe_load(first.read_text())
    for spec in recipe["datasets"].values():
        spec["label_map"] = {"ner": {"GPE": "LOC"}}
    renames = tmp_path / "renames.yaml"
    renames.write_text(yaml.safe_dump(recipe))
    with pytest.raises(SystemExit, match=r"renames the labels of .* so that its models confirm none of them"):
        main(["relabel", "--config", str(renames), "--data", str(large), "--output", str(tmp_path / "o")])
