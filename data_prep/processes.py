"""Runs work in several processes on this machine, with results in the order of the input."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch


BLOCKS_PER_PROCESS = 3  # in memory: one being processed, one waiting and one finished

_load: Callable[[], Callable[[Any], Any]]  # set in the processes that `processes` starts


@contextmanager
def processes(
    load: Callable[[], Callable[[Any], Any]], num_processes: int
) -> Iterator[Callable[[Iterable], Iterator]]:
    """
    Starts processes with one thread each. They are spawned, because forking a process with threads (PyTorch has some)
    may hang. Spawned processes import the main script, so it needs to guard its work with `if __name__ == "__main__"`.

    Args:
        load (`Callable`): Returns the function that does the work. Each process calls it once.
        num_processes (`int`): The number of processes.

    Yields:
        A function from blocks of work to their results, in the same order. It reads only a few blocks ahead.

    Raises:
        `ValueError`: if a process dies. Exceptions of the work itself are raised unchanged.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_processes, mp_context=context, initializer=_begin, initargs=(load,))
    try:
        yield partial(_in_order, pool, BLOCKS_PER_PROCESS * num_processes)
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(load: Callable[[], Callable[[Any], Any]]) -> None:
    global _load
    torch.set_num_threads(1)
    _load = load


@cache
def _work() -> Callable[[Any], Any]:
    """Loads the work function at the first block, so that errors are raised for that block."""
    return _load()


def _do(block: Any) -> Any:
    return _work()(block)


def _in_order(pool: ProcessPoolExecutor, num_ahead: int, blocks: Iterable) -> Iterator:
    ahead: deque = deque()
    try:
        for block in blocks:
            ahead.append(pool.submit(_do, block))
            if len(ahead) == num_ahead:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    except BrokenProcessPool as error:
        raise ValueError(
            "A labelling process died. Mostly the system kills one when memory runs out: use fewer with --num_proc, "
            "or --engine ray, which starts another in its place."
        ) from error
