"""
Kills a small run at random steps, resumes it until it is finished, and compares the final weights bit for bit with
those of an uninterrupted run.

python benchmarks/faults/kill_and_resume.py --kills 10 [--chain 5] [--signals SIGTERM ...] [--seed 0] [--folder DIR]
    [-- --FLAG=VALUE ...]

Every other SIGKILL is sent while a checkpoint is being saved. Flags after `--` are passed to all runs.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from small_run import NUM_STEPS, Run, command, digest, steps_of_checkpoints, write_recipe


SIGNALS = ("SIGTERM", "SIGINT", "SIGKILL")
SECONDS_WITHIN_A_STEP, SECONDS_WITHIN_A_SAVE = 0.03, 0.01


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10, help="Number of kills per signal.")
    parser.add_argument("--chain", type=int, default=5, help="Maximum number of kills of a single run.")
    parser.add_argument("--signals", nargs="+", choices=SIGNALS, default=SIGNALS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None, help="Folder for the runs (default: a temporary folder).")
    parser.add_argument("flags", nargs="*", metavar="--FLAG=VALUE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(0 if _trial(args, args.folder or Path(temporary)) else 1)


def _trial(args: argparse.Namespace, folder: Path) -> bool:
    chance, counts = random.Random(args.seed), Counter()
    recipe = write_recipe(folder)
    straight = Run(command(recipe, folder / "straight", *args.flags))
    if straight.finish():
        sys.exit(straight.output)
    expected = digest(folder / "straight")
    _say(f"undisturbed: {straight.num_steps} steps, weights {expected}")
    for name in args.signals:
        left = args.kills
        for chain in range(-(-args.kills // args.chain)):
            number = min(args.chain, left)
            left -= number
            output = folder / f"{name}_{chain}"
            counts += _chain(recipe, output, signal.Signals[name], number, chance, args.flags)
            found = digest(output)
            counts["chains"] += 1
            counts["chains with other weights"] += found != expected
            _say(f"{name}: through after {number} kills, weights {found}, {'OTHER' * (found != expected) or 'equal'}")
    for what, number in sorted(counts.items()):
        _say(f"{what}: {number}")
    return not counts["chains with other weights"] and not counts["failed"]


def _chain(
    recipe: Path, output: Path, number: signal.Signals, kills: int, chance: random.Random, flags: list[str]
) -> Counter:
    """Kills a run several times, each time a few steps later, and then lets it finish."""
    counts: Counter = Counter()
    for kill in range(kills):
        resumes = ["--resume_from_checkpoint", "true"] if steps_of_checkpoints(output) else []
        run = Run(command(recipe, output, *resumes, *flags))
        while_saving = number == signal.SIGKILL and kill % 2 == 1
        before = set(steps_of_checkpoints(output))
        left = NUM_STEPS - max(before, default=0)
        run.wait_for_step(chance.randint(1, max(1, min(2 * left // (kills - kill + 1), left - 6))))
        if while_saving:
            before = set(steps_of_checkpoints(output))
            while set(steps_of_checkpoints(output)) == before and run.process.poll() is None:
                time.sleep(0.0005)
        time.sleep(chance.random() * (SECONDS_WITHIN_A_SAVE if while_saving else SECONDS_WITHIN_A_STEP))
        if run.process.poll() is None:
            run.process.send_signal(number)
        status = run.finish()
        _say(
            f"  {number.name} after {run.num_steps} steps: status {status}, checkpoints {steps_of_checkpoints(output)}"
        )
        if status == 0:
            counts[f"{number.name}: run was through before it came"] += 1
        elif status == (-number if number == signal.SIGKILL else 128 + number):
            counts[f"{number.name}: ended by it"] += 1
            counts[f"{number.name}: of these while saving"] += while_saving
        else:
            counts["failed"] += 1
            _say(run.output[-3000:])
        counts["half-written checkpoints passed over"] += run.output.count("is passed over")
    last = Run(command(recipe, output, "--resume_from_checkpoint", "true", *flags))
    if last.finish():
        counts["failed"] += 1
        _say(last.output[-3000:])
    counts["half-written checkpoints passed over"] += last.output.count("is passed over")
    return counts


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
