"""The outcome of reading an input: a value, or a clear error. Anything else fails, including a hang."""

import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


ROOT = Path(__file__).parents[2]
OURS = (ROOT, *(ROOT / "mtsbert").glob("**/"), ROOT / "data_prep")  # folders whose code may raise for an input
SECONDS = 20  # longer is a hang: inputs are of a few hundred bytes


@dataclass(frozen=True)
class Refused:
    """The message of a `ValueError` that our own code raised."""

    message: str


def outcome_of(read: Callable[[], Any], *, names: str) -> Any:
    """
    What `read` returns, or [`Refused`]. Fails where it raises something else, or raises where the code is not ours, or
    does not say `names` (the file, say), or takes too long.
    """

    def stop(*_) -> None:
        raise TimeoutError(f"no answer in {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        return read()
    except ValueError as error:
        refusal = error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    innermost = Path(traceback.extract_tb(refusal.__traceback__)[-1].filename)
    assert type(refusal) is ValueError, f"{type(refusal).__name__} is not a plain ValueError: {refusal}"
    assert innermost.parent in OURS, f"raised in {innermost}: {refusal}"
    assert names in str(refusal), f"does not name {names}: {refusal}"
    return Refused(str(refusal))
