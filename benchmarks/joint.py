"""What joint training costs or gains: every task of a recipe alone, and all together, with several seeds.

python benchmarks/joint.py --config recipes/all_tasks.yaml --seeds 42 43 44 -- --max_train_samples=2000
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import yaml
from machine import describe_machine
from quality import RESULTS, ROOT, describe_command, run


PRIMARY = {
    "sequence_classification": "accuracy",
    "token_classification": "f1",
    "pair_classification": "accuracy",
    "pair_similarity": "spearman",
}


# No choosing among epochs: what is reported is the model at the end, so no task needs validation rows.
LAST_EPOCH = ["--eval_strategy=no", "--save_strategy=no", "--load_best_model_at_end=False", "--do_eval=False"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("flags", nargs="*", help="Further flags of run_mtl.py, after '--'.")
    args = parser.parse_args()
    recipe = yaml.safe_load((ROOT / args.config).read_text())
    common = [*LAST_EPOCH, *args.flags]
    settings = {"together": common} | {task: [*alone(recipe, task), *common] for task in recipe["tasks"]}
    runs = {
        name: {seed: run(args.config, seed, flags, name=name) for seed in args.seeds}
        for name, flags in settings.items()
    }
    table = {
        task: {
            how: summary([metrics[f"test_{task}_{PRIMARY[task_settings['type']]}"] for metrics in runs[name].values()])
            for how, name in (("alone", task), ("together", "together"))
        }
        for task, task_settings in recipe["tasks"].items()
    }
    report = {
        "command": describe_command("benchmarks/joint.py"),
        "machine": describe_machine(),
        "table": table,
        "runs": runs,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"joint_{args.config.stem}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    sys.stdout.write(markdown(recipe["tasks"], table) + f"\n\nWritten to {path}\n")


def alone(recipe: dict, task: str) -> list[str]:
    """The flags that leave one task of a recipe, and the datasets that feed it."""
    datasets = {}
    for name, spec in recipe["datasets"].items():
        if task in spec["columns"].values():
            columns = {c: role for c, role in spec["columns"].items() if role == task or role not in recipe["tasks"]}
            datasets[name] = {**spec, "columns": columns}
    return [f"--tasks={json.dumps({task: recipe['tasks'][task]})}", f"--datasets={json.dumps(datasets)}"]


def summary(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.mean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}


def markdown(tasks: dict[str, dict], table: dict[str, dict]) -> str:
    lines = ["| task | metric | alone | together | difference |", "|---|---|---|---|---|"]
    for task, results in table.items():
        one, all_ = results["alone"], results["together"]
        cells = [f"{100 * value['mean']:.1f} ± {100 * value['sd']:.1f}" for value in (one, all_)]
        difference = f"{100 * (all_['mean'] - one['mean']):+.1f}"
        lines.append(f"| {task} | {PRIMARY[tasks[task]['type']]} | {cells[0]} | {cells[1]} | {difference} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
