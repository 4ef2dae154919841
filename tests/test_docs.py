"""The manual: its commands and snippets run, its links lead somewhere, and its site is built without a warning."""

import importlib.util
import inspect
import re
from pathlib import Path

import pytest
import yaml

import mtsbert
from modeling_mtsbert import MTSBertModel
from mtsbert.data.sources import SPEC_KEYS
from mtsbert.recipe import build_parser
from tests.conftest import ROOT
from tests.manual import blocks, broken_links, make_clone, run_commands, run_snippets, write_narrow_minilm


PAGES = sorted((ROOT / "docs").rglob("*.md"))
# In this order: the first one makes the checkpoint that the others use.
GUIDES = ["data", "labelling", "pipeline", "tasks", "inference", "freezing", "balancing", "optimization", "search"]
GUIDES += ["embedding", "distillation", "from_sentence_transformers", "scores"]


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.spacy_model
def test_every_command_and_snippet_runs(root, tmp_path, warm_python):
    clone = make_clone(root, tmp_path)
    write_narrow_minilm(clone)  # the README is followed with the real one
    num_snippets = 0
    for page in [*(root / "docs" / "guides" / f"{name}.md" for name in GUIDES), root / "docs" / "index.md"]:
        run_commands(page, clone, warm_python)
        num_snippets += run_snippets(page, clone, warm_python)
    assert num_snippets == sum(len(blocks(page, "python")) for page in PAGES)
    tasks = MTSBertModel.from_pretrained(clone / "runs" / "renamed").config.tasks
    assert tasks["subject"]["labels"] == ["World", "Sports", "Business", "Science"]
    assert (clone / "exports" / "encoder" / "1_Pooling" / "config.json").is_file()


def test_no_command_is_on_a_page_that_is_not_run():
    run = {ROOT / "docs" / "guides" / f"{name}.md" for name in GUIDES} | {ROOT / "docs" / "index.md"}
    assert [page.name for page in PAGES if page not in run and (blocks(page, "bash") or blocks(page, "python"))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    assert broken_links(page) == []


def test_recipes_have_only_keys_that_exist():
    known = {action.dest for action in build_parser()._actions}
    recipes = list(map(yaml.safe_load, blocks(ROOT / "docs" / "guides" / "data.md", "yaml")))
    assert len(recipes) == 3
    for recipe in recipes:
        assert set(recipe) <= known
        for spec in recipe["datasets"].values():
            assert set(spec) <= set(SPEC_KEYS)
    (space,) = map(yaml.safe_load, blocks(ROOT / "docs" / "guides" / "search.md", "yaml"))
    assert set(space["space"]) <= known


def test_every_flag_of_the_guides_exists():
    of_commands = set()
    programs = [*(ROOT / "mtsbert" / "commands").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    for program in (*programs, ROOT / "data_prep" / "__main__.py"):
        of_commands |= set(re.findall(r'"(--\w+)"', program.read_text(encoding="utf-8")))
    known = {option for action in build_parser()._actions for option in action.option_strings} | of_commands
    known |= {
        "--data",
        "--train_file",
        "--text_column_name",
        "--label_column_name",
        "--rm",
        "--stop",
    }  # of other programs
    for page in (ROOT / "docs" / "guides").glob("*.md"):
        mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9_]+", page.read_text(encoding="utf-8")))
        assert mentioned <= known, page.name


def test_every_public_name_is_on_the_reference_page_and_explained():
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    names = [name for name in mtsbert.__all__ if name != "__version__"]
    assert sorted(re.findall(r"^::: [\w.]+\.(\w+)$", page, re.MULTILINE)) == sorted(names)
    for name in names:
        thing = getattr(mtsbert, name)
        assert inspect.getdoc(thing), name
        if inspect.isfunction(thing) and len(inspect.signature(thing).parameters) >= 4:
            assert "Args:" in inspect.getdoc(thing), name


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed (make docs)")
def test_the_site_is_built_without_a_warning_and_asks_nobody_else(root, tmp_path, warm_python):
    build = ["-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = warm_python.run(*build, cwd=root, variables={"NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout + done.stderr == ""
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        fetched = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?://[^"]+)"', page.read_text("utf-8"))
        assert fetched == [], page.name
    flags = Path(tmp_path / "site" / "reference" / "flags.html").read_text("utf-8")
    assert "--embedding_distillation" in flags
    assert "learning without forgetting" in flags
