"""Answers on their way to a file: what is done lies beside it, by one process at a time, until all of it is."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


LINES_FILE, DESCRIPTION_FILE, LOCK_FILE = "answers.jsonl", "description.json", "lock"
SUFFIX = ".partial"


class Unfinished:
    """
    The folder of the unfinished answers to `output`.

    Args:
        description: What the answers follow from, as JSON. Answers that follow from something else are not gone on
            with.
    """

    def __init__(self, output: Path, description: dict):
        self.output = output
        self.folder = output.with_name(output.name + SUFFIX)
        self.lines = self.folder / LINES_FILE
        self._description = description

    @contextmanager
    def opened(self) -> Iterator[int]:
        """
        Gives how many answers are done. After the block the folder is removed; after an exception it stays.

        Raises:
            `ValueError`: where another process is at it, the folder cannot be made, or it holds other answers.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / LOCK_FILE).acquire(timeout=0)
        except Timeout:
            raise ValueError(f"Another process is writing {self.output}.") from None
        except OSError as error:
            raise ValueError(f"{self.folder} cannot be written: {error}.") from None
        with lock:
            if self.output.exists():
                raise ValueError(f"{self.output} exists already; remove it or name another file.")
            yield self._num_done()
            shutil.rmtree(self.folder)

    def finish(self, file: Path) -> None:
        """Moves the file with all answers, which lies in the folder, to its place."""
        file.rename(self.output)

    def _num_done(self) -> int:
        """Cuts what was half written. A folder that was never whole begins anew."""
        try:
            description = json.loads((self.folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            description = None
        if description is None or not self.lines.is_file():
            self.lines.write_text("")
            aside = self.folder / f"{DESCRIPTION_FILE}.new"
            aside.write_text(json.dumps(self._description), encoding="utf-8")
            aside.rename(self.folder / DESCRIPTION_FILE)
            return 0
        if description != self._description:
            raise ValueError(
                f"{self.folder} holds unfinished answers of another model, input or set of options. Remove it to "
                "begin anew."
            )
        done = end = 0
        with self.lines.open("r+b") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    done, end = done + 1, end + len(line)
            lines.truncate(end)
        return done
