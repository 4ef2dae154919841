"""Runs work on a Ray cluster, with results in the order of the input. Needs `requirements-ray.txt`.

This uses plain actors instead of Ray Data: files are read and written in this process, in order, so that both engines
share the code for reading, errors, writing and resuming. Ray Data can keep the order and survives killed workers as
well, but it needs its own sources and sinks, which run elsewhere, and three more actors.
"""

import importlib.util
import os
import secrets
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any


LOCAL, RAY = "local", "ray"
ENGINES = (LOCAL, RAY)
BLOCKS_PER_WORKER = 2  # one being processed and one waiting
BLOCKS_IN_MEMORY = 4  # per worker, including finished blocks that wait for earlier ones
NUM_RETRIES = 3  # per block if its worker dies; limited, because a block may kill every worker


def check_engine(engine: str, num_workers: int, flag: str) -> None:
    """
    Checks the options for an engine.

    Args:
        engine (`str`): `"local"` or `"ray"`.
        num_workers (`int`): The number of processes or workers.
        flag (`str`): The name of the option for `num_workers`, for the error message.

    Raises:
        `ValueError`: for an unknown engine, less than one worker, or if Ray is needed but not installed.
    """
    if engine not in ENGINES:
        raise ValueError(f"`engine` is {engine!r}; it is one of {list(ENGINES)}.")
    if num_workers < 1:
        raise ValueError(f"{flag} is {num_workers}; it must be at least 1.")
    if engine == RAY and importlib.util.find_spec("ray") is None:
        raise ValueError("The engine 'ray' needs Ray: `pip install -r requirements-ray.txt`.")


@contextmanager
def ray_workers(
    load: Callable[[], Callable[[Any], Any]], num_workers: int, *, use_gpu: bool = False
) -> Iterator[Callable[[Iterable], Iterator]]:
    """
    Starts workers on the Ray cluster at `RAY_ADDRESS`. If it is not set, a cluster on this machine is started, which
    ends with the block. Each worker uses one core and one thread. A worker that dies is restarted, on another machine
    if necessary, and its block is processed again.

    Args:
        load (`Callable`): Returns the function that does the work. Each worker calls it once. It is pickled with
            everything that it refers to, so the workers' machines need this project's code but no other files.
        num_workers (`int`): The number of workers.
        use_gpu (`bool`, *optional*, defaults to `False`): Whether each worker also uses a GPU, if the cluster has any.

    Yields:
        A function from blocks of work to their results, in the same order. It reads only a few blocks ahead.

    Raises:
        `ValueError`: if no cluster responds, if it is too small, or if a block kills every worker. Exceptions of the
            work itself are raised unchanged.
    """
    import ray

    connected_before = ray.is_initialized()
    if not connected_before:
        _connect(num_workers)
    workers = []
    try:
        num_gpus = _gpus_for_each(num_workers) if use_gpu else 0
        _check_size(num_workers, "CPU")
        options = {"num_cpus": 1, "num_gpus": num_gpus, "max_restarts": -1, "max_task_retries": NUM_RETRIES}
        workers += [ray.remote(_Worker).options(**options).remote() for _ in range(num_workers)]
        yield partial(_in_order, workers, [ray.put(load)])
    finally:
        for worker in workers:
            ray.kill(worker)
        if not connected_before:
            ray.shutdown()


class _Worker:
    """A worker process. It loads the work function at its first block, so that errors are raised for that block."""

    def __init__(self):
        self._work: Callable[[Any], Any] | None = None

    def work(self, load: list, block: Any) -> Any:
        """
        Processes a block. `load` is a list with a reference into Ray's object store; Ray would fetch a bare reference
        for every block.
        """
        import ray

        if self._work is None:
            self._work = ray.get(load[0])()
        return self._work(block)


def _connect(num_workers: int) -> None:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"logging_level": "ERROR", "include_dashboard": False}
    if address := os.environ.get("RAY_ADDRESS"):
        try:
            _knock(address)
            ray.init(address, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"No Ray cluster answers at RAY_ADDRESS={address}: {error}.") from error
        return
    # The token protects Ray's ports. If it is not in the environment, Ray writes one to the home folder.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    ray.init("local", num_cpus=num_workers, **quiet)


def _knock(address: str) -> None:
    """Raises `OSError` if nothing listens at an address. Ray itself (2.60) would retry for a quarter of an hour."""
    host, _, port = address.rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _gpus_for_each(num_workers: int) -> int:
    import ray

    if not ray.cluster_resources().get("GPU"):
        return 0
    _check_size(num_workers, "GPU")
    return 1


def _check_size(num_workers: int, kind: str) -> None:
    import ray

    if (there := int(ray.cluster_resources().get(kind, 0))) < num_workers:
        raise ValueError(
            f"{num_workers} workers take a {kind} each, and the Ray cluster has {there}. Ask for fewer workers, or "
            "add machines to it."
        )


def _in_order(workers: list, load: list, blocks: Iterable) -> Iterator:
    import ray

    blocks = iter(blocks)
    idle = deque(workers * BLOCKS_PER_WORKER)
    order: deque = deque()
    busy: dict = {}
    done: dict = {}
    try:
        while True:
            room = min(len(idle), BLOCKS_IN_MEMORY * len(workers) - len(order))
            for block in islice(blocks, room):
                worker = idle.popleft()
                order.append(worker.work.remote(load, block))
                busy[order[-1]] = worker
            if not order:
                return
            for result in ray.wait(list(busy))[0]:
                idle.append(busy.pop(result))
                done[result] = ray.get(result)
            while order and order[0] in done:
                yield done.pop(order.popleft())
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayActorError as error:
        raise ValueError(
            f"A block of texts was given up: {NUM_RETRIES + 1} times the worker died that had it, which mostly means "
            f"that its machine has too little memory. Ask for fewer workers a machine. ({error})"
        ) from error
