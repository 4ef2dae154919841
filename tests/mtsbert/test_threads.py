"""Tests how many threads our programs use, and that they do not spin while they wait."""

import math
import os
import subprocess
import sys

import pytest

from mtsbert import threads
from mtsbert.threads import cpu_quota, num_allowed_cores, set_up_threads


@pytest.mark.parametrize(
    ("files", "process", "cores"),
    [
        ({"cpu.max": "max 100000"}, "0::/", math.inf),
        ({"cpu.max": "200000 100000"}, "0::/", 2),
        ({"cpu.max": "150000 100000"}, "0::/", 2),  # a share of a core is used as well
        ({"cpu.max": "1000 100000"}, "0::/", 1),
        ({"cpu.max": "max 100000", "pods/a/cpu.max": "300000 100000"}, "0::/pods/a", 3),
        ({"pods/cpu.max": "100000 100000", "pods/a/cpu.max": "300000 100000"}, "0::/pods/a", 1),  # the narrowest
        ({"pods/b/cpu.max": "100000 100000"}, "0::/pods/a", math.inf),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, "4:cpu:/", 3),  # cgroups 1
        ({"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, "4:cpu,cpuacct:/a", math.inf),
        ({"cpu.max": "many"}, "0::/", math.inf),
        ({}, "", math.inf),
    ],
    ids=str,
)
def test_the_quota_of_a_container(tmp_path, files, process, cores):
    for name, content in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(content)
    (tmp_path / "process").write_text(process + "\n")
    assert cpu_quota(tmp_path / "groups", tmp_path / "process") == cores


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert cpu_quota(tmp_path / "nowhere", tmp_path / "nothing") == math.inf


@pytest.mark.parametrize(("quota", "set_by_user", "found"), [(1, None, "1"), (1, "7", "7"), (math.inf, None, None)])
def test_no_more_threads_than_the_quota_unless_the_user_says_so(monkeypatch, quota, set_by_user, found):
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    monkeypatch.setattr(threads, "num_allowed_cores", lambda: 4)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("OMP_NUM_THREADS", set_by_user or "")
    if set_by_user is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    set_up_threads()
    assert os.environ.get("OMP_NUM_THREADS") == found
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_the_cores_of_this_process():
    assert num_allowed_cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("module", ["mtsbert.cli", "mtsbert.__main__", "run_mtl"])
def test_programs_say_how_to_wait_before_they_load_torch(module, root):
    """A finder that is asked first looks at the environment when torch is about to be imported."""
    code = f"""
import os, sys
class Watch:
    def find_spec(self, name, path, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"))
            sys.exit()
sys.meta_path.insert(0, Watch())
sys.argv = ["mtsbert", "train", "--help"]
import {module}
import torch
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "PASSIVE"


@pytest.mark.parametrize("command", ["edit", "no-such-command"])
def test_garbage_is_collected_once_a_command_is_imported(command):
    code = (
        "import gc\n"
        "from mtsbert.cli import _module_of\n"
        "try:\n"
        f"    _module_of({command!r})\n"
        "except ImportError:\n"
        "    pass\n"
        "print(gc.isenabled(), gc.get_freeze_count() > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True True\n", done.stderr[-3000:]
