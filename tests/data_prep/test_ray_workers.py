"""Tests that a Ray cluster gives the same bytes as the local engine in the same order, even if a worker is killed."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count, islice

import psutil
import pytest
import torch

from data_prep import blocks as labelling_blocks
from data_prep import build
from data_prep.ray_workers import BLOCKS_IN_MEMORY, NUM_RETRIES, _gpus_for_each, check_engine, ray_workers
from mtsbert.commands import predict
from mtsbert.results import answers as answering


ray = pytest.importorskip("ray", reason="Ray is not installed (requirements-ray.txt)")
pytestmark = pytest.mark.slow

# 15 if nothing is said: beside two busy processes on two cores, Ray's workers would hardly ever run.
NICENESS = "RAY_worker_niceness"


def wait_for_the_end_of(list_processes: Callable[[], list[psutil.Process]]) -> None:
    """Ray returns from ending a process before the process has ended."""
    until = time.monotonic() + 60
    while left := list_processes():
        assert time.monotonic() < until, left
        time.sleep(0.05)


def processes_of(folder: str) -> list[psutil.Process]:
    """Those of a cluster with this folder; the workers name it in their environment alone."""
    found = psutil.process_iter(["cmdline", "environ"])
    return [process for process in found if folder in f"{process.info['cmdline']} {process.info['environ']}"]


@pytest.fixture(scope="module")
def cluster():
    """Two cores' worth of Ray on this machine; nothing of it stays behind."""
    # A short name: it becomes part of sockets' names, which have at most 107 characters.
    folder = tempfile.mkdtemp(prefix="ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", "0" * 64)
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv(NICENESS, "0")
        ray.init("local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()
    wait_for_the_end_of(lambda: processes_of(folder))  # which may still write there
    shutil.rmtree(folder)


@pytest.fixture
def kills(monkeypatch):
    """Has a worker killed when the program reads a block of this number; returns the ids of killed processes."""

    def arrange(module, number: int) -> list[int]:
        blocks_of, killed = module.blocks_of, []

        def deadly(rows):
            for index, block in enumerate(blocks_of(rows)):
                if index == number:
                    killed.append(kill_a_worker())
                yield block

        monkeypatch.setattr(module, "blocks_of", deadly)
        return killed

    return arrange


def workers_of_ray() -> list[psutil.Process]:
    processes = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name().startswith("ray::_Worker"):
                processes.append(process)
    return processes


def kill_a_worker() -> int:
    victim = workers_of_ray()[0]
    victim.kill()
    return victim.pid


@pytest.fixture(autouse=True)
def no_workers_of_other_tests():
    wait_for_the_end_of(workers_of_ray)


@pytest.fixture
def squares():
    """Loads the work of squaring numbers; a function within a function travels by value, and no import slows it."""
    return lambda: lambda number: (number**2, os.getpid())


def test_results_come_in_order_though_a_worker_is_killed(cluster, squares):
    with ray_workers(squares, 2) as work:
        results = work(range(200))
        found = list(islice(results, 20))
        killed = kill_a_worker()
        found += results
    assert [square for square, _ in found] == [number**2 for number in range(200)]
    pids = {pid for _, pid in found}
    assert killed in pids
    assert len(pids) == 3


def test_only_a_few_blocks_are_in_memory(cluster, squares):
    taken = []
    with ray_workers(squares, 2) as work:
        results = work(taken.append(number) or number for number in count())
        for number in range(50):
            assert next(results)[0] == number**2
            assert len(taken) <= number + 1 + 2 * BLOCKS_IN_MEMORY


def test_what_the_work_raises_comes_through_as_it_is(cluster):
    with ray_workers(lambda: lambda row: {}[row], 1) as work:
        with pytest.raises(KeyError, match=r"^'Lima'$"):
            list(work(["Lima"]))


def test_a_block_that_kills_whoever_works_at_it_is_an_error(cluster, tmp_path):
    deaths = tmp_path / "deaths"

    def load():
        def work(number):
            if number == 3:
                with deaths.open("a") as file:
                    file.write("x")
                os.kill(os.getpid(), signal.SIGKILL)

        return work

    with ray_workers(load, 1) as work:
        with pytest.raises(ValueError, match=r"given up: 4 times the worker died .* too little memory"):
            list(work(range(5)))
    assert len(deaths.read_text()) == 1 + NUM_RETRIES


def test_more_workers_than_the_cluster_has_cores_are_refused(cluster, squares):
    with pytest.raises(ValueError, match="3 workers take a CPU each, and the Ray cluster has 2"):
        with ray_workers(squares, 3):
            pass


def test_a_worker_gets_a_gpu_where_there_are_any(monkeypatch):
    there = {"CPU": 8.0}
    monkeypatch.setattr(ray, "cluster_resources", lambda: there)
    assert _gpus_for_each(2) == 0
    there["GPU"] = 2.0
    assert _gpus_for_each(2) == 1
    with pytest.raises(ValueError, match="3 workers take a GPU each, and the Ray cluster has 2"):
        _gpus_for_each(3)


def test_an_engine_that_cannot_be_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"`engine` is 'spark'; it is one of \['local', 'ray'\]"):
        check_engine("spark", 1, "--num_proc")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"needs Ray: `pip install -r requirements-ray.txt`"):
        check_engine("ray", 1, "--num_proc")
    check_engine("local", 1, "--num_proc")


@pytest.mark.spacy_model
def test_a_dataset_has_the_bytes_of_the_local_engine_though_a_worker_is_killed(cluster, kills, tmp_path, monkeypatch):
    monkeypatch.setattr(labelling_blocks, "ROWS_PER_BLOCK", 8)
    rows = [f'"1","Envoys meet in Geneva","Item {number} was sold to Lima for ${number}."\n' for number in range(240)]
    (tmp_path / "train.csv").write_text("".join(rows))
    source = str(tmp_path / "train.csv")
    build.build_dataset(source=source, output=tmp_path / "local")
    killed = kills(build, 15)
    build.build_dataset(source=source, output=tmp_path / "ray", engine="ray", num_proc=2)
    assert len(killed) == 1
    for name in ("README.md", "train.parquet"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


@pytest.fixture
def answer(cluster, checkpoint, tmp_path, monkeypatch):
    """Runs `mtsbert predict` on 240 texts in blocks of 8, on one thread as Ray's workers do, and returns its file."""
    monkeypatch.setattr(answering, "ROWS_PER_CALL", 8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    (tmp_path / "texts.txt").write_text("".join(f"{'Oslo beat Lima. ' * (n % 9)}{n}\n" for n in range(240)))

    def run(name: str, *flags: str) -> bytes:
        output = tmp_path / name
        paths = ["--input", str(tmp_path / "texts.txt"), "--output", str(output)]
        predict.main(["--model", str(checkpoint), *paths, "--precision", "fp32", "--embeddings", *flags])
        return output.read_bytes()

    yield run
    torch.set_num_threads(num_threads)


def test_workers_go_on_where_the_local_engine_was_interrupted_with_the_same_bytes_though_one_is_killed(
    answer, kills, monkeypatch
):
    expected = answer("whole.parquet")
    blocks_of = predict.blocks_of

    def interrupted(rows):
        yield from islice(blocks_of(rows), 10)
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "blocks_of", interrupted)
    with pytest.raises(SystemExit, match="130"):
        answer("parts.parquet")
    asked = []
    monkeypatch.setattr(predict, "blocks_of", lambda rows: (asked.append(block) or block for block in blocks_of(rows)))
    killed = kills(predict, 9)
    assert answer("parts.parquet", "--engine", "ray", "--num_workers", "2") == expected
    assert sum(map(len, asked)) == 240 - 80
    assert len(killed) == 1


@pytest.mark.spacy_model
def test_the_command_brings_its_own_cluster_and_leaves_nothing_of_it(root, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        flags = ["--source", "sample", "--max_rows", "5", "--output", tmp_path / "news", "--engine", "ray"]
        done = subprocess.run(
            [sys.executable, "-m", "data_prep", *flags],
            cwd=root,
            env={**environment, "HOME": str(home), "RAY_TMPDIR": folder, NICENESS: "0"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "5 train, 5 validation, 5 test" in done.stdout
        assert "WARNING" not in done.stderr
        wait_for_the_end_of(lambda: processes_of(folder))
    assert list(home.iterdir()) == []


@pytest.fixture
def squares_at(root):
    """Runs a program that squares on the cluster at an address."""

    def run(address: str) -> subprocess.CompletedProcess:
        script = (
            "from data_prep.ray_workers import ray_workers\n"
            "with ray_workers(lambda: lambda number: number**2, 2) as work: print(*work([2, 3, 4]))"
        )
        command = [sys.executable, "-c", script]
        return subprocess.run(
            command, cwd=root, env={**os.environ, "RAY_ADDRESS": address}, capture_output=True, text=True
        )

    return run


def test_the_cluster_at_an_address_is_used_and_left_running(cluster, squares_at, squares):
    done = squares_at(ray.get_runtime_context().gcs_address)
    assert (done.stdout, done.returncode) == ("4 9 16\n", 0), done.stderr
    with ray_workers(squares, 1) as work:
        assert [square for square, _ in work([5])] == [25]


def test_a_cluster_that_does_not_answer_is_named(squares_at):
    assert "ValueError: No Ray cluster answers at RAY_ADDRESS=127.0.0.1:1: " in squares_at("127.0.0.1:1").stderr
