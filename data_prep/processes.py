"""Work on several processes of this machine, its results in the order of what went in."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch


BLOCKS_PER_PROCESS = 3  # in memory: one at work, and one on each side of it

_load: Callable[[], Callable[[Any], Any]]  # in a process that `processes` has begun


@contextmanager
def processes(
    load: Callable[[], Callable[[Any], Any]], num_processes: int
) -> Iterator[Callable[[Iterable], Iterator]]:
    """
    Processes with a thread each, begun from nothing: a fork of a process that has threads may hang, and PyTorch has
    some. They import the program that was started, so a script keeps its work behind `if __name__ == "__main__"`.

    Args:
        load: Makes the function that does the work; each process calls it once.

    Gives:
        A function from blocks of work to what comes of them, in the same order. It reads only a few blocks ahead of
        what was taken from it.

    Raises:
        `ValueError`: where a process dies. What the work itself raises comes through as it is.
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
    """Loaded with the first block and not before, so that what goes wrong is that block's."""
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
