"""Runs a program in the background of a test, in a fork of the process that has imported the large libraries."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tests.warm import WarmPython


# What the program says goes to the log as it says it, after a line with the id of its process.
START = """
import os, runpy, signal, sys
log = os.open(sys.argv.pop(1), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
for descriptor in (1, 2):
    os.dup2(log, descriptor)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background ignore Ctrl-C
print(os.getpid(), flush=True)
"""


class ForkedProcess:
    """
    A program that runs in a process of its own, with the methods of `subprocess.Popen` that the tests need.

    Args:
        python (`WarmPython`): The process to fork. It runs nothing else until the program has ended.
        code (`str`): The program. It can use `os`, `runpy`, `signal` and `sys`.
        arguments (`str`): Its arguments.
        log (`Path`): A new file for all that it says; the first line is the id of the process.
        cwd (`Path`): Its working directory.
        variables (`dict[str, str]`, *optional*): Environment variables to set.
    """

    def __init__(
        self,
        python: WarmPython,
        code: str,
        *arguments: str,
        log: Path,
        cwd: Path,
        variables: dict[str, str] | None = None,
    ):
        executor = ThreadPoolExecutor(1)
        words = ("-c", START + code, log, *arguments)
        self._done = executor.submit(python.run, *words, cwd=cwd, variables=variables)
        executor.shutdown(wait=False)
        while not log.exists() or "\n" not in log.read_text():
            assert not self._done.done(), self._done.result().stderr
            time.sleep(0.01)
        self.pid = int(log.read_text().partition("\n")[0])

    def poll(self) -> int | None:
        return self.wait() if self._done.done() else None

    def wait(self, timeout: float | None = None) -> int:
        return self._done.result(timeout).returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        with suppress(ProcessLookupError):  # it has just ended
            if not self._done.done():
                self.send_signal(number)
