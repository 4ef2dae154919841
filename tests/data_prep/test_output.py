"""Tests that a folder which is replaced is never lost."""

from pathlib import Path

import pytest

from data_prep.output import unfinished_output


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_text("old")
    return tmp_path / "data"


def test_a_folder_that_cannot_be_replaced_stays(folder, monkeypatch):
    rename = Path.rename

    def fail(self, target):
        if ".partial-" in self.name:
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no"), unfinished_output(folder) as unfinished:
        (unfinished / "a").write_text("new")
    assert (folder / "a").read_text() == "old"
    assert [path.name for path in folder.parent.iterdir()] == ["data"]


def test_what_a_killed_process_has_hidden_is_found_again(folder):
    folder.rename(folder.with_name(".data.old-1"))
    with pytest.raises(RuntimeError, match="stop"), unfinished_output(folder):
        raise RuntimeError("stop")
    assert (folder / "a").read_text() == "old"
