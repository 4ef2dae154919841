"""What came of reading an input: a value, or an error that is clear. Anything else fails, and so does a hang."""

import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


ROOT = Path(__file__).parents[2]
OURS = (ROOT, ROOT / "mtl", ROOT / "data_prep")  # folders whose code may raise for an input
# Longer is a hang: inputs are of a few hundred bytes. On a busy machine the wall's clock runs much faster.
PROCESSOR_SECONDS, SECONDS = 20, 300


@dataclass(frozen=True)
class Refused:
    """The message of a `ValueError` that our own code raised."""

    message: str


def outcome_of(read: Callable[[], Any], *, names: str) -> Any:
    """
    What `read` returns, or [`Refused`]. Fails where it raises something else, or raises where the code is not ours, or
    does not say `names` (the file, say), or takes too long.
    """

    try:
        with _stopped_after(PROCESSOR_SECONDS, SECONDS):
            return read()
    except ValueError as error:
        refusal = error
    innermost = Path(traceback.extract_tb(refusal.__traceback__)[-1].filename)
    assert type(refusal) is ValueError, f"{type(refusal).__name__} is not a plain ValueError: {refusal}"
    assert innermost.parent in OURS, f"raised in {innermost}: {refusal}"
    assert names in str(refusal), f"does not name {names}: {refusal}"
    return Refused(str(refusal))


@contextmanager
def _stopped_after(processor_seconds: int, seconds: int) -> Iterator[None]:
    """Raises `TimeoutError` in the midst of what takes longer, by either clock."""

    def stop(*_) -> None:
        raise TimeoutError(f"no answer in {processor_seconds} seconds of the processor, or {seconds} of the wall")

    clocks = {signal.SIGPROF: (signal.ITIMER_PROF, processor_seconds), signal.SIGALRM: (signal.ITIMER_REAL, seconds)}
    before = {number: signal.signal(number, stop) for number in clocks}
    for timer, limit in clocks.values():
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for number, (timer, _) in clocks.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])
