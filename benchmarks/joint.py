"""Compares joint training of all tasks in a recipe with training each task alone, with several seeds.

python benchmarks/joint.py --config recipes/all_tasks.yaml --seeds 42 43 44 -- --max_train_samples=2000
"""

import json
import sys

import yaml
from quality import ROOT, TRAINING_ALONE, argument_parser, run, write_report

from mtsbert.results.metrics import PRIMARY_METRIC
from mtsbert.runs import mean_and_sd


# The model after the last epoch is reported, so no checkpoint is selected and no task needs validation rows.
LAST_EPOCH = [*TRAINING_ALONE, "--do_eval=False"]


def main() -> None:
    args = argument_parser(__doc__).parse_args()
    recipe = yaml.safe_load((ROOT / args.config).read_text())
    common = [*LAST_EPOCH, *args.flags]
    settings = {"together": common} | {task: [*alone(recipe, task), *common] for task in recipe["tasks"]}
    runs = {
        name: {seed: run(args.config, seed, flags, name=name) for seed in args.seeds}
        for name, flags in settings.items()
    }
    table = {
        task: {
            how: mean_and_sd(
                [metrics[f"test_{task}_{PRIMARY_METRIC[task_settings['type']]}"] for metrics in runs[name].values()]
            )
            for how, name in (("alone", task), ("together", "together"))
        }
        for task, task_settings in recipe["tasks"].items()
    }
    path = write_report("joint", args.config.stem, {"table": table, "runs": runs})
    sys.stdout.write(markdown(recipe["tasks"], table) + f"\n\nWritten to {path}\n")


def alone(recipe: dict, task: str) -> list[str]:
    """Returns the flags that reduce a recipe to one task and the datasets with labels for it."""
    datasets = {}
    for name, spec in recipe["datasets"].items():
        if task in spec["columns"].values():
            columns = {c: role for c, role in spec["columns"].items() if role == task or role not in recipe["tasks"]}
            datasets[name] = {**spec, "columns": columns}
    kept = {key: value for key, value in recipe.get("task_weights", {}).items() if key == task}
    settings = {"tasks": {task: recipe["tasks"][task]}, "datasets": datasets, "task_weights": kept}
    return [f"--{name}={json.dumps(value)}" for name, value in settings.items()]


def markdown(tasks: dict[str, dict], table: dict[str, dict]) -> str:
    lines = ["| task | metric | alone | together | difference |", "|---|---|---|---|---|"]
    for task, results in table.items():
        one, all_ = results["alone"], results["together"]
        cells = [f"{100 * value['mean']:.1f} ± {100 * value['sd']:.1f}" for value in (one, all_)]
        difference = f"{100 * (all_['mean'] - one['mean']):+.1f}"
        lines.append(f"| {task} | {PRIMARY_METRIC[tasks[task]['type']]} | {cells[0]} | {cells[1]} | {difference} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
