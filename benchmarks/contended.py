"""Measures how two training runs at once slow each other on the same cores, against one alone.

python benchmarks/contended.py --config recipes/ag_news_minilm.yaml

Each run has as many threads as there are cores. Idle threads sleep, which is what our commands choose. For comparison,
one run alone has them do what they do without us: libgomp, which torch brings along, spins 300,000 times before it
sleeps if no variable says otherwise. All runs train all the time and take turns of a few seconds, in which the others
are stopped: other programs, and a processor that gets slower, then meet all of them alike. Every step has the same
work: copies of one row of middling length, without random parts of texts. Steps of different rows would hide in their
noise what is measured.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median


sys.path.insert(0, str(Path(__file__).parent.parent))

from mtsbert.threads import set_up_threads


set_up_threads()  # as our commands do, before anything imports torch

from quality import ROOT, write_report  # noqa: E402


SLEEPING, SPINNING, TWO = "one alone", "one alone, as without us", "two at once, together"
DEFAULT_OF_LIBGOMP = {"GOMP_SPINCOUNT": "300000"}  # wins over OMP_WAIT_POLICY, which our commands set
OWN = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # a choice of the user's would win
SETTLING = 0.5  # seconds after a run goes on before its steps count
LONGEST_START, LONGEST_STEP = 600, 300  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=40, help="Turns of each setting.")
    parser.add_argument("--seconds", type=float, default=3.0, help="Of a turn.")
    parser.add_argument("--steps_into", type=Path, help=argparse.SUPPRESS)  # what a run is started with
    args = parser.parse_args()
    if args.steps_into is not None:
        return train(args.config, args.rows, args.steps_into)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        started = {"one": {}, "other": {}, "spinning": DEFAULT_OF_LIBGOMP}
        one, other, spinning = (
            stack.enter_context(running_stopped(args, Path(folder) / name, variables))
            for name, variables in started.items()
        )
        turns = {SLEEPING: [one], TWO: [one, other], SPINNING: [spinning]}
        rates: dict[str, list[float]] = {name: [] for name in turns}
        for turn in range(args.repeats):
            for name in random.Random(turn).sample(list(turns), len(turns)):
                rates[name].append(steps_per_second(turns[name], args.seconds))
    figures = {
        "steps_per_second": rates,
        "two at once / one alone": ratio(rates[TWO], rates[SLEEPING]),
        "alone: sleeping / as without us": ratio(rates[SLEEPING], rates[SPINNING]),
    }
    sys.stdout.write(
        f"{json.dumps(figures, indent=2)}\nWritten to {write_report('contended', args.config.stem, figures)}\n"
    )


def train(config: Path, rows: int, steps_into: Path) -> None:
    """Trains with a recipe for very long, and leaves the end of each step in a file: seconds, one a line."""
    from train import one_epoch, our_trainer
    from transformers import TrainerCallback

    class Steps(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            file.write(f"{time.monotonic()}\n")

    with tempfile.TemporaryDirectory() as folder, steps_into.open("w", buffering=1) as file:
        arguments, data = one_epoch(config, rows, folder)
        arguments += ["--num_train_epochs=1000", "--embedding_distillation_parts=0"]
        features = data.features["train"]
        middling = sorted(range(len(features)), key=features["length"].__getitem__)[len(features) // 2]
        data.features["train"] = features.select([middling] * rows)
        our_trainer(arguments, data, callbacks=[Steps()])[0].train()


@contextmanager
def running_stopped(args: argparse.Namespace, path: Path, variables: dict[str, str]) -> Iterator["Run"]:
    """A run that has taken its first steps, and is stopped."""
    environment = {name: value for name, value in os.environ.items() if name not in OWN} | variables
    command = [sys.executable, __file__, f"--config={args.config}", f"--rows={args.rows}", f"--steps_into={path}"]
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
    run, until = Run(process, path), time.monotonic() + LONGEST_START
    try:
        while len(run.steps()) < 2:
            run.check(until)
            time.sleep(0.1)
        process.send_signal(signal.SIGSTOP)
        yield run
    finally:
        process.kill()
        process.wait()


class Run:
    """A process that trains, and the file with the ends of its steps."""

    def __init__(self, process: subprocess.Popen, path: Path):
        self.process, self.path = process, path

    def steps(self) -> list[float]:
        """The ends of all steps so far, in seconds."""
        return [float(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def check(self, until: float) -> None:
        """Raises `RuntimeError` if the process has ended, or takes longer than until then."""
        if self.process.poll() is not None or time.monotonic() > until:
            raise RuntimeError("A run has ended or makes no steps; its output is above.")


def steps_per_second(runs: list[Run], seconds: float) -> float:
    """Lets runs go on together for a while, and returns their speeds in sum, between the first step and the last."""
    for run in runs:
        run.process.send_signal(signal.SIGCONT)
    since = time.monotonic() + SETTLING
    time.sleep(SETTLING + seconds)
    for run in runs:
        while len([step for step in run.steps() if step > since]) < 2:
            run.check(since + LONGEST_STEP)
            time.sleep(0.05)
    for run in runs:
        run.process.send_signal(signal.SIGSTOP)
    counted = [[step for step in run.steps() if step > since] for run in runs]
    return sum((len(steps) - 1) / (steps[-1] - steps[0]) for steps in counted)


def ratio(one: list[float], other: list[float]) -> float:
    """The median of the ratios of turns that were near each other."""
    return median(mine / theirs for mine, theirs in zip(one, other, strict=True))


if __name__ == "__main__":
    main()
