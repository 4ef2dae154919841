"""Tests `mtsbert train --search`: trials of a recipe, stored by optuna and continued after an interruption."""

import json

import optuna
import pytest
import yaml
from optuna.storages.journal import JournalFileBackend

from mtsbert.commands.train import main
from mtsbert.training.search import RESULTS_FILE, STORAGE_FILE


@pytest.fixture
def space(tmp_path):
    """Writes a search space; keyword arguments replace keys, None removes one."""

    def write(**changes):
        settings = {
            "num_trials": 2,
            "space": {"learning_rate": {"low": 1.0e-5, "high": 1.0e-2, "log": True}, "freeze_encoder": [True, False]},
            **changes,
        }
        path = tmp_path / "space.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in settings.items() if value is not None}))
        return path

    return write


@pytest.mark.slow
def test_a_search_finds_the_best_of_its_trials_and_goes_on(recipe, space, warm_runs, tmp_path, capsys):
    command = ["--config", str(recipe()), "--search"]
    best = main([*command, str(space())])
    found = json.loads((tmp_path / "run" / RESULTS_FILE).read_text())
    assert len(found["trials"]) == 2
    assert best == found["best"]
    assert best["objective"] == max(trial["objective"] for trial in found["trials"])
    assert set(best["flags"]) == {"learning_rate", "freeze_encoder"}
    assert f"Best: eval_composite {best['objective']:.4f}" in capsys.readouterr().out
    for number, trial in enumerate(found["trials"]):  # every run was told what its trial says
        (folder,) = (tmp_path / "run").glob(f"trial_{number}_*")
        assert json.loads((folder / "all_results.json").read_text())["eval_composite"] == trial["objective"]
        state = "frozen" if trial["flags"]["freeze_encoder"] else "trained"
        assert f"| encoder.layer.0    | 8,544      | {state}" in (folder / "log.txt").read_text()

    storage = optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / "run" / STORAGE_FILE)))
    optuna.load_study(study_name="space", storage=storage).ask()  # a trial whose run was killed
    main([*command, str(space(num_trials=3))])
    again = json.loads((tmp_path / "run" / RESULTS_FILE).read_text())
    assert again["trials"][:2] == found["trials"]
    assert len(again["trials"]) == 3
    states = [trial.state.name for trial in optuna.load_study(study_name="space", storage=storage).trials]
    assert states == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 3}, r"Search space .*space.yaml: it has unknown keys \['trials'\]"),
        ({"num_trials": 0}, "`num_trials` is 0"),
        ({"direction": "up"}, "`direction` is 'up'"),
        ({"space": None}, "it needs a `space`"),
        ({"space": {"learning_rat": [1.0]}}, "unknown key 'learning_rat'. Did you mean 'learning_rate'"),
        ({"space": {"learning_rate": []}}, "'learning_rate' needs a list of values"),
        ({"space": {"learning_rate": {"low": 1}}}, "'learning_rate' needs a list of values"),
        ({"space": {"learning_rate": {"low": 2, "high": 1}}}, "goes from 2 to 1"),
        ({"space": {"learning_rate": {"low": 0.0, "high": 1.0, "log": True}}}, "goes from 0.0 to 1.0"),
        ({"space": {"num_frozen_layers": ["many"]}}, "num_frozen_layers"),
        ({"space": {"label_smoothing_factor": [0.1]}}, "give a task its own `label_smoothing`"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_before_the_first_trial(recipe, space, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        main(["--config", str(recipe()), "--search", str(space(**changes))])
    assert not (tmp_path / "run").exists()


def test_a_search_needs_a_recipe(space):
    with pytest.raises(ValueError, match="needs a recipe: --config RECIPE"):
        main(["--search", str(space())])
