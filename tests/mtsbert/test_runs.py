"""Tests by what a finished run is known again: its code, recipe, flags, data and libraries."""

import pytest
import yaml

from mtsbert import runs
from mtsbert.runs import folder_of_run


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("train.csv", "test.csv", "folder/train.parquet"):
        (tmp_path / name).write_text(name)
    datasets = {
        "files": {"files": {"train": str(tmp_path / "train.csv"), "test": str(tmp_path / "test.csv")}},
        "file": {"path": str(tmp_path / "train.csv")},
        "folder": {"path": str(tmp_path / "folder")},
        "hub": {"path": "owner/name"},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"datasets": datasets}))
    return path


def folder(recipe, *flags: str):
    return folder_of_run(recipe, list(flags), folder=recipe.parent / "runs", name="a")


@pytest.mark.parametrize("changed", ["train.csv", "test.csv", "folder/train.parquet"])
def test_a_run_on_other_data_is_another_run(recipe, tmp_path, changed):
    before = folder(recipe)
    assert folder(recipe) == before
    (tmp_path / changed).write_text("other rows")
    assert folder(recipe) != before


def test_a_run_with_other_libraries_is_another_run(recipe, monkeypatch):
    before = folder(recipe)
    monkeypatch.setattr(runs, "version", lambda name: "9.9")
    assert folder(recipe) != before


def test_a_run_with_other_flags_is_another_run(recipe):
    assert folder(recipe, "--seed=1") != folder(recipe, "--seed=2")


def test_a_dataset_that_the_recipe_builds_is_built_first(recipe, tmp_path, monkeypatch):
    text = {"prepare": {"source": "sample", "output": str(tmp_path / "built")}}
    recipe.write_text(yaml.safe_dump(text | {"datasets": {"news": {"path": str(tmp_path / "built")}}}))
    built = []

    def prepare(**options):
        built.append(options)
        (tmp_path / "built").mkdir()
        (tmp_path / "built" / "train.parquet").write_text("rows")

    monkeypatch.setattr(runs, "prepare", prepare)
    first = folder(recipe)
    assert folder(recipe) == first
    assert built == [text["prepare"]]
