"""The folder that a dataset is written to: checked before work begins, and there only when it is complete."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def check_output(output: Path, *, overwrite: bool) -> None:
    """Raises `ValueError` if the folder cannot be written, or is not empty and may not be replaced."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"Output {output} is a file; name a folder.")
    if output.resolve().is_mount():
        raise ValueError(f"Output {output} is where a disk is mounted, and cannot be replaced; name a folder on it.")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise ValueError(f"Output folder {output} is not empty. Pass --overwrite to replace it, or name another.")


@contextmanager
def unfinished_output(output: Path) -> Iterator[Path]:
    """Yields an empty folder to write to, which takes the place of `output` at the end, or is removed on an error."""
    folder = output.resolve()  # follows links
    unfinished, replaced = (folder.with_name(f".{folder.name}.{what}-{os.getpid()}") for what in ("partial", "old"))
    hidden = sorted(folder.parent.glob(f".{folder.name}.old-*"), key=lambda path: path.stat().st_mtime)
    if hidden and not folder.exists():  # a process was killed while it replaced the folder
        hidden[-1].rename(folder)
    try:
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise ValueError(f"Output folder {output} cannot be written: {error}.") from None
    try:
        yield unfinished
        if folder.exists():
            folder.rename(replaced)
        try:
            unfinished.rename(folder)
        except BaseException:
            if replaced.exists():
                replaced.rename(folder)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_splits(made: dict[str, list[dict]], schema: pa.Schema, output: Path) -> dict[str, int]:
    """Writes a Parquet file of rows per split to a new folder, and returns their numbers."""
    with unfinished_output(output) as unfinished:
        for split, rows in made.items():
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), unfinished / f"{split}.parquet")
    return {split: len(rows) for split, rows in made.items()}
