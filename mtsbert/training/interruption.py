"""Handles SIGTERM and Ctrl-C: a run finishes the current step and saves a checkpoint before it stops."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial


# If ranks received different signals, the first in this list counts.
STOPPING_SIGNALS = (signal.SIGTERM, signal.SIGINT)
STANDARD_ERROR = 2
NOTED = "\n{}: the step will be finished and a checkpoint saved. Another Ctrl-C stops at once.\n"


class Interrupted(SystemExit):
    """Raised after the checkpoint was saved. Exits with status 128 + signal number, as is usual in a shell."""

    def __init__(self, stopped_by: signal.Signals):
        super().__init__(128 + stopped_by)


class Interruption:
    """Records the signal that tells this process to stop."""

    def __init__(self):
        self.signal: signal.Signals | None = None
        self.speaks = True  # whether to print a message to stderr after the first signal
        self._process = 0

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """
        Context in which the first signal is only recorded, and a Ctrl-C after it raises `KeyboardInterrupt`. Signals
        that the process was started to ignore (as by `nohup` and `&`) are still ignored.
        """
        self.signal, before = None, {}
        if threading.current_thread() is threading.main_thread():  # only the main thread may set handlers
            self._process = os.getpid()
            for number in STOPPING_SIGNALS:
                handler = signal.getsignal(number)
                if handler is not None and handler != signal.SIG_IGN:  # None: not set by Python
                    before[number] = signal.signal(number, self._note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        if os.getpid() != self._process:
            return  # a forked worker that inherited this handler; its parent gets the signal as well
        if self.signal is None:
            self.signal = signal.Signals(number)
            if self.speaks:  # not with the logger, which the signal may have interrupted
                with suppress(OSError):  # the reader of stderr may have been stopped by the same signal
                    os.write(STANDARD_ERROR, NOTED.format(self.signal.name).encode())
        elif number == signal.SIGINT:
            raise KeyboardInterrupt


def deaf_to_signals(initialize: Callable[[int], None] | None) -> Callable[[int], None]:
    """
    Wraps the `worker_init_fn` of a DataLoader so that its workers ignore the signals that stop the run.

    Signals reach a whole process group, and without its workers a run could not finish the step. Workers exit by
    themselves when their parent process has ended.
    """
    return partial(_begin_deaf, initialize)


def _begin_deaf(initialize: Callable[[int], None] | None, worker: int) -> None:
    for number in STOPPING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if initialize is not None:
        initialize(worker)
