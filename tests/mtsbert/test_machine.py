"""Tests how many threads a run uses, and how its peak of memory is read."""

import ast
import os
import resource

import psutil
import pytest
import torch

from mtsbert import machine
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.machine import SET_BY_ACCELERATE, use_all_cores


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("launched", "cores", "allowed", "threads"),
    [(True, 3, 9, 3), (True, 3, 2, 2), (False, 3, 9, 1), (True, 1, 9, 1), (True, None, 9, 1)],
)
def test_a_single_process_of_accelerate_takes_all_cores(monkeypatch, tmp_path, launched, cores, allowed, threads):
    monkeypatch.delenv(SET_BY_ACCELERATE, raising=False)
    if launched:
        monkeypatch.setenv(SET_BY_ACCELERATE, "no")
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(allowed)))
    use_all_cores(MTLTrainingArguments(output_dir=str(tmp_path), use_cpu=True))
    assert torch.get_num_threads() == threads


def test_no_file_needs_a_module_that_windows_lacks(root):
    files = [*root.glob("*.py"), *(root / "mtsbert").rglob("*.py"), *(root / "data_prep").rglob("*.py")]
    lacking = {"resource", "fcntl", "grp", "pwd", "termios"}
    wrong = [
        (path.name, name.name)
        for path in files
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import)
        for name in node.names
        if name.name in lacking
    ]
    assert wrong == []


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_the_peak_of_a_process_is_in_bytes(monkeypatch, platform, unit):
    monkeypatch.setattr(machine.sys, "platform", platform)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert machine._peak_of_process() >= kilobytes * unit
    assert machine._peak_of_process() < 2 * kilobytes * unit
