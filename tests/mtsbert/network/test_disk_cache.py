"""Tests that a cache on disk makes room without removing what another process is writing."""

import torch
from filelock import FileLock

from mtsbert.network.disk_cache import PARTIAL, STATES_FILE, DiskCache


def test_what_another_run_is_writing_is_not_removed(tmp_path):
    held = tmp_path / f"held{PARTIAL}"
    held.mkdir()
    (held / STATES_FILE).write_bytes(b"0" * 900)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / STATES_FILE).write_bytes(b"0" * 900)
    cache = DiskCache(tmp_path, limit_gb=1_000 / 1e9)
    with FileLock(tmp_path / "held.lock"):
        rows = cache.rows(
            "new", lambda: iter([(0, torch.ones(4, 4))]), num_rows=4, width=4, dtype=torch.float32, what="cache"
        )
    assert rows.tolist() == [[1.0] * 4] * 4
    assert held.exists()
    assert not (tmp_path / "old").exists()
