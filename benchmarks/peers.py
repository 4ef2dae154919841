"""Other people's trainers in environments of their own, below `.peers`, so that what they need does not meet ours."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from quality import ROOT


PEERS = ROOT / ".peers"


class NotAvailable(Exception):
    """A peer that cannot be installed or does not run here; the message says why."""


def environment(name: str, requirements: list[str]) -> Path:
    """The Python of a peer's environment, which is made when it is not there, or is one of other requirements."""
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
    """Runs a script in a peer's environment: `question` is its argument, its last line of output the answer."""
    output = _run([str(python), str(script), json.dumps(question)])
    return json.loads(output.splitlines()[-1])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise NotAvailable(_last_error(done.stderr) or f"{Path(command[0]).name} ended with {done.returncode}")
    return done.stdout


def _last_error(output: str) -> str:
    """The line that says what went wrong, without addresses and folders of this machine."""
    lines = [line for line in output.splitlines() if re.match(r"ERROR|[\w.]*(Error|Exception)\b", line)]
    return re.sub(r"\S*/\S*", "...", lines[-1]) if lines else ""
