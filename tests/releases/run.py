"""
Tests checkpoints with several releases of transformers, and training with those that `requirements.txt` allows.

    python tests/releases/run.py 5.0 5.24                                 # prints what works
    python tests/releases/run.py --table docs/compatibility.md 5.0 5.24   # also writes it to the page

The newest release writes a checkpoint. Each release loads it in all ways, compares the results, and saves it again;
the newest loads the result. Checkpoints that a release has trained are loaded by the oldest and the newest release.
Each release is installed into a small environment in `.venv-releases`, with the versions of the dependencies that it
needs; all other packages are those of the environment that runs this program.
"""

import argparse
import json
import math
import os
import platform
import re
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement
from packaging.version import Version


HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENTS = ROOT / ".venv-releases"
TOLERANCE = 1e-5
MARKS = ("<!-- Written by `make test-releases`. -->\n", "<!-- End of what it writes. -->\n")
HEADER = ("transformers", "huggingface_hub", "tokenizers", "opens", "largest difference", "saves", "trains")


@dataclass
class Release:
    """One release of transformers, and what was found out about it. A result is "yes", or says what went wrong."""

    name: str
    python: Path
    versions: dict[str, str]
    answers: dict | None = None
    opens: str = "not tried"
    difference: float = math.nan
    saves: str = "not tried"
    trains: str = "not supported"

    @property
    def works(self) -> bool:
        return self.opens == self.saves == "yes" and self.trains in ("yes", "not supported")

    def cells(self) -> list[str]:
        versions = [self.versions[name] for name in HEADER[:3]]
        return [*versions, self.opens, f"{self.difference:.0e}" if self.difference else "0", self.saves, self.trains]


class Failed(Exception):
    """A program that ended with an error; the text is its last line."""


def run(python: Path, program: Path, *arguments: object, cwd: Path, isolated: bool = True) -> str:
    """What a program prints. It finds no files of this repository unless they lie beside it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_MODULES_CACHE": str(cwd / "modules" / python.parents[1].name),
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [python, *(["-I"] if isolated else []), program, *arguments]
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(([line for line in done.stderr.splitlines() if line.strip()] or ["no message"])[-1].strip())
    return done.stdout


def install(name: str) -> Release:
    """The latest patch of a release, in an environment of its own."""
    folder = ENVIRONMENTS / name
    venv.create(folder, clear=True, symlinks=True)
    python = folder / "bin" / "python"
    packages = Path(sysconfig.get_path("purelib", "posix_prefix", {"base": str(folder)}))
    (packages / "everything_else.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet", "--disable-pip-version-check"]
    # Other packages of this environment may ask for another release; a checkpoint needs none of them.
    subprocess.run([*pip, "install", "--no-warn-conflicts", f"transformers=={name}.*"], check=True)
    ask = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    command = [python, "-c", ask, *HEADER[:3]]
    versions = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return Release(name, python, dict(zip(HEADER[:3], versions, strict=True)))


def open_checkpoint(release: Release, checkpoint: Path, copy: Path, cwd: Path) -> dict:
    return json.loads(run(release.python, HERE / "open_checkpoint.py", checkpoint, copy, cwd=cwd))


def largest_difference(one: object, other: object) -> float:
    """Between the numbers of two answers; infinite where anything else differs."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) if math.isfinite(one - other) else math.inf
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((largest_difference(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max((largest_difference(*parts) for parts in zip(one, other, strict=True)), default=0.0)
    return 0.0 if one == other else math.inf


def try_opening(release: Release, newest: Release, folder: Path) -> None:
    copy = folder / "copies" / release.name
    try:
        release.answers = open_checkpoint(release, folder / "checkpoint", copy, folder)
        release.difference = largest_difference(newest.answers, release.answers)
        release.opens = "yes" if release.difference <= TOLERANCE else "with other answers"
        back = open_checkpoint(newest, copy, folder / "copies" / f"{release.name}-back", folder)
        same = largest_difference(newest.answers, back) <= TOLERANCE
        release.saves = "yes" if same else "with other answers"
    except Failed as error:
        if release.answers is None:
            release.opens = str(error)
        else:
            release.saves = str(error)


def try_training(release: Release, openers: list[Release], folder: Path) -> None:
    """A short run with evaluation and checkpoints; its result opens with the oldest and the newest release."""
    output = folder / "runs" / release.name
    columns = {"text": "text", "topic": "topic", "ner": "ner"}
    rows = dict.fromkeys(("train", "validation"), str(folder / "rows.jsonl"))
    recipe = {
        "output_dir": str(output),
        "encoder_name_or_path": str(folder / "encoder"),
        "datasets": {"news": {"files": rows, "columns": columns}},
        "tasks": {"topic": {"type": "sequence_classification"}, "ner": {"type": "token_classification"}},
        "max_length": 32,
        "do_train": True,
        "do_eval": True,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2,
        "precision": "fp32",
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_composite",
        "disable_tqdm": True,
    }
    path = folder / f"recipe-{release.name}.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")  # which is YAML, too
    try:
        run(release.python, ROOT / "run_mtl.py", "--config", path, cwd=folder, isolated=False)
        results = json.loads((output / "all_results.json").read_text(encoding="utf-8"))
        if not math.isfinite(results["eval_loss"]):
            raise Failed(f"its loss is {results['eval_loss']}")
        ask = "import sys; from transformers import pipeline; "
        ask += "print(pipeline('multi-task', model=sys.argv[1], trust_remote_code=True)('Oslo beat Lima'))"
        (folder / "ask.py").write_text(ask, encoding="utf-8")
        answers = {run(opener.python, folder / "ask.py", output, cwd=folder) for opener in openers}
        release.trains = "yes" if len(answers) == 1 else "its result gives different answers"
    except Failed as error:
        release.trains = str(error)


def table(releases: list[Release]) -> str:
    lines = [HEADER, ["---"] * len(HEADER), *(release.cells() for release in releases)]
    rows = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    newest, torch = releases[-1].versions["transformers"], version("torch").partition("+")[0]
    with_what = f"transformers {newest}, Python {platform.python_version()} and torch {torch}"
    return f"{rows}\nThe checkpoint was written with {with_what}.\n"


def write_table(page: Path, text: str) -> None:
    """Replaces what stands between the marks of a page."""
    start, end = map(re.escape, MARKS)
    before = page.read_text(encoding="utf-8")
    after, count = re.subn(f"(?<={start}).*?(?={end})", lambda _: text, before, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"{page} needs the lines {MARKS[0].strip()} and {MARKS[1].strip()}, each once.")
    page.write_text(after, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="+", help="minor releases of transformers, such as 5.4")
    parser.add_argument("--table", type=Path, metavar="PAGE", help="write the table to this page")
    arguments = parser.parse_args()
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    (allowed,) = [Requirement(line) for line in lines if line.startswith("transformers")]
    releases = [install(name) for name in sorted(set(arguments.releases), key=Version)]
    oldest, newest = releases[0], releases[-1]
    with TemporaryDirectory() as name:
        folder = Path(name)
        run(newest.python, HERE / "write_checkpoint.py", folder, cwd=folder)
        newest.answers = open_checkpoint(newest, folder / "checkpoint", folder / "copies" / "first", folder)
        for release in releases:
            try_opening(release, newest, folder)
            if allowed.specifier.contains(release.versions["transformers"]):
                try_training(release, [oldest, newest], folder)
            sys.stdout.write(" | ".join(release.cells()) + "\n")
            sys.stdout.flush()
    if arguments.table is not None:
        write_table(arguments.table, table(releases))
    if failed := [release.name for release in releases if not release.works]:
        raise SystemExit(f"Something does not work with transformers {', '.join(failed)}; see above.")


if __name__ == "__main__":
    main()
