"""Tests the dependencies and import time of a checkpoint, and that the tests run with allowed versions."""

import os
import re
import subprocess
import sys
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from transformers.dynamic_module_utils import get_relative_import_files, get_relative_imports

from pipeline_mtsbert import BROKEN_TOKENIZERS


LOWEST = ("transformers", "datasets", "huggingface_hub")  # what `make test-lowest` installs the lowest versions of
MODULES = [
    "answers_mtsbert",
    "configuration_mtsbert",
    "modeling_mtsbert",
    "entities_mtsbert",
    "heads_mtsbert",
    "losses_mtsbert",
    "pipeline_mtsbert",
]
TRIES = 3
LARGEST_SHARE = 0.25  # of the time of transformers

# Hides every package from the imports but torch, transformers, and what these two require.
HIDE_THE_REST = """
import importlib.machinery, sys
from importlib.metadata import distribution, packages_distributions, PackageNotFoundError

def required_by(name, found):
    if name not in found:
        try:
            requirements = distribution(name).requires or []
        except PackageNotFoundError:
            return found
        found.add(name)
        for requirement in requirements:
            if "extra ==" not in requirement:
                required_by(re.match(r"[\\w.-]+", requirement)[0].lower().replace("_", "-"), found)
    return found

import re
needed = required_by("torch", set()) | required_by("transformers", set())
modules = {{
    module for module, names in packages_distributions().items()
    if any(name.lower().replace("_", "-") in needed for name in names)
}}
allowed = modules | {{"transformers_modules"}}
refused = set()

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        spec = super().find_spec(name, path, target)
        if path is None and name not in allowed and spec is not None and "site-packages" in repr(spec):
            refused.add(name)
            return None
        return spec

sys.meta_path[:] = [Finder if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
"""
LOAD = """
from transformers import AutoModel, AutoTokenizer, pipeline
model = AutoModel.from_pretrained({folder!r}, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained({folder!r}, trust_remote_code=True)
answer = pipeline("multi-task", model={folder!r}, trust_remote_code=True)("Oslo beat Lima in the final")
assert set(answer) == {{"embedding", "topic", "tags", "ner", "grade"}}, answer
"""
IMPORT = """
import time
sys.path.insert(0, {root!r})
moments = [time.process_time()]
import torch
moments.append(time.process_time())
from transformers import PreTrainedModel
moments.append(time.process_time())
import {modules}
moments.append(time.process_time())
print(*(later - earlier for earlier, later in zip(moments, moments[1:])))
"""
END = """
strangers = {{"datasets", "spacy", "accelerate", "sklearn", "scipy", "pandas", "pyarrow"}} & set(sys.modules)
assert not strangers, strangers
assert "torch" in sys.modules
"""


def run(script: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def seconds_of(root) -> dict[str, float]:
    """Of a processor, to import torch, transformers, and then the files of the model, where there is nothing else."""
    modules = {"root": str(root), "modules": ", ".join(MODULES)}
    script = HIDE_THE_REST.format(modules=MODULES) + IMPORT.format(**modules) + END.format()
    best: dict[str, float] = {}
    for _ in range(TRIES):  # others use the machine too
        found = dict(zip(("torch", "transformers", "ours"), map(float, run(script).split()), strict=True))
        best = {name: min(value, best.get(name, value)) for name, value in found.items()}
        if best["ours"] < LARGEST_SHARE * best["transformers"]:
            break
    return best


def test_the_files_of_the_model_need_nothing_but_torch_and_transformers(seconds_of):
    assert set(seconds_of) == {"torch", "transformers", "ours"}


def test_next_to_all_of_that_time_is_that_of_transformers(seconds_of):
    assert seconds_of["ours"] < LARGEST_SHARE * seconds_of["transformers"], seconds_of


def test_a_checkpoint_needs_nothing_but_torch_and_transformers(checkpoint, tmp_path):
    script = HIDE_THE_REST.format(modules=MODULES) + LOAD.format(folder=str(checkpoint)) + END.format()
    run(script, HF_MODULES_CACHE=str(tmp_path / "modules"))


@pytest.mark.parametrize("hidden", ["datasets", "accelerate", "spacy"])
def test_what_is_hidden_cannot_be_imported(hidden):
    run(
        HIDE_THE_REST.format(modules=MODULES)
        + f"try:\n    import {hidden}\nexcept ModuleNotFoundError:\n    assert {hidden!r} in refused\n"
        + f"else:\n    raise AssertionError({hidden!r})"
    )


@pytest.mark.parametrize("name", ["configuration_mtsbert", "modeling_mtsbert", "pipeline_mtsbert"])
def test_files_that_transformers_asks_for_name_every_file_that_they_need(name, root):
    """transformers 5.8 and 5.9 copy no others out of a local checkpoint."""
    named = {str(root / f"{module}.py") for module in get_relative_imports(root / f"{name}.py")}
    assert named | {str(root / f"{name}.py")} >= set(get_relative_import_files(root / f"{name}.py"))


def requirements(root) -> dict[str, Requirement]:
    lines = (root / "requirements.txt").read_text().splitlines()
    return {asked.name: asked for asked in map(Requirement, (line for line in lines if not line.startswith("#")))}


def test_every_requirement_is_bounded_below_and_above(root):
    for name, asked in requirements(root).items():
        operators = {specifier.operator for specifier in asked.specifier}
        assert operators in ({">=", "<"}, {"=="}), name


def test_the_tests_run_with_versions_that_are_allowed(root):
    for name, asked in requirements(root).items():
        assert asked.specifier.contains(version(name)), name


@pytest.mark.skipif("MTSBERT_LOWEST" not in os.environ, reason="make test-lowest installs the lowest versions")
@pytest.mark.parametrize("name", LOWEST)
def test_the_lowest_versions_are_the_lowest_that_are_allowed(name, root):
    (lowest,) = [each.version for each in requirements(root)[name].specifier if each.operator == ">="]
    assert Version(version(name)) == Version(lowest)


def test_both_ends_of_the_versions_are_tested_by_ci(root):
    script = (root / ".ci" / "run").read_text().splitlines()
    assert script.index("make test") < script.index("make test-lowest")
    assert script.index("make test-lowest") < script.index('make test-releases RELEASES="5.0 5.24"')
    makefile = (root / "Makefile").read_text()
    assert re.search(r"^LOWEST := (.*)$", makefile, re.MULTILINE)[1].split() == list(LOWEST)
    telling = re.search(r"^TELLING := ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)[1].replace("\\\n", " ").split()
    assert [name for name in telling if not (root / name).is_file()] == []


def test_tokenizers_that_lose_parts_of_long_texts_are_not_allowed(root):
    allowed = requirements(root)["tokenizers"].specifier
    assert not any(allowed.contains(broken) for broken in BROKEN_TOKENIZERS)


def test_the_table_of_releases_is_that_of_the_makefile_and_everything_in_it_works(root):
    asked = re.search(r"^RELEASES_OF_TABLE := (.*)$", (root / "Makefile").read_text(), re.MULTILINE)[1].split()
    page = (root / "docs" / "compatibility.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if re.match(r"\| \d", line)]
    assert [row[0].rpartition(".")[0] for row in rows] == asked
    allowed = requirements(root)["transformers"].specifier
    for row in rows:
        assert row[3] == row[5] == "yes", row
        assert row[6] == ("yes" if allowed.contains(row[0]) else "not supported"), row


def test_both_ends_of_the_allowed_releases_are_in_the_table(root):
    asked = re.search(r"^RELEASES_OF_TABLE := (.*)$", (root / "Makefile").read_text(), re.MULTILINE)[1].split()
    bounds = {each.operator: Version(each.version) for each in requirements(root)["transformers"].specifier}
    assert str(bounds[">="]) in asked
    assert bounds["<"] == Version(f"5.{Version(asked[-1]).minor + 1}")


def test_the_code_is_checked_for_the_lowest_python_that_is_allowed(root):
    text = (root / "pyproject.toml").read_text()
    lowest = re.search(r'^requires-python = ">=3\.(\d+)"', text, re.MULTILINE)[1]
    assert re.search(r'^target-version = "py3(\d+)"', text, re.MULTILINE)[1] == lowest
