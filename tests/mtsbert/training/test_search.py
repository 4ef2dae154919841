"""
Tests `mtsbert train --search`: trials of a recipe, stored by optuna and continued after an interruption; and
`hyperparameter_search` in Python.
"""

import json

import optuna
import pytest
import yaml
from optuna.storages.journal import JournalFileBackend
from transformers import TrainerCallback, set_seed

from modeling_mtsbert import MTSBertModel
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.commands.train import main
from mtsbert.training.search import RESULTS_FILE, STORAGE_FILE, _checked
from mtsbert.training.trainer import MTSBertTrainer


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
    (study_name,) = optuna.get_all_study_names(storage)
    optuna.load_study(study_name=study_name, storage=storage).ask()  # a trial whose run was killed
    main([*command, str(space(num_trials=3))])
    again = json.loads((tmp_path / "run" / RESULTS_FILE).read_text())
    assert again["trials"][:2] == found["trials"]
    assert len(again["trials"]) == 3
    states = [trial.state.name for trial in optuna.load_study(study_name=study_name, storage=storage).trials]
    assert states == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]


@pytest.mark.slow
def test_a_search_of_another_recipe_or_space_begins_anew(recipe, space, warm_runs, tmp_path, capsys):
    def search(**changes) -> list[dict]:
        path = recipe(**changes, num_train_epochs=len(changes) + 1)
        main(["--config", str(path), "--search", str(space(num_trials=1, space=searched)), "--seed=3"])
        return json.loads((tmp_path / "run" / RESULTS_FILE).read_text())["trials"]

    def epochs() -> list[float]:
        files = (tmp_path / "run").glob("trial_0_*/all_results.json")
        return sorted(json.loads(file.read_text())["epoch"] for file in files)

    searched = {"learning_rate": [1.0e-3]}
    assert [trial["flags"] for trial in search()] == [{"learning_rate": 1.0e-3}]
    assert [trial["flags"] for trial in search(normalize=False)] == [{"learning_rate": 1.0e-3}]
    assert epochs() == [1.0, 2.0]
    searched = {"head_learning_rate": [1.0e-2], "pooling": ["cls"]}
    assert [trial["flags"] for trial in search()] == [{"head_learning_rate": 1.0e-2, "pooling": "cls"}]
    assert epochs() == [1.0, 1.0, 2.0]
    assert "recipe.yaml --seed=3 --head_learning_rate=0.01 --pooling=cls\n" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("where", ["recipe", "space"])
def test_a_trial_that_may_stop_early_keeps_its_best_epoch(recipe, space, warm_runs, tmp_path, where):
    patience = {"early_stopping_patience": 1}
    flags = {"num_train_epochs": 5, "eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    path = recipe(**flags, **(patience if where == "recipe" else {}))
    searched = {"learning_rate": [1.0e-12]} | ({"early_stopping_patience": [1]} if where == "space" else {})
    best = main(["--config", str(path), "--search", str(space(num_trials=1, space=searched))])
    (folder,) = (tmp_path / "run").glob("trial_0_*")
    results = json.loads((folder / "all_results.json").read_text())
    assert results["epoch"] == 2.0  # which was no better than the first one
    assert results["eval_composite"] == best["objective"]
    assert not list(folder.glob("**/*.safetensors"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 3}, r"Search space .*space.yaml: it has unknown keys \['trials'\]"),
        ({"num_trials": 0}, "`num_trials` is 0"),
        (
            {"objective": "topic_accuracy"},
            r"`objective` is 'topic_accuracy', which no run reports; .*eval_topic_accurac",
        ),
        ({"objective": "eval_topic_f1"}, "`objective` is 'eval_topic_f1', which no run reports"),
        ({"objective": "eval_ner_f1_at_64"}, "`objective` is 'eval_ner_f1_at_64'"),
        ({"direction": "up"}, "`direction` is 'up'"),
        ({"space": None}, "it needs a `space`"),
        ({"space": {"learning_rat": [1.0]}}, "unknown key 'learning_rat'. Did you mean 'learning_rate'"),
        ({"space": {"learning_rate": []}}, "'learning_rate' needs a list of values"),
        ({"space": {"learning_rate": {"low": 1}}}, "'learning_rate' needs a list of values"),
        ({"space": {"learning_rate": {"low": 2, "high": 1}}}, "goes from 2 to 1"),
        ({"space": {"learning_rate": {"low": 0.0, "high": 1.0, "log": True}}}, "goes from 0.0 to 1.0"),
        ({"space": {"num_frozen_layers": ["many"]}}, "num_frozen_layers"),
        (
            {"space": {"save_strategy": ["no", "epoch"]}},
            r"`space` has \['save_strategy'\], which a search sets itself",
        ),
        ({"space": {"output_dir": ["a", "b"]}}, r"`space` has \['output_dir'\], which a search sets itself"),
        (
            {"space": {"early_stopping_patience": [1]}},
            "`early_stopping_patience` needs `load_best_model_at_end: true`",
        ),
        ({"space": {"label_smoothing_factor": [0.1]}}, "give a task its own `label_smoothing`"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_before_the_first_trial(recipe, space, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        main(["--config", str(recipe()), "--search", str(space(**changes))])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("objective", "direction"),
    [
        ("eval_loss", "minimize"),
        ("eval_ner_loss", "minimize"),
        ("train_runtime", "minimize"),
        ("eval_price_mae", "minimize"),
        ("eval_composite", "maximize"),
        ("eval_embedding_cosine", "maximize"),
    ],
)
def test_losses_and_errors_are_minimized_unless_a_space_says_otherwise(objective, direction):
    settings = {"objective": objective, "space": {"learning_rate": [1e-3]}}
    assert _checked(settings)["direction"] == direction
    assert _checked(settings | {"direction": "maximize"})["direction"] == "maximize"


@pytest.mark.slow
def test_a_search_for_the_lowest_loss_finds_it(recipe, space, warm_runs, tmp_path):
    searched = {"learning_rate": [1e-8, 1e-2]}
    best = main(
        ["--config", str(recipe()), "--search", str(space(objective="eval_loss", space=searched, num_trials=4))]
    )
    trials = json.loads((tmp_path / "run" / RESULTS_FILE).read_text())["trials"]
    assert best == min(trials, key=lambda trial: trial["objective"])
    assert best["flags"] == {"learning_rate": 1e-2}


def test_a_search_needs_a_recipe(space):
    with pytest.raises(ValueError, match="needs a recipe: --config RECIPE"):
        main(["--search", str(space())])


# In Python


class Trained(TrainerCallback):
    """Keeps what moved in each training, and how many weights its adapters have."""

    def __init__(self):
        self.moved: list[set[str]] = []
        self.num_adapter_weights: list[int] = []

    def on_train_begin(self, args, state, control, model, **kwargs):
        self._before = {name: weight.detach().clone() for name, weight in model.named_parameters()}

    def on_train_end(self, args, state, control, model, **kwargs):
        weights = dict(model.named_parameters())
        changed = [name for name, weight in weights.items() if not weight.equal(self._before[name])]
        self.moved.append({name.split(".")[0] for name in changed})
        self.num_adapter_weights.append(sum(weights[name].numel() for name in weights if ".lora_" in name))


@pytest.fixture
def trainer_of_trials(encoder_folder, tasks, features, tokenizer, tmp_path):
    """Builds a Trainer for `hyperparameter_search`; keyword arguments are training arguments."""

    def model_init() -> MTSBertModel:
        set_seed(0)
        return MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks)

    def build(model_init=model_init, **arguments) -> tuple[MTSBertTrainer, Trained]:
        settings = {"precision": "fp32", "max_steps": 2, "learning_rate": 1e-2, "disable_tqdm": True, **arguments}
        settings |= {"save_strategy": "no", "feature_cache_dir": str(tmp_path / "cache")}
        trainer = MTSBertTrainer(
            model_init=model_init,
            args=MTLTrainingArguments(str(tmp_path / "run"), **settings),
            processing_class=tokenizer,
            train_dataset=features,
            eval_dataset=features,
            callbacks=[trained := Trained()],
        )
        return trainer, trained

    return build


def try_all(trainer: MTSBertTrainer, name: str, values: list, **search):
    """Searches with one trial for each value, in their order."""
    search = {"compute_objective": lambda metrics: metrics["eval_composite"], "direction": "maximize"} | search
    return trainer.hyperparameter_search(
        lambda trial: {name: trial.suggest_categorical(name, values)},
        n_trials=len(values),
        sampler=InOrder(name, values),
        **search,
    )


class InOrder(optuna.samplers.BaseSampler):
    """Suggests the first value in the first trial, the second one in the second trial, and so on."""

    def __init__(self, name: str, values: list):
        self.name, self.values = name, values

    def infer_relative_search_space(self, study, trial):
        return {}

    def sample_relative(self, study, trial, search_space):
        return {}

    def sample_independent(self, study, trial, name, distribution):
        return self.values[trial.number]


@pytest.mark.filterwarnings("ignore::UserWarning")  # peft's
@pytest.mark.parametrize("at_start", [None, 2])
def test_adapters_are_those_of_each_trial(trainer_of_trials, at_start):
    trainer, trained = trainer_of_trials(lora_r=at_start)
    try_all(trainer, "lora_r", [2, 4, 2])
    of_rank_1 = 2 * 2 * (32 + 32)  # two layers, queries and values, two factors
    assert trained.num_adapter_weights == [2 * of_rank_1, 4 * of_rank_1, 2 * of_rank_1]
    assert trained.moved == [{"encoder", "heads"}] * 3


@pytest.mark.parametrize("at_start", [True, False])
@pytest.mark.parametrize("values", [[True, False, True], [False, True, False]])
def test_what_is_frozen_is_decided_by_each_trial(trainer_of_trials, at_start, values):
    trainer, trained = trainer_of_trials(freeze_encoder=at_start)
    cosines = []
    try_all(
        trainer,
        "freeze_encoder",
        values,
        compute_objective=lambda metrics: cosines.append(metrics["eval_embedding_cosine"]) or cosines[-1],
    )
    assert trained.moved == [{"heads"} if is_frozen else {"encoder", "heads"} for is_frozen in values]
    assert [cosine == pytest.approx(1.0, abs=1e-6) for cosine in cosines] == values


def test_a_trial_is_compared_with_the_encoder_that_it_was_given(trainer_of_trials, encoder_folder, tasks):
    poolings = iter(["mean", "cls", "mean"])

    def model_init() -> MTSBertModel:
        return MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks, pooling=next(poolings))

    trainer, _ = trainer_of_trials(model_init, freeze_encoder=True)
    cosines = []
    objective = lambda metrics: cosines.append(metrics["eval_embedding_cosine"]) or cosines[-1]  # noqa: E731
    try_all(trainer, "seed", [1, 2], compute_objective=objective)
    assert cosines == pytest.approx([1.0, 1.0], abs=1e-6)


def test_a_trial_that_freezes_everything_is_refused(trainer_of_trials):
    trainer, trained = trainer_of_trials(freeze_heads=["topic", "ner"])
    with pytest.raises(ValueError, match="Everything is frozen, so there is nothing to train"):
        try_all(trainer, "freeze_encoder", [False, True])
    assert trained.moved == [{"encoder"}]
    trainer.args.freeze_encoder = False
    trainer.train()  # a training of its own again
    assert trained.moved == [{"encoder"}] * 2


def test_after_a_search_the_best_settings_are_trained(trainer_of_trials):
    trainer, trained = trainer_of_trials(freeze_encoder=True)
    best = try_all(trainer, "freeze_encoder", [True, False])
    for name, value in {**best.hyperparameters, "freeze_encoder": False}.items():
        setattr(trainer.args, name, value)
    trainer.train()
    assert trained.moved[-1] == {"encoder", "heads"}
    assert trainer.evaluate()["eval_embedding_cosine"] < 1.0


def test_an_objective_of_ones_own_says_which_way_is_better(trainer_of_trials):
    trainer, trained = trainer_of_trials()
    with pytest.raises(ValueError, match="`compute_objective` needs a `direction`: 'minimize' for a loss"):
        try_all(trainer, "learning_rate", [1e-2], direction=None)
    assert not trained.moved
    best = try_all(
        trainer,
        "learning_rate",
        [1e-8, 1e-2],
        compute_objective=lambda metrics: metrics["eval_loss"],
        direction="minimize",
    )
    assert best.hyperparameters == {"learning_rate": 1e-2}
