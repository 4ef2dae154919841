"""The README is short, its commands and snippets run, and everything that it names exists."""

import re

import pytest
import yaml

from mtsbert.data.sources import SPEC_KEYS
from mtsbert.recipe import build_parser
from mtsbert.settings import spelled_out
from tests.manual import blocks, broken_links, make_clone, run_commands, run_snippets


MOST_LINES = 200


@pytest.fixture
def readme(root):
    return root / "README.md"


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.spacy_model
def test_every_command_and_snippet_runs(root, readme, tmp_path):
    clone = make_clone(root, tmp_path)
    run_commands(readme, clone)
    assert run_snippets(readme, clone) == 3
    for made in ("data/sample/train.parquet", "runs/quickstart/model.safetensors", "runs/mine/model.safetensors"):
        assert (clone / made).is_file()
    assert (clone / "exports" / "quickstart" / "model.onnx").is_file()
    assert len((clone / "answers.jsonl").read_text().splitlines()) == 2


def test_it_is_short_and_its_links_lead_somewhere(readme):
    assert len(readme.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    assert broken_links(readme) == []


def test_the_recipe_has_only_keys_that_exist(readme):
    (text,) = blocks(readme, "yaml")
    recipe = yaml.safe_load(text)
    known = {action.dest for action in build_parser()._actions}
    assert set(recipe) <= known
    for spec in recipe["datasets"].values():
        assert set(spec) <= set(SPEC_KEYS)
        assert set(spec["columns"].values()) <= {"text", "text_pair", *spelled_out(recipe["tasks"])}


def test_every_flag_of_training_exists(readme):
    of_commands = {"--model", "--input", "--output", "--source", "--overwrite", "--data", "--rename_labels", "--help"}
    known = {option for action in build_parser()._actions for option in action.option_strings} | of_commands
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9_]+", readme.read_text(encoding="utf-8")))
    assert len(mentioned) > 10
    assert mentioned <= known


def test_every_file_in_the_layout_exists(root, readme):
    (layout,) = blocks(readme, "text")
    names = [line.split()[0] for line in layout.splitlines()]
    assert [name for name in names if not (root / name).exists()] == []
