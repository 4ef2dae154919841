"""Tests how many threads a run uses."""

import os

import psutil
import pytest
import torch

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
