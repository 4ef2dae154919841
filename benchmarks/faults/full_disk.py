"""
Fills the disk while a small run saves a checkpoint: the output folder is a tmpfs of a few megabytes (needs root).

python benchmarks/faults/full_disk.py [--trials 6] [--seed 0]

While the run trains, the disk is filled except for a random rest. The run must end with an error that names the disk,
and leave its last checkpoint complete. When there is space again, the resumed run must end with the weights of an
uninterrupted run.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from small_run import Run, command, digest, steps_of_checkpoints, write_recipe


MEGABYTES = 64


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chance, failed = random.Random(args.seed), 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        recipe = write_recipe(folder / "recipe")
        if Run(command(recipe, folder / "undisturbed")).finish():
            sys.exit("The undisturbed run failed.")
        expected = digest(folder / "undisturbed")
        disk = folder / "disk"
        disk.mkdir()
        for trial in range(args.trials):
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(disk)], check=True)
            try:
                failed += not _trial(recipe, disk, expected, trial, chance)
            finally:
                subprocess.run(["umount", str(disk)], check=True)
    sys.exit(1 if failed else 0)


def _trial(recipe: Path, disk: Path, expected: str, trial: int, chance: random.Random) -> bool:
    output = disk / "run"
    run = Run(command(recipe, output))
    run.wait_for_step(chance.randint(6, 20))
    size = sum(path.stat().st_size for path in (output / "checkpoint-5").iterdir())
    left = int(chance.uniform(0.02, 0.98) * size)  # some space, but less than a checkpoint needs
    _fill(disk, left)
    status = run.finish()
    error = next((line for line in reversed(run.lines) if "could not be written" in line), "").strip()
    checkpoints = steps_of_checkpoints(output)
    (disk / "filler").unlink()
    again = Run(command(recipe, output, "--resume_from_checkpoint", "true"))
    is_same = again.finish() == 0 and digest(output) == expected
    passed_over = again.output.count("is passed over")
    is_well = status != 0 and f"The disk mounted at {disk}" in error and is_same
    sys.stdout.write(
        f"trial {trial}: room for {left / size:.0%} of a checkpoint: "
        f"{'as it should' if is_well else 'NOT AS IT SHOULD'}; exit status {status}, checkpoints {checkpoints}, "
        f"passed over {passed_over}; resumed: weights equal: {is_same}\n  {error}\n"
    )
    sys.stdout.flush()
    if not is_well:
        sys.stdout.write(run.output[-3000:] + again.output[-3000:])
    return is_well


def _fill(disk: Path, left: int) -> None:
    with (disk / "filler").open("wb") as filler:
        while (free := shutil.disk_usage(disk).free) > left:
            filler.write(b"\0" * min(1 << 16, free - left))
            filler.flush()


if __name__ == "__main__":
    main()
