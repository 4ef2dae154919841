"""Runs all commands and snippets of the README in a folder that looks like a clone."""

import re
import shlex
import subprocess
import sys

import pytest
import yaml

from mtsbert.data.labels import check_recipe_tasks
from mtsbert.data.sources import SPEC_KEYS
from mtsbert.recipe import build_parser


pytestmark = [pytest.mark.weights, pytest.mark.spacy_model]

SMALLER = ["--num_train_epochs", "1", "--max_train_samples", "32", "--max_eval_samples", "8", "--disable_tqdm", "True"]
NEWS = '"1","Talks in Geneva","Envoys met in Geneva on Monday."\n"2","Lima win final","Ada Perez scored in Oslo."\n'


def blocks(root, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (root / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def clone(root, tmp_path_factory):
    """A folder with the repository's files in it, where `data/` and `runs/` can be written."""
    folder = tmp_path_factory.mktemp("clone")
    for path in root.iterdir():
        if path.name not in (".git", ".venv", "data", "runs"):
            (folder / path.name).symlink_to(path)
    (folder / "path" / "to" / "ag_news").mkdir(parents=True)
    for split in ("train", "dev", "test"):
        (folder / "path" / "to" / "ag_news" / f"{split}.csv").write_text(NEWS * 4)
    (folder / "texts.csv").write_text("id,text\n1,Lima hosts the race\n2,Oil rises\n")
    return folder


def run(command: list[str], clone) -> subprocess.CompletedProcess:
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr[-3000:]}"
    return done


@pytest.fixture(scope="module")
def after_commands(root, clone):
    """Runs all commands of the README in order, training made small, and returns the folder."""
    for line in "".join(blocks(root, "bash")).splitlines():
        words = shlex.split(line)
        if words[0] == "make":
            run(["make", "--dry-run", *words[1:]], root)
            continue
        if words[:2] == ["accelerate", "launch"]:
            words = ["python", "-m", "accelerate.commands.launch", "--num_processes", "1", *words[2:]]
        assert words[0] == "python", line
        if "mtsbert.commands.study" in words:
            words += ["--strategies", "encoder_frozen", "--seeds", "1", "--", *SMALLER]
        small = SMALLER if "run_mtl.py" in words and "--help" not in words else []
        run([sys.executable, *words[1:], *small], clone)
    return clone


def test_the_commands_leave_datasets_and_checkpoints(after_commands):
    for folder in ("data/sample", "data/ag_news"):
        assert (after_commands / folder / "train.parquet").exists()
    for folder in ("runs/quickstart", "runs/ag_news_minilm"):
        assert (after_commands / folder / "model.safetensors").exists()
    assert len((after_commands / "answers.jsonl").read_text().splitlines()) == 2


def test_the_python_snippets_run(root, after_commands):
    snippets = blocks(root, "python")
    assert len(snippets) == 5
    for snippet in snippets:
        run([sys.executable, "-c", snippet], after_commands)


def test_the_recipe_in_the_readme_has_only_keys_that_exist(root):
    (text,) = blocks(root, "yaml")
    recipe = yaml.safe_load(text)
    known = {action.dest for action in build_parser()._actions}
    assert set(recipe) <= known
    for spec in recipe["datasets"].values():
        assert set(spec) <= set(SPEC_KEYS)
        assert set(spec["columns"].values()) <= {"text", "text_pair", *recipe["tasks"]}
    check_recipe_tasks(recipe["tasks"])


def test_every_flag_in_the_readme_exists(root):
    text = (root / "README.md").read_text(encoding="utf-8")
    of_others = {
        "--source",
        "--output",
        "--num_proc",
        "--spacy_model",
        "--push_to_hub",
        "--overwrite",
        "--seeds",
        "--int8",
        "--model",
        "--input",
        "--keep",
        "--embeddings",
        "--min_score",
        "--pair_column",
        "--host",
        "--planted_share",
        "--normalize",
        "--rows",
        "--repeats",
        "--json",
        "--gold",
        "--teacher",
        "--engine",
        "--num_workers",
        "--app",
        "--data",
        "--rm",
        "--user",
    }
    known = {option for action in build_parser()._actions for option in action.option_strings} | of_others
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9_]+", text))
    assert len(mentioned) > 20
    assert mentioned <= known


def test_every_file_in_the_layout_exists(root):
    (layout,) = blocks(root, "text")
    names = [line.split()[0] for line in layout.splitlines()]
    assert [name for name in names if not (root / name).exists()] == []
