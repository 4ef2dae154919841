"""Compares freezing strategies on your data: runs a recipe with each strategy and several seeds, and writes a table.

    mtsbert study --config recipes/ag_news_minilm.yaml --seeds 3

Flags after `--` are passed to all runs of `mtsbert train`. An interrupted study continues when the same command is run
again. Metrics are those of the validation split after the last epoch.
"""

import argparse
import itertools
import json
import logging
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from mtsbert.adapters.lora import ALL_LINEAR
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.data.labels import check_recipe_tasks
from mtsbert.freezing_arguments import NEED_ADAPTERS
from mtsbert.network.starting_point import load_encoder_config, tasks_of_checkpoint
from mtsbert.preparation import data_prep
from mtsbert.recipe import NOT_IN_RECIPES, names_set_by, parse_arguments
from mtsbert.results.metrics import COMPOSITE, PRIMARY_METRIC
from mtsbert.results.tables import markdown_table
from mtsbert.runs import copy_recipe, mean_and_sd, run_once
from mtsbert.training.optimization import head_learning_rate


# Settings that the study sets itself. Only the model after the last epoch counts, so no checkpoints are saved or
# selected, and nothing is predicted or pushed.
ALWAYS = {
    "do_train": True,
    "do_eval": True,
    "do_predict": False,
    "check_data": False,
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "push_to_hub": False,
}
NEVER = (
    *("early_stopping_patience", "metric_for_best_model", "resume_from_checkpoint", "seed", "output_dir"),
    *("freeze_encoder", "freeze_embeddings", "num_frozen_layers", "freeze_layers", "freeze_heads"),
    *("gradual_unfreezing", "unfreeze_every", "thaw_at", "layer_decay", "feature_cache", "gradient_aggregator"),
    *("adaptive_freezing", "adaptive_freezing_change"),
    *("freeze_modules", "bitfit", "lora_r", *NEED_ADAPTERS),
    *("num_task_layers", "embedding_distillation", "embedding_distillation_parts"),  # other answers to the question
    "embedding_reference",
)

# What trains few parameters needs a higher rate than what trains all of them: times `learning_rate`.
FASTER_ADAPTERS, FASTER_BIASES = 15, 5

logger = logging.getLogger(__name__)


def strategies(num_layers: int, tasks: list[str], args: MTLTrainingArguments) -> dict[str, list[str]]:
    """
    Maps the name of each strategy to its flags, for an encoder with `num_layers` layers and a head per task. `args`
    are those of full fine-tuning, whose rates the others are derived from.
    """
    adapters, biases = _faster(FASTER_ADAPTERS, args), _faster(FASTER_BIASES, args)
    lowest = {"lower_half_frozen": num_layers // 2, "top_layer": num_layers - 1}
    if lowest["top_layer"] == lowest["lower_half_frozen"]:
        del lowest["top_layer"]
    adaptive = {"adaptive": ["--adaptive_freezing"]} if num_layers > 1 else {}
    return {
        "full": [],
        "encoder_frozen": ["--freeze_encoder"],
        **{f"{task}_head_frozen": ["--freeze_heads", task] for task in tasks},
        **{
            name: ["--freeze_embeddings", f"--num_frozen_layers={number}", "--feature_cache=True"]
            for name, number in lowest.items()
            if number
        },
        "embeddings_frozen": ["--freeze_embeddings"],
        "bitfit": ["--bitfit", *biases],
        "lora_8": ["--lora_r=8", f"--lora_target={ALL_LINEAR}", *adapters],
        "lora_32": ["--lora_r=32", "--lora_alpha=64", f"--lora_target={ALL_LINEAR}", *adapters],
        "thawed_after_a_third": ["--freeze_encoder", "--thaw_at=0.33"],
        "gradual": ["--gradual_unfreezing", f"--unfreeze_every={1 / (num_layers + 2):.4f}"],
        **adaptive,
        "nothing_trained": ["--freeze_encoder", "--freeze_heads", *tasks],
    }


def _faster(times: int, args: MTLTrainingArguments) -> list[str]:
    """Flags that train the encoder at a higher rate, and the heads at theirs."""
    return [f"--learning_rate={times * args.learning_rate:g}", f"--head_learning_rate={head_learning_rate(args):g}"]


def study_recipe(config: Path, folder: Path) -> tuple[Path, int]:
    """Writes a copy of the recipe with the study's own settings. Returns its path and the seed of the recipe."""
    recipe = yaml.safe_load(config.read_text(encoding="utf-8"))
    if left_out := [key for key in NEVER if key in recipe and key not in ("seed", "output_dir")]:
        logger.info(f"The study decides for itself, and leaves out of the recipe: {left_out}.")
    folder.mkdir(parents=True, exist_ok=True)
    return copy_recipe(config, folder, without=NEVER, changes=ALWAYS), recipe.get("seed", MTLTrainingArguments.seed)


@dataclass
class Outcome:
    """The results of a strategy over all seeds."""

    metrics: dict[str, dict[str, float]]
    """Task, or `composite` → `mean` and `sd` of the main metric."""
    num_trained_parameters: int
    seconds: float
    """Training time (mean over the seeds) plus the time to build the feature cache, which only one run does."""
    seconds_per_epoch: float
    """Training time per epoch without the feature cache, mean over the seeds."""
    peak_memory_gb: float | None
    num_seeds: int

    @classmethod
    def of(cls, runs: list[dict[str, float]], keys: dict[str, str]) -> "Outcome":
        epochs = [run.get("train_runtime", 0.0) for run in runs]
        caches = [run.get("feature_cache_runtime", 0.0) for run in runs]
        peaks = [run["train_peak_memory_gb"] for run in runs if "train_peak_memory_gb" in run]
        return cls(
            metrics={name: mean_and_sd([run[key] for run in runs]) for name, key in keys.items()},
            num_trained_parameters=int(runs[0]["num_trained_parameters"]),
            seconds=mean_and_sd(epochs)["mean"] + max(caches),
            seconds_per_epoch=mean_and_sd(
                [taken / (run.get("epoch") or 1.0) for taken, run in zip(epochs, runs, strict=True)]
            )["mean"],
            peak_memory_gb=max(peaks, default=None),
            num_seeds=len(runs),
        )


def main(argv: list[str] | None = None, *, prog: str = "mtsbert study") -> Path:
    """Runs the study and returns the folder with the results."""
    logging.basicConfig(format="%(levelname)s %(message)s")
    logging.getLogger("mtsbert").setLevel(logging.INFO)
    args = _parse(argv, prog)
    parse_arguments(["--config", str(args.config)])  # raises for an invalid recipe
    folder = args.output_dir or Path("runs") / "study" / args.config.stem
    config, first_seed = study_recipe(args.config, folder)
    base = ["--config", str(config), "--output_dir", str(folder), *args.flags]
    model_args, data_args, training_args = parse_arguments(base)
    tasks = (tasks_of_checkpoint(model_args) or {}) | data_args.tasks
    check_recipe_tasks(tasks)
    num_layers = load_encoder_config(model_args).get_text_config().num_hidden_layers
    known = strategies(num_layers, list(tasks), training_args)
    if unknown := [name for name in args.strategies or [] if name not in known]:
        raise ValueError(f"Unknown strategies {unknown}; for this recipe there are {list(known)}.")
    chosen = {name: known[name] for name in args.strategies or known}
    for flags in chosen.values():
        parse_arguments([*base, *flags])  # before the first run, raises for flags that cannot be combined
    keys = {task: f"eval_{task}_{PRIMARY_METRIC[settings['type']]}" for task, settings in tasks.items()}
    keys[COMPOSITE] = f"eval_{COMPOSITE}"
    outcomes = {}
    for name, flags in chosen.items():
        try:
            runs = [
                run_once(config, [*args.flags, *flags, f"--seed={seed}"], folder=folder, name=f"{name}_seed{seed}")
                for seed in range(first_seed, first_seed + args.seeds)
            ]
        except RuntimeError as error:  # e.g. an encoder without a list of layers; continue with the other strategies
            logger.error(f"Strategy {name} is left out: {error}")
            continue
        outcomes[name] = Outcome.of(runs, {task: key for task, key in keys.items() if key in runs[0]})
    if not outcomes:
        raise ValueError("No strategy could be run; the reasons are above.")
    text = f"{study_table(outcomes)}\n\n{verdict(outcomes)}\n"
    (folder / "study.json").write_text(
        json.dumps({name: vars(outcome) for name, outcome in outcomes.items()}, indent=2)
    )
    (folder / "study.md").write_text(text, encoding="utf-8")
    plot(outcomes, folder / "study.png")
    sys.stdout.write(f"\n{text}\nSaved in {folder}: study.json, study.md, study.png\n")
    return folder


def _parse(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="Recipe of `mtsbert train`.")
    parser.add_argument(
        "--strategies", nargs="+", help="Strategies to compare. Default: all. An unknown name prints the list."
    )
    parser.add_argument(
        "--seeds", type=int, default=3, help="Number of seeds, counting up from the recipe's seed (default: 3)."
    )
    parser.add_argument("--output_dir", type=Path, help="Folder for the results. Default: runs/study/NAME_OF_RECIPE.")
    parser.add_argument("flags", nargs="*", help="Further flags of `mtsbert train` for all runs, after '--'.")
    args = parser.parse_args(argv)
    if args.seeds < 1:
        raise ValueError(f"`--seeds` is {args.seeds}; it must be at least 1.")
    if mine := sorted(names_set_by(args.flags) & {*NEVER, *ALWAYS, *NOT_IN_RECIPES}):
        raise ValueError(f"The study decides {mine} itself; leave them out behind '--'.")
    return args


def study_table(outcomes: dict[str, Outcome]) -> str:
    """Formats a Markdown table with a row per strategy; metrics in percent, mean ± standard deviation over seeds."""
    names = list(next(iter(outcomes.values())).metrics)
    cells = [["strategy", *names, "trained parameters", "s per epoch", "s in all", "peak memory"]]
    for strategy, outcome in outcomes.items():
        metrics = [f"{100 * value['mean']:.1f} ± {100 * value['sd']:.1f}" for value in outcome.metrics.values()]
        memory = "" if outcome.peak_memory_gb is None else f"{outcome.peak_memory_gb:.1f} GB"
        seconds = [f"{value:.1f}" if value else "" for value in (outcome.seconds_per_epoch, outcome.seconds)]
        cells.append([strategy, *metrics, f"{outcome.num_trained_parameters:,}", *seconds, memory])
    return markdown_table(cells)


def verdict(outcomes: dict[str, Outcome]) -> str:
    """Says which strategy is best and by how much, and which is the fastest within two standard errors of it."""

    def score(name: str) -> dict[str, float]:
        return outcomes[name].metrics[COMPOSITE]

    ranking = sorted(outcomes, key=lambda name: -score(name)["mean"])
    best = ranking[0]
    sentences = [f"Best composite: {best} with {100 * score(best)['mean']:.1f}"]
    if len(ranking) > 1:
        lead = 100 * (score(best)["mean"] - score(ranking[1])["mean"])
        sentences[0] += f", {lead:.1f} points before {ranking[1]}"
    within = [
        name
        for name in ranking
        if score(best)["mean"] - score(name)["mean"] <= 2 * _standard_error(outcomes[best], outcomes[name])
    ]
    if others := [name for name in within if name != best]:
        sentences.append(f"Within two standard errors of it, so not told apart by these seeds: {', '.join(others)}")
    fastest = min(within, key=lambda name: outcomes[name].seconds)
    if fastest != best:
        share = outcomes[fastest].seconds / outcomes[best].seconds
        sentences.append(f"Of these, {fastest} is the fastest: {share:.0%} of the training time of {best}")
    return ". ".join(sentences) + "."


def _standard_error(one: Outcome, other: Outcome) -> float:
    """Standard error of the difference between two mean composites."""
    return math.hypot(one.metrics[COMPOSITE]["sd"], other.metrics[COMPOSITE]["sd"]) / math.sqrt(one.num_seeds)


def plot(outcomes: dict[str, Outcome], path: Path, *, split: str = "validation") -> None:
    """Plots the composite metric on a split against training time, one point per strategy."""
    import matplotlib

    figures = data_prep("figures")
    with matplotlib.rc_context(figures.STYLE):
        figure = figures.new_figure(9, 5)
        axes = figure.subplots()
        for name, marker in zip(outcomes, itertools.cycle("os^vD<>pP*X"), strict=False):
            outcome, score = outcomes[name], outcomes[name].metrics[COMPOSITE]
            of_seeds = {"yerr": 100 * score["sd"], "fmt": marker, "capsize": 3, "label": name, "alpha": 0.8}
            axes.errorbar(outcome.seconds, 100 * score["mean"], **of_seeds)
        axes.set_xlabel("training time in seconds")
        axes.set_ylabel(f"composite on the {split} split in %")
        axes.grid(alpha=0.3)
        figure.legend(loc="outside right center")
        figures.save(figure, path)
