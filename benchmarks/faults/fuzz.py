"""Reads many random files, valid and broken, and counts the outcomes. The files differ in each run.

python benchmarks/faults/fuzz.py --inputs 10000

Half of the inputs of a format are written by its standard writer, or as an annotation tool does, and must be read as
they were written. The other half are changed in a few places. If our readers accept such a file, an independent reader
must read the same (exports: no more rows than there are); if they reject it, they must raise a `ValueError` from our
own code that names the file. The smallest failing input is shown.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy


sys.path.insert(0, str(Path(__file__).parents[2]))

from mtsbert.recipe import build_parser
from tests.fuzz.annotations import EXPORTS
from tests.fuzz.checks import (
    check_broken_export,
    check_changed,
    check_changed_recipe,
    check_export,
    check_written,
    check_written_recipe,
)
from tests.fuzz.inputs import FILES, changed


Check = Callable[[Any, Path], str]

recipe_parser = build_parser()
CHECKS: dict[str, dict[str, tuple[SearchStrategy, Check]]] = {
    suffix: {"written": (FILES[suffix], check_written), "changed": (changed(suffix), check_changed)}
    for suffix in FILES
}
CHECKS[".yaml"] = {
    "written": (FILES[".yaml"], partial(check_written_recipe, parser=recipe_parser)),
    "changed": (changed(".yaml"), partial(check_changed_recipe, parser=recipe_parser)),
}
CHECKS |= {
    name: {"written": (whole, check_export), "changed": (broken, check_broken_export)}
    for name, (whole, broken) in EXPORTS.items()
}


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=10_000, help="Number of inputs per format.")
    parser.add_argument("--formats", nargs="+", default=list(CHECKS), choices=list(CHECKS), metavar="SUFFIX")
    parser.add_argument(
        "--seed",
        type=int,
        default=random.randrange(2**32),
        help="Random seed, which is printed, to repeat the same inputs.",
    )
    args = parser.parse_args()
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)
    sys.stdout.write(f"seed {args.seed}\n\n| format | kind | inputs | read | refused | failed | CPU seconds |\n")
    sys.stdout.write("|---|---|---:|---:|---:|---:|---:|\n")
    failed = []
    for suffix in args.formats:
        for kind, (files, check) in CHECKS[suffix].items():
            counts, failure, seconds = run(files, check, suffix, args.inputs // 2, args.seed)
            failed += [failure] if failure else []
            sys.stdout.write(
                f"| {suffix} | {kind} | {counts.total():,} | {counts['read']:,} | {counts['refused']:,} | "
                f"{int(failure is not None)} | {seconds:.0f} |\n"
            )
            sys.stdout.flush()
    sys.stdout.write("".join(f"\n{failure}" for failure in failed))
    sys.exit(bool(failed))


def run(
    files: SearchStrategy, check: Check, suffix: str, num_inputs: int, number: int
) -> tuple[Counter, str | None, float]:
    """
    Reads random inputs of a format.

    Args:
        files (`SearchStrategy`): Generates the inputs.
        check (`Callable`): Reads an input and returns the outcome; raises if it is wrong.
        suffix (`str`): The suffix of the files.
        num_inputs (`int`): The number of inputs.
        number (`int`): The random seed.

    Returns:
        The number of inputs by outcome, the first failure if there is one, and the CPU seconds.
    """
    counts: Counter = Counter()
    begun = time.process_time()
    folder = Path(tempfile.mkdtemp())
    datasets.config.HF_DATASETS_CACHE = str(folder / "cache")

    @seed(number)
    @settings(
        max_examples=num_inputs,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(files)
    def try_each(file: Any) -> None:
        if counts.total() % 500 == 499:
            shutil.rmtree(folder / "cache", ignore_errors=True)
        path = folder / f"{counts.total()}{suffix}"
        counts[check(file, path)] += 1
        path.unlink()

    try:
        try_each()
        failure = None
    except BaseException as error:  # readers must never raise any of these
        if isinstance(error, KeyboardInterrupt):
            raise
        failure = "".join(traceback.format_exception(error))
    finally:
        shutil.rmtree(folder)
    return counts, failure, time.process_time() - begun


if __name__ == "__main__":
    main()
