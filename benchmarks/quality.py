"""Measures the quality of a recipe: mean and standard deviation of each metric over several seeds.

python benchmarks/quality.py --config recipes/ag_news_minilm.yaml --seeds 42 43 44

With --after, each seed trains with another recipe first, and goes on from that checkpoint.
"""

import argparse
import json
import os
import shlex
import sys
from pathlib import Path

from machine import describe_machine


sys.path.insert(0, str(Path(__file__).parent.parent))

from mtsbert.machine import has_native_bf16
from mtsbert.runs import folder_of_run, mean_and_sd, run_once


ROOT = Path(__file__).parent.parent
RESULTS = Path(os.environ.get("BENCHMARK_RESULTS", Path(__file__).parent / "results"))  # another folder for quick runs

# Flags of run_mtl.py for a run of which only the last epoch, or the duration, counts.
TRAINING_ALONE = ["--eval_strategy=no", "--save_strategy=no", "--load_best_model_at_end=False"]
# One encoder that the tasks alone move.
PLAIN = ["--num_task_layers=0", "--embedding_distillation=0", "--embedding_distillation_parts=0"]
PRECISIONS = ("fp32", "bf16") if has_native_bf16() else ("fp32",)  # what is emulated is many times slower


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--after", type=Path, help="Recipe to train with first; --config goes on from its checkpoint.")
    args = parser.parse_args()
    runs = {}
    for seed in args.seeds:
        first = [] if args.after is None else [f"--model_name_or_path={run_at(args.after, seed, [], name='first')[1]}"]
        runs[seed] = run(args.config, seed, [*first, *args.flags])
    summary = summarise(list(runs.values()))
    path = write_report("quality", args.config.stem, {"runs": runs, "summary": summary})
    sys.stdout.write(table(summary) + f"\n\nWritten to {path}\n")


def argument_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("flags", nargs="*", help="Further flags of run_mtl.py, after '--'.")
    return parser


def write_report(script: str, subject: str | None, figures: dict) -> Path:
    """Writes results to a JSON file, with the command and the machine."""
    command = f"python {shlex.join([f'benchmarks/{script}.py', *sys.argv[1:]])}"
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{'_'.join(filter(None, [script, subject]))}.json"
    path.write_text(json.dumps({"command": command, "machine": describe_machine(), **figures}, indent=2) + "\n")
    return path


def run(config: Path, seed: int, flags: list[str], *, name: str = "run") -> dict[str, float]:
    """
    Trains with a recipe and returns all metrics.

    Args:
        config (`Path`): The recipe, relative to the root of the project.
        seed (`int`): The seed.
        flags (`list[str]`): Further flags of `run_mtl.py`.
        name (`str`, *optional*, defaults to `"run"`): Prefix of the folder's name.
    """
    folder = ROOT / "runs" / "benchmarks" / config.stem
    return run_once(ROOT / config, [f"--seed={seed}", *flags], folder=folder, name=f"{name}_seed{seed}")


def run_at(config: Path, seed: int, flags: list[str], *, name: str) -> tuple[dict[str, float], Path]:
    """Like [`run`], but keeps the checkpoint, and returns its folder as well."""
    where = {"folder": ROOT / "runs" / "benchmarks" / config.stem, "name": f"{name}_seed{seed}"}
    flags = [f"--seed={seed}", *flags]
    metrics = run_once(ROOT / config, flags, keeps_weights=True, **where)
    return metrics, folder_of_run(ROOT / config, flags, **where)


def summarise(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Returns mean and standard deviation of each metric over the seeds (0 for a single seed)."""
    metrics = [key for key in runs[0] if key.startswith("test_") or key == "train_runtime"]
    return {key: mean_and_sd([run[key] for run in runs]) for key in metrics}


def table(summary: dict[str, dict[str, float]]) -> str:
    lines = [f"| {key} | {value['mean']:.4f} ± {value['sd']:.4f} |" for key, value in summary.items()]
    return "\n".join(["| metric | mean ± sd |", "|---|---|", *lines])


if __name__ == "__main__":
    main()
