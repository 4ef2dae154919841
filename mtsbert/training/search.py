"""Searches hyperparameters for a recipe with optuna: `mtsbert train --config RECIPE --search SPACE`.

SPACE is a YAML file:

    num_trials: 20                # number of finished runs, including those of earlier calls
    objective: eval_composite     # the metric to optimize (default)
    direction: maximize           # or minimize, which it is for a loss or an error if nothing is said
    space:                        # flag → a list of values, or the bounds of a range
      learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}
      num_train_epochs: {low: 1, high: 4}
      freeze_encoder: [true, false]

Each trial is a separate run in the output folder. optuna's storage is in the same folder, so an interrupted search
continues when the same command is run again. A search of another space or recipe, of other data or with other code
begins anew.
"""

import argparse
import json
import logging
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from mtsbert.arguments import LOWER_IS_BETTER, MTLTrainingArguments
from mtsbert.data.labels import names_of_results
from mtsbert.recipe import build_parser, flags_of, parse_arguments, read_yaml
from mtsbert.results.metrics import COMPOSITE
from mtsbert.results.tables import markdown_table
from mtsbert.runs import folder_of_run, run_once
from mtsbert.settings import import_extra, spelled_out


KEYS = ("num_trials", "objective", "direction", "space")
RANGE_KEYS = ("low", "high", "log")
DIRECTIONS = MAXIMIZE, MINIMIZE = ("maximize", "minimize")
OTHER_RESULTS = ("eval_embedding", "eval_runtime", "eval_samples", "eval_steps", "train_")  # how they begin
STORAGE_FILE, RESULTS_FILE = "search.log", "search.json"
OF_EVERY_TRIAL = {"do_train": True, "do_eval": True, "do_predict": False, "push_to_hub": False}
# A trial is judged by its last epoch, so no checkpoints are saved or selected, unless it may stop early.
WITHOUT_CHECKPOINTS = {"save_strategy": "no", "load_best_model_at_end": False}

logger = logging.getLogger(__name__)


def search(space_file: Path, argv: list[str]) -> dict[str, Any]:
    """
    Runs trials until `num_trials` are finished, and writes `search.json` to the output folder.

    Args:
        space_file (`Path`): The search space, see above.
        argv (`list[str]`): The command line of `mtsbert train` without `--search`.

    Returns:
        `dict`: `{"flags", "objective"}` of the best trial.

    Raises:
        `ValueError`: before the first trial, if the search space or the recipe is invalid.
        `RuntimeError`: with the end of its log, if a trial fails.
    """
    optuna = import_extra("optuna", extra="search")
    backends = import_extra("optuna.storages.journal", extra="search")
    settings = read_yaml(space_file, "Search space", _checked)
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for of_search in ("--config", "--output_dir"):
        finder.add_argument(of_search)
    known, others = finder.parse_known_args(argv)
    if known.config is None:
        raise ValueError("A search needs a recipe: --config RECIPE.")
    _, data_args, training_args = parse_arguments(argv)
    _check_objective(str(settings["objective"]), spelled_out(data_args.tasks))
    for chosen in _corners(settings["space"]):
        parse_arguments([*argv, *_flags_of_trial(chosen, training_args)])  # raises for what cannot be combined
    recipe, folder = Path(known.config), Path(training_args.output_dir)
    searched = json.dumps({key: value for key, value in settings.items() if key != "num_trials"})
    name = folder_of_run(recipe, [*others, searched], folder=folder, name=space_file.stem).name
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.JournalStorage(backends.JournalFileBackend(str(folder / STORAGE_FILE)))
    if (earlier := optuna.get_all_study_names(storage)) and name not in earlier:
        logger.info("Space, recipe, data or code are not those of the search before: this one begins anew.")
    study = optuna.create_study(study_name=name, storage=storage, direction=settings["direction"], load_if_exists=True)
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):  # left by a call that was killed
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    while len(finished := study.get_trials(states=[optuna.trial.TrialState.COMPLETE])) < settings["num_trials"]:
        study.sampler = optuna.samplers.TPESampler(seed=training_args.seed + len(study.trials))
        trial = study.ask()
        chosen = {flag: _suggest(trial, flag, choices) for flag, choices in settings["space"].items()}
        flags = _flags_of_trial(chosen, training_args)
        logger.info(f"Trial {len(finished) + 1} of {settings['num_trials']}: {chosen}")
        results = run_once(recipe, [*others, *flags], folder=folder, name=f"trial_{trial.number}")
        if settings["objective"] not in results:
            raise ValueError(f"`objective` is {settings['objective']!r}; a run has {sorted(results)}.")
        study.tell(trial, results[settings["objective"]])
    best = {"flags": study.best_trial.params, "objective": study.best_value}
    trials = [{"flags": trial.params, "objective": trial.value} for trial in finished]
    (folder / RESULTS_FILE).write_text(json.dumps({**settings, "best": best, "trials": trials}, indent=2) + "\n")
    command = shlex.join([*others, *flags_of(best["flags"], build_parser())])
    sys.stdout.write(
        f"\n{_table(trials, settings['objective'])}\n\nBest: {settings['objective']} {best['objective']:.4f}, with\n"
        f"    mtsbert train --config {known.config} {command}\n"
    )
    return best


def _checked(settings: dict) -> dict:
    """Fills in the defaults of a search. Raises `ValueError` for invalid settings."""
    if unknown := sorted(set(settings) - set(KEYS)):
        raise ValueError(f"it has unknown keys {unknown}; allowed are {list(KEYS)}.")
    settings = {"num_trials": 20, "objective": f"eval_{COMPOSITE}"} | settings
    is_error = str(settings["objective"]).endswith(("loss", "_runtime", LOWER_IS_BETTER))
    settings = {"direction": MINIMIZE if is_error else MAXIMIZE} | settings
    if not isinstance(settings["num_trials"], int) or settings["num_trials"] < 1:
        raise ValueError(f"`num_trials` is {settings['num_trials']!r}; it must be a whole number of at least 1.")
    if settings["direction"] not in DIRECTIONS:
        raise ValueError(f"`direction` is {settings['direction']!r}; allowed are {list(DIRECTIONS)}.")
    if not isinstance(settings.get("space"), dict) or not settings["space"]:
        raise ValueError("it needs a `space`: flags, and for each a list of values or {low: ..., high: ...}.")
    if own := [name for name in settings["space"] if name in {"output_dir", *OF_EVERY_TRIAL, *WITHOUT_CHECKPOINTS}]:
        raise ValueError(f"`space` has {own}, which a search sets itself for each of its runs; drop it.")
    for name, choices in settings["space"].items():
        if isinstance(choices, list) and choices:
            for choice in choices:
                flags_of({name: choice}, build_parser())
            continue
        fits = isinstance(choices, dict) and {"low", "high"} <= set(choices) <= set(RANGE_KEYS)
        if not fits or not all(isinstance(choices[end], int | float) for end in ("low", "high")):
            raise ValueError(f"{name!r} needs a list of values, or {{low: ..., high: ...}}; got {choices!r}.")
        if choices["low"] >= choices["high"] or (choices.get("log") and choices["low"] <= 0):
            raise ValueError(f"{name!r} goes from {choices['low']} to {choices['high']}; that is no range to search.")
        flags_of({name: choices["low"]}, build_parser())
    return settings


def _check_objective(objective: str, tasks: dict[str, dict]) -> None:
    """Raises `ValueError` for what is no result of a run; the tasks of a checkpoint are only known to the run."""
    known = [f"eval_{name}" for name in ("loss", COMPOSITE, *names_of_results(tasks))]
    is_known = (
        objective in known
        or re.sub(r"(_spearman)_at_\d+$", r"\1", objective) in known
        or objective.startswith(OTHER_RESULTS)
    )
    if not is_known and (tasks or not objective.startswith("eval_")):
        raise ValueError(
            f"`objective` is {objective!r}, which no run reports; among those that it may be are {known}."
        )


def _corners(space: dict) -> list[dict[str, Any]]:
    """Returns two points of the space: all first values, and all last values."""
    ends = [
        (choices[0], choices[-1]) if isinstance(choices, list) else (choices["low"], choices["high"])
        for choices in space.values()
    ]
    return [dict(zip(space, values, strict=True)) for values in zip(*ends, strict=True)]


def _flags_of_trial(chosen: dict[str, Any], recipe: MTLTrainingArguments) -> list[str]:
    """Returns the flags of a run with these values. `recipe` has what holds for the others."""
    patience = chosen.get("early_stopping_patience")
    may_stop = patience is not None or recipe.early_stopping_patience is not None
    return flags_of(chosen | OF_EVERY_TRIAL | ({} if may_stop else WITHOUT_CHECKPOINTS), build_parser())


def _suggest(trial: Any, name: str, choices: list | dict) -> Any:
    if isinstance(choices, list):
        return trial.suggest_categorical(name, choices)
    is_whole = isinstance(choices["low"], int) and isinstance(choices["high"], int)
    suggest = trial.suggest_int if is_whole else trial.suggest_float
    return suggest(name, choices["low"], choices["high"], log=choices.get("log", False))


def _table(trials: list[dict], objective: str) -> str:
    names = list(trials[0]["flags"])
    rows = [[*(str(trial["flags"][name]) for name in names), f"{trial['objective']:.4f}"] for trial in trials]
    return markdown_table([[*names, objective], *rows])
