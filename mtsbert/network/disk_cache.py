"""Caches tensors on disk, so that several runs can share them."""

import errno
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout


STATES_FILE, DESCRIPTION_FILE = "states.bin", "cache.json"
PARTIAL = ".partial"  # suffix of a folder that is being written

logger = logging.getLogger(__name__)


@dataclass
class DiskCache:
    """
    A folder of cached tensors. The key of each must determine its content.

    A checksum is verified when a cache is opened; a damaged cache is computed again. A lock makes other processes that
    need the same cache wait.

    Args:
        folder (`Path`): The folder of all caches.
        limit_gb (`float`): The maximum size of all caches together, in 10^9 bytes. The least recently used ones are
            removed first.
    """

    folder: Path
    limit_gb: float

    def rows(
        self,
        key: str,
        compute: Callable[[], Iterator[tuple[int, torch.Tensor]]],
        *,
        num_rows: int,
        width: int,
        dtype: torch.dtype,
        what: str,
    ) -> torch.Tensor | None:
        """
        Opens a memory-mapped matrix `(num_rows, width)`, or computes it and writes it to disk.

        Args:
            key (`str`): The name of the cache, a hash of everything that determines its content.
            compute (`Callable`): Yields blocks of rows, each with the index of its first row.
            num_rows, width (`int`): The shape of the matrix.
            dtype (`torch.dtype`): The dtype on disk.
            what (`str`): What messages call the cache, such as `"feature cache"`.

        Returns:
            The matrix; None, with a warning, if it does not fit into the limit or on the disk.
        """
        num_bytes = num_rows * width * dtype.itemsize
        size = f"{num_rows:,} x {width} x {dtype.itemsize} bytes = {num_bytes / 1e9:.2f} GB"
        if num_bytes > self.limit_gb * 1e9:
            logger.warning(f"No {what}: {size} is more than `feature_cache_gb` ({self.limit_gb:g}).")
            return None
        path = self.folder / key
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / f"{key}.lock"):
                if not _is_sound(path, num_bytes):
                    logger.info(f"{what[0].upper()}{what[1:]}: {size}, written to {path}.")
                    shutil.rmtree(path, ignore_errors=True)
                    self._make_room(num_bytes)
                    _write(path, compute(), num_bytes, num_bytes // max(num_rows, 1))
                else:
                    logger.info(f"{what[0].upper()}{what[1:]}: {size}, found in {path}.")
                os.utime(path)
                return _mapped(path / STATES_FILE, dtype, width)
        except OSError as error:
            logger.warning(f"No {what}: {path} cannot be written ({error}).")
            return None

    def remove(self, key: str) -> None:
        """Deletes a cache. Processes that have opened it may go on reading it."""
        shutil.rmtree(self.folder / key, ignore_errors=True)

    def _make_room(self, num_bytes: int) -> None:
        """Removes the leftovers of killed runs, then the least recently used caches until the new one fits."""
        for partial in self.folder.glob(f"*{PARTIAL}"):
            try:
                with FileLock(self.folder / f"{partial.stem}.lock", timeout=0):
                    shutil.rmtree(partial, ignore_errors=True)
            except Timeout:
                pass  # another run is writing it
        found = []
        for file in self.folder.glob(f"*/{STATES_FILE}"):
            try:
                found.append((file.parent.stat().st_mtime, file.stat().st_size, file.parent))
            except OSError:
                pass  # another run has just removed it
        used = sum(size for _, size, _ in found)
        for _, size, cache in sorted(found):
            if used + num_bytes <= self.limit_gb * 1e9:
                break
            if cache.suffix == PARTIAL:  # another run is writing it
                continue
            logger.info(f"Feature cache: {cache} makes room.")
            shutil.rmtree(cache, ignore_errors=True)  # a run that uses it keeps the file open
            used -= size


def _is_sound(path: Path, num_bytes: int) -> bool:
    """Whether a complete cache with the right checksum exists."""
    if not path.is_dir():
        return False
    try:
        description = json.loads((path / DESCRIPTION_FILE).read_text())
        if (path / STATES_FILE).stat().st_size == num_bytes and description["crc32"] == _checksum(path / STATES_FILE):
            return True
    except (OSError, ValueError, KeyError, TypeError):
        pass
    logger.warning(f"The feature cache {path} is damaged: it is computed again.")
    return False


def _write(path: Path, blocks: Iterator[tuple[int, torch.Tensor]], num_bytes: int, bytes_per_row: int) -> None:
    """Writes the rows to a temporary folder, and renames it when it is complete."""
    partial = path.with_suffix(PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
    if (free := shutil.disk_usage(path.parent).free) < num_bytes:
        raise OSError(errno.ENOSPC, f"{free / 1e9:.2f} GB are free")
    partial.mkdir()
    try:
        with (partial / STATES_FILE).open("wb") as file:
            file.truncate(num_bytes)  # rows that are not in any block are 0
            for first, rows in blocks:
                file.seek(first * bytes_per_row)
                file.write(rows.contiguous().view(torch.uint8).numpy())
        (partial / DESCRIPTION_FILE).write_text(json.dumps({"crc32": _checksum(partial / STATES_FILE)}))
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _mapped(file: Path, dtype: torch.dtype, width: int) -> torch.Tensor:
    """Opens a file as a memory-mapped tensor `(N, width)`."""
    return torch.from_numpy(np.memmap(file, np.uint8, mode="c")).view(dtype).view(-1, width)


def _checksum(file: Path) -> int:
    value = 0
    with file.open("rb") as content:
        while block := content.read(1 << 24):
            value = zlib.crc32(block, value)
    return value
