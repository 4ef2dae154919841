"""Work on the machines of a Ray cluster, its results in the order of what went in. Needs `requirements-ray.txt`.

Plain actors and not Ray Data: files are read and written in this process, in order, so that the engines share the
reading, its errors, the writing, and going on where an interrupted command stopped. Ray Data keeps order and survives
a killed worker as well, but it wants sources and sinks of its own, which run elsewhere, and keeps three more actors.
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
BLOCKS_PER_WORKER = 2  # one at work and one that waits for it
BLOCKS_IN_MEMORY = 4  # a worker: with those that are done but not yet their turn
NUM_RETRIES = 3  # of a block whose worker dies; a block that kills every worker must not go round for ever


def check_engine(engine: str, num_workers: int, flag: str) -> None:
    """
    Args:
        flag (`str`): The option that says how many workers, for the error.

    Raises:
        `ValueError`: for an unknown engine, no worker at all, or a Ray that is not installed.
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
    Workers on the Ray cluster that `RAY_ADDRESS` names; without it, on a cluster of this machine alone, which ends
    with the block. Each takes one core, and computes on one thread. A worker that dies is started again, on another
    machine if need be, and so is what it was at.

    Args:
        load: Makes the function that does the work; each worker calls it once. It travels pickled, with everything
            that it holds, so the workers' machines need this project's code but none of its files.
        use_gpu: Whether a worker takes a GPU too, on a cluster that has any.

    Gives:
        A function from blocks of work to what comes of them, in the same order. It reads only a few blocks ahead of
        what was taken from it.

    Raises:
        `ValueError`: where no cluster answers, where it is too small, or where a block kills whoever works at it. What
            the work itself raises comes through as it is.
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
    """One worker's process. It loads at its first block and not before, so that what goes wrong is that block's."""

    def __init__(self):
        self._work: Callable[[Any], Any] | None = None

    def work(self, load: list, block: Any) -> Any:
        """`load` is the one reference to it in Ray's store, in a list, or Ray would fetch it for every block."""
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
    # Ray's ports let in whoever knows this token. Without one in the environment Ray writes one to the home folder.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    ray.init("local", num_cpus=num_workers, **quiet)


def _knock(address: str) -> None:
    """Raises `OSError` where nobody listens. Ray itself (2.60) would go on trying for a quarter of an hour."""
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
