"""
Tests a small run on two ranks with and without failures: on this machine, and on two machines, which are simulated by
two connected network namespaces (needs root).

python benchmarks/faults/ranks.py [--machines 1 2] [--trials NAME ...] [--folder DIR]

Each trial prints a line with the test, the outcome, and the seconds it took.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from safetensors.torch import load_file
from small_run import WEIGHTS, Run, command, digest, steps_of_checkpoints, write_recipe


LAUNCHER = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--mixed_precision", "no")
LAUNCHER += ("--dynamo_backend", "no")
PORT = 29611
NAMESPACES, ADDRESSES = ("mtsbert_one", "mtsbert_two"), ("10.213.7.1", "10.213.7.2")
TOLERANCE = 1e-6
# With one and two ranks, a step has the same rows, and dropout is off.
COMPARABLE = {
    "train_sampling_strategy": "sequential",
    "dataset_sampling": "proportional",
    "head_dropout": 0.0,
    "optim": "sgd",
    "learning_rate": 0.05,
    "gradient_accumulation_steps": 1,
    "gradual_unfreezing": None,
    "unfreeze_every": None,
    "feature_cache": None,
    "eval_strategy": "no",
    "do_eval": True,
}
# Batches alternate between the two datasets, so the ranks have labels of different tasks in each step.
DIFFERENT_TASKS = {"dataset_sampling": "round_robin", "gradient_accumulation_steps": 1}


class Machines:
    """Launches on one machine, or on two machines with a launcher each."""

    def __init__(self, number: int):
        self.number = number

    def start(self, recipe: Path, output: Path, *flags: str) -> list[Run]:
        """Starts a run. On two machines, each has its own output folder."""
        if self.number == 1:
            launcher = [*LAUNCHER, "--num_machines", "1", "--main_process_port", str(PORT)]
            return [Run(command(recipe, output, *flags, launcher=launcher))]
        runs = []
        for rank, namespace in enumerate(NAMESPACES):
            launcher = [*LAUNCHER, "--num_machines", "2", "--machine_rank", str(rank)]
            launcher += ["--main_process_ip", ADDRESSES[0], "--main_process_port", str(PORT)]
            arguments = command(recipe, self.outputs(output)[rank], *flags, launcher=launcher)
            runs.append(Run(arguments, ["ip", "netns", "exec", namespace], GLOO_SOCKET_IFNAME="cable"))
        return runs

    def outputs(self, output: Path) -> list[Path]:
        return [output] if self.number == 1 else [output, output.with_name(f"{output.name}_of_machine_2")]


@contextmanager
def two_namespaces() -> Iterator[None]:
    """Creates two network namespaces that can only reach each other."""
    for namespace in NAMESPACES:
        _ip("netns", "add", namespace)
    try:
        _ip(
            "link",
            "add",
            "cable",
            "netns",
            NAMESPACES[0],
            "type",
            "veth",
            "peer",
            "name",
            "cable",
            "netns",
            NAMESPACES[1],
        )
        for namespace, address in zip(NAMESPACES, ADDRESSES, strict=True):
            _ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                _ip("-n", namespace, "link", "set", device, "up")
        yield
    finally:
        for namespace in NAMESPACES:
            _ip("netns", "del", namespace)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def rank_process(run: Run, rank: int) -> int | None:
    """Returns the process id of a rank among the processes that a launcher has started."""
    for process in _descendants(run.process.pid):
        try:
            variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"RANK={rank}".encode() in variables:
            return process
    return None


def _descendants(process: int) -> list[int]:
    try:
        children = [
            int(child)
            for path in Path(f"/proc/{process}/task").glob("*/children")
            for child in path.read_text().split()
        ]
    except OSError:
        return []
    return children + [one for child in children for one in _descendants(child)]


def finish_all(runs: list[Run]) -> tuple[list[int], float]:
    """Waits for all runs. Returns their exit statuses, and the seconds until all have ended."""
    began = time.perf_counter()
    return [run.finish() for run in runs], time.perf_counter() - began


def metrics_of(output: Path) -> dict[str, float]:
    results = json.loads((output / "all_results.json").read_text())
    timed = ("runtime", "per_second", "memory_gb")
    return {key: value for key, value in results.items() if key.startswith("eval_") and not key.endswith(timed)}


class Trials:
    def __init__(self, folder: Path, machines: Machines):
        self.folder, self.machines = folder, machines
        self.name = f"{machines.number} machine(s)"
        self.failed = 0

    def all(self) -> dict[str, Callable[[], None]]:
        return {
            "equal": self.equal_to_one_process,
            "uneven": lambda: self.equal_to_one_process("--max_train_samples", "57"),
            "tasks": self.different_tasks,
            "sigterm": lambda: self.launcher_is_told_to_stop(signal.SIGTERM),
            "sigint": lambda: self.launcher_is_told_to_stop(signal.SIGINT),
            "sigterm_rank": self.one_rank_is_told_to_stop,
            "kill_0": lambda: self.one_rank_is_killed(0),
            "kill_1": lambda: self.one_rank_is_killed(1),
        }

    def tell(self, tried: str, is_well: bool, happened: str) -> None:
        self.failed += not is_well
        sys.stdout.write(f"{self.name}: {tried}: {'as it should' if is_well else 'NOT AS IT SHOULD'}; {happened}\n")
        sys.stdout.flush()

    def fresh(self, name: str) -> Path:
        return self.folder / f"{name}_{self.machines.number}"

    def equal_to_one_process(self, *flags: str) -> None:
        recipe = write_recipe(self.folder / "comparable", **COMPARABLE)
        _without_dropout(self.folder / "comparable" / "encoder")
        one, two = (self.fresh("_".join([name, *flags])) for name in ("one_process", "two_processes"))
        batches = ("--per_device_eval_batch_size", "4", "--per_device_train_batch_size")
        alone = Run(command(recipe, one, *flags, *batches, "8"))
        statuses, _ = finish_all([alone])
        together, seconds = finish_all(runs := self.machines.start(recipe, two, *flags, *batches, "4"))
        if any(statuses + together):
            self.tell("training", False, "".join(run.output[-1500:] for run in [alone, *runs]))
            return
        expected, found = load_file(one / WEIGHTS), load_file(two / WEIGHTS)
        difference = max((expected[name] - found[name]).abs().max().item() for name in expected)
        moved = max((expected[name] - before).abs().max().item() for name, before in _start(self.folder, expected))
        self.tell(
            f"{runs[0].num_steps} steps of 2 x 4 rows against 8 in one process{' '.join(['', *flags])}",
            difference < TOLERANCE,
            f"largest difference of a weight {difference:.1e}, where training moved weights by up to {moved:.1e}, "
            f"{seconds:.0f} s",
        )
        alone_metrics, together_metrics = metrics_of(one), metrics_of(two)
        exact = {key: value for key, value in alone_metrics.items() if not key.endswith("loss")}
        losses = max(
            abs(value - together_metrics[key]) for key, value in alone_metrics.items() if key.endswith("loss")
        )
        self.tell(
            "metrics of 21 rows in batches of 4 (uneven last ones)",
            all(together_metrics[key] == value for key, value in exact.items()) and losses < TOLERANCE,
            f"{len(exact)} metrics equal, largest difference of a loss {losses:.1e}",
        )

    def different_tasks(self) -> None:
        recipe = write_recipe(self.folder / "different", **DIFFERENT_TASKS)
        statuses, seconds = finish_all(runs := self.machines.start(recipe, self.fresh("different_tasks")))
        steps = runs[0].num_steps
        self.tell("processes with labels of different tasks", not any(statuses), f"{steps} steps in {seconds:.0f} s")
        output = self.fresh("different_tasks")
        others = [path for folder in self.machines.outputs(output)[1:] for path in folder.rglob("*")]
        names = sorted(path.name for path in (output / "checkpoint-5").iterdir())
        has_states = {"rng_state_0.pth", "rng_state_1.pth", "trainer_state.json"} <= set(names)
        what = "files of the second machine's output folder" if self.machines.number == 2 else "(one folder for both)"
        self.tell("rank 0 writes the checkpoint", has_states and not others, f"{len(others)} {what}")

    def undisturbed(self) -> tuple[Path, str]:
        """Returns the recipe for the following trials, and the result of an uninterrupted run."""
        recipe = write_recipe(self.folder / "disturbed") if not hasattr(self, "_undisturbed") else self._undisturbed[0]
        if not hasattr(self, "_undisturbed"):
            finish_all(self.machines.start(recipe, self.fresh("undisturbed")))
            self._undisturbed = recipe, digest(self.fresh("undisturbed"))
        return self._undisturbed

    def launcher_is_told_to_stop(self, number: signal.Signals) -> None:
        def tell(runs: list[Run]) -> None:
            # The launcher gets the signal; on two machines, each launcher does, as from a scheduler.
            for run in runs:
                run.process.send_signal(number)

        self.stopped_and_resumed(f"{number.name} to the launcher(s)", tell)

    def one_rank_is_told_to_stop(self) -> None:
        def tell(runs: list[Run]) -> None:
            os.kill(rank_process(runs[-1], 1), signal.SIGTERM)

        self.stopped_and_resumed("SIGTERM to rank 1 alone", tell)

    def stopped_and_resumed(self, tried: str, tell: Callable[[list[Run]], None]) -> None:
        recipe, expected = self.undisturbed()
        output = self.fresh(tried.replace(" ", "_").replace("(s)", ""))
        runs = self.machines.start(recipe, output, "--save_strategy", "no")
        runs[0].wait_for_step(7)
        tell(runs)
        statuses, seconds = finish_all(runs)
        checkpoints = steps_of_checkpoints(output)
        stopped = f"checkpoint after {checkpoints} in {seconds:.1f} s, exit status {statuses}"
        for folder in self.machines.outputs(output)[1:]:  # without a shared disk, it is copied, as documented
            subprocess.run(["cp", "-r", f"{output}/.", folder], check=True)
        resumed, _ = finish_all(
            again := self.machines.start(recipe, output, "--save_strategy", "no", "--resume_from_checkpoint", "true")
        )
        is_same = not any(resumed) and digest(output) == expected
        self.tell(tried, len(checkpoints) == 1 and is_same, f"{stopped}; resumed: weights equal: {is_same}")
        if not is_same:
            sys.stdout.write("".join(run.output[-2500:] for run in [*runs, *again]))

    def one_rank_is_killed(self, rank: int) -> None:
        recipe, expected = self.undisturbed()
        output = self.fresh(f"killed_{rank}")
        runs = self.machines.start(recipe, output)
        runs[0].wait_for_step(7)
        os.kill(rank_process(runs[rank if self.machines.number == 2 else 0], rank), signal.SIGKILL)
        statuses, seconds = finish_all(runs)
        output_of_all = "".join(run.output for run in runs)
        is_told = "Another process of this run has ended" in output_of_all
        for folder in self.machines.outputs(output)[1:]:
            subprocess.run(["cp", "-r", f"{output}/.", folder], check=True)
        finish_all(again := self.machines.start(recipe, output, "--resume_from_checkpoint", "true"))
        is_same = (output / WEIGHTS).exists() and digest(output) == expected
        self.tell(
            f"SIGKILL of rank {rank}",
            seconds < 60 and all(statuses) and is_told and is_same,
            f"all ended in {seconds:.1f} s, exit status {statuses}, said so: {is_told}; resumed: weights equal: "
            f"{is_same}",
        )
        if not (is_told and is_same):
            sys.stdout.write(output_of_all[-5000:] + "".join(run.output[-2500:] for run in again))


def _without_dropout(encoder: Path) -> None:
    config = json.loads((encoder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (encoder / "config.json").write_text(json.dumps(config))


def _start(folder: Path, weights: dict) -> Iterator[tuple[str, object]]:
    """Yields the encoder's weights before training, by their names in the model."""
    for name, weight in load_file(folder / "comparable" / "encoder" / WEIGHTS).items():
        if f"encoder.{name}" in weights:
            yield f"encoder.{name}", weight


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--machines", type=int, nargs="+", choices=(1, 2), default=(1, 2))
    parser.add_argument("--folder", type=Path, default=None, help="Folder for the runs (default: a temporary folder).")
    names = list(Trials(Path(), Machines(1)).all())
    parser.add_argument("--trials", nargs="+", choices=names, default=names)
    args = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        for number in args.machines:
            folder = (args.folder or Path(temporary)) / f"machines_{number}"
            with two_namespaces() if number == 2 else nullcontext():
                trials = Trials(folder, Machines(number))
                for name in args.trials:
                    trials.all()[name]()
                failed += trials.failed
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
