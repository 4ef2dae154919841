"""Writes output under a temporary name until it is complete."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


LINES_FILE, DESCRIPTION_FILE, LOCK_FILE = "answers.jsonl", "description.json", ".mtsbert.lock"
SUFFIX = ".partial"


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """
    Yields a temporary folder that is renamed to `output` at the end of the block, or removed after an exception.

    Raises:
        `ValueError`: if `output` already exists, cannot be created, or another process is writing it.
    """
    _check_no_folder(output)
    partial = output.with_name(f".{output.name}{SUFFIX}")
    with locked(partial, output):
        try:
            _check_no_folder(output)  # another process may just have finished it
            for left in partial.iterdir():  # by a process that was killed
                if left.is_dir() and not left.is_symlink():
                    shutil.rmtree(left)
                elif left.name != LOCK_FILE:
                    left.unlink()
            yield partial
            (partial / LOCK_FILE).unlink()
            partial.rename(output)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _check_no_folder(output: Path) -> None:
    if output.exists():
        raise ValueError(f"{output} exists already; remove it or name another folder.")


def check_new_file(path: Path) -> None:
    """Raises `ValueError` if a file cannot be written because something is there, or the folder for it is not."""
    check_is_new(path)
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path} cannot be written: there is no folder {path.parent}.")
    check_can_write(path)


def check_can_write(path: Path) -> None:
    """Raises `ValueError` if a file cannot be written as [`write_json`] does: before hours of work, not after them."""
    try:
        path.with_name(path.name + SUFFIX).exists()  # which has the longest name
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error}.") from None


def check_is_new(path: Path) -> None:
    """Raises `ValueError` if something is at a path already, or nothing can be, because its name is too long."""
    try:
        if path.exists():
            raise ValueError(f"{path} exists already; remove it or name another file.")
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error}.") from None


def write_json(path: Path, report: dict) -> None:
    """Writes a JSON file under a temporary name, and renames it."""
    partial = path.with_name(path.name + SUFFIX)
    partial.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.rename(path)


@contextmanager
def locked(folder: Path, output: Path) -> Iterator[None]:
    """
    Creates the folder in which `output` is prepared, and keeps other processes out of it.

    Raises:
        `ValueError`: if another process works in it, or it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_FILE).acquire(timeout=0)
    except Timeout:
        raise ValueError(f"Another process is writing {output}.") from None
    except OSError as error:
        raise ValueError(f"{output} cannot be written: {error}.") from None
    with lock:
        yield


def read_description(folder: Path) -> dict | None:
    """What determines the answers in a folder of unfinished output; None if it does not say."""
    try:
        return json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


class Unfinished:
    """
    Resumable output: finished answers stay in a locked folder next to `output` until the file is complete.

    Args:
        output (`Path`): The file to write.
        description (`dict`): Everything that determines the answers, as JSON. Unfinished answers are only continued if
            it is the same.
    """

    def __init__(self, output: Path, description: dict):
        self.output = output
        self.folder = output.with_name(output.name + SUFFIX)
        self.lines = self.folder / LINES_FILE
        self._description = description

    @contextmanager
    def opened(self) -> Iterator[int]:
        """
        Locks the folder and yields the number of finished answers. The folder is removed at the end of the block, but
        kept after an exception.

        Raises:
            `ValueError`: if another process is writing to the folder, it cannot be created, or its answers belong to
                another description.
        """
        with locked(self.folder, self.output):
            check_is_new(self.output)
            yield self._num_done()
            shutil.rmtree(self.folder)

    def finish(self, file: Path) -> None:
        """Moves the complete file from the folder to `output`."""
        file.rename(self.output)

    def _num_done(self) -> int:
        """Counts the finished answers and removes an incomplete last line. Sets up the folder if it is new."""
        description = read_description(self.folder)
        if description is None or not self.lines.is_file():
            self.lines.write_text("")
            write_json(self.folder / DESCRIPTION_FILE, self._description)
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
