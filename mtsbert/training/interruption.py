"""A run that is told to stop, by SIGTERM or Ctrl-C, finishes its step and saves a checkpoint first."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial


# Where processes got different ones, the first is what is obeyed.
STOPPING_SIGNALS = (signal.SIGTERM, signal.SIGINT)
STANDARD_ERROR = 2
NOTED = "\n{}: the step will be finished and a checkpoint saved. Another Ctrl-C stops at once.\n"


class Interrupted(SystemExit):
    """Raised when the checkpoint is saved. Ends the program with 128 + the signal's number, as a shell reports it."""

    def __init__(self, stopped_by: signal.Signals):
        super().__init__(128 + stopped_by)


class Interruption:
    """Which signal this process was told to stop by."""

    def __init__(self):
        self.signal: signal.Signals | None = None
        self.speaks = True  # whether the first signal is answered on standard error
        self._process = 0

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """
        Inside, the first stopping signal is only noted, and a Ctrl-C after it raises `KeyboardInterrupt`. What the
        process was started to ignore (as `nohup` and `&` do with Ctrl-C) it goes on ignoring.
        """
        self.signal, before = None, {}
        if threading.current_thread() is threading.main_thread():  # no other may handle signals
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
            return  # a worker that was forked off with this handler; the process that it works for is told as well
        if self.signal is None:
            self.signal = signal.Signals(number)
            if self.speaks:  # not by the logger, which the signal may have come in the midst of
                with suppress(OSError):  # whoever reads it may have got the same signal, and have ended
                    os.write(STANDARD_ERROR, NOTED.format(self.signal.name).encode())
        elif number == signal.SIGINT:
            raise KeyboardInterrupt


def deaf_to_signals(initialize: Callable[[int], None] | None) -> Callable[[int], None]:
    """
    What a DataLoader's worker begins with instead of `initialize`: it ignores the signals that stop the run. They
    reach a whole process group, and without its workers a run could not finish its step. A worker ends by itself when
    the process that it works for has ended.
    """
    return partial(_begin_deaf, initialize)


def _begin_deaf(initialize: Callable[[int], None] | None, worker: int) -> None:
    for number in STOPPING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if initialize is not None:
        initialize(worker)
