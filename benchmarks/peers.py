"""Runs other libraries in separate environments in `.peers`, so that their requirements do not conflict with ours."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from quality import ROOT


PEERS = ROOT / ".peers"


class NotAvailable(Exception):
    """Raised with the reason if a library cannot be installed or does not run here."""


def environment(name: str, requirements: list[str]) -> Path:
    """Returns the Python of a library's environment, which is created if it is missing or has other requirements."""
    folder = PEERS / name
    python, made = folder / "bin" / "python", folder / "requirements.txt"
    wanted = "\n".join(requirements) + "\n"
    if made.is_file() and made.read_text() == wanted:
        return python
    sys.stdout.write(f"Installing {name} into {folder.relative_to(ROOT)} ...\n")
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements])
    made.write_text(wanted)
    return python


def ask(python: Path, script: Path, question: dict) -> dict:
    """Runs a script in an environment with `question` as its argument. The last line of its output is the answer."""
    output = _run([str(python), str(script), json.dumps(question)])
    return json.loads(output.splitlines()[-1])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise NotAvailable(_last_error(done.stderr) or f"{Path(command[0]).name} ended with {done.returncode}")
    return done.stdout


def _last_error(output: str) -> str:
    """Returns the line with the error, without URLs and local folders."""
    lines = [line for line in output.splitlines() if re.match(r"ERROR|[\w.]*(Error|Exception)\b", line)]
    return re.sub(r"\S*/\S*", "...", lines[-1]) if lines else ""
