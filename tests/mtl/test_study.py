"""The study of freezing: every strategy is a run, done once, and the words say what the table shows."""

import json

import pytest

from mtl.runs import run_once
from mtl.study import Outcome, main, strategies, study_table, verdict


def outcome(composite: float, sd: float, seconds: float, **changes) -> Outcome:
    values = {
        "metrics": {"topic": {"mean": 0.9, "sd": 0.0125}, "composite": {"mean": composite, "sd": sd}},
        "num_trained_parameters": 1234,
        "seconds": seconds,
        "seconds_per_epoch": seconds / 2,
        "peak_memory_gb": 1.25,
        "num_seeds": 4,
    }
    return Outcome(**values | changes)


def test_a_study_runs_every_strategy_once_and_writes_table_and_plot(recipe, tmp_path, capsys):
    config = recipe(num_train_epochs=2, feature_cache_dir=str(tmp_path / "cache"))
    command = ["--config", str(config), "--seeds", "1", "--output_dir", str(tmp_path / "study")]
    command += ["--strategies", "encoder_frozen", "nothing_trained", "--", "--learning_rate=0.01"]
    main(command)
    printed = capsys.readouterr().out
    figures = json.loads((tmp_path / "study" / "study.json").read_text())
    assert list(figures) == ["encoder_frozen", "nothing_trained"]
    assert figures["nothing_trained"]["num_trained_parameters"] == 0
    assert figures["nothing_trained"]["seconds"] == 0.0
    heads = 32 * 2 + 2 + 32 * 7 + 7
    assert figures["encoder_frozen"]["num_trained_parameters"] == heads
    assert 0 < figures["encoder_frozen"]["seconds_per_epoch"] * 2 < figures["encoder_frozen"]["seconds"]  # the cache
    assert (tmp_path / "study" / "study.md").read_text() in printed
    assert (tmp_path / "study" / "study.png").read_bytes().startswith(b"\x89PNG")
    (folder,) = (tmp_path / "study").glob("encoder_frozen_seed42_*")
    assert not list(folder.glob("*.safetensors"))

    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "study").glob("*/all_results.json")}
    main(command)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "study").glob("*/all_results.json")} == written


def test_the_strategies_of_an_encoder_with_six_layers():
    assert strategies(6, ["topic", "ner"]) == {
        "full": [],
        "encoder_frozen": ["--freeze_encoder"],
        "topic_head_frozen": ["--freeze_heads", "topic"],
        "ner_head_frozen": ["--freeze_heads", "ner"],
        "lower_half_frozen": ["--freeze_embeddings", "--num_frozen_layers=3", "--feature_cache=True"],
        "embeddings_frozen": ["--freeze_embeddings"],
        "gradual": ["--gradual_unfreezing", "--unfreeze_every=0.1250"],
        "top_layer": ["--freeze_embeddings", "--num_frozen_layers=5", "--feature_cache=True"],
        "nothing_trained": ["--freeze_encoder", "--freeze_heads", "topic", "ner"],
    }


def test_the_table_has_means_deviations_and_costs():
    table = study_table({"full": outcome(0.8, 0.02, 100.0), "none": outcome(0.2, 0.0, 0.0, peak_memory_gb=None)})
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[::2]] == [
        ["strategy", "topic", "composite", "trained parameters", "s per epoch", "s in all", "peak memory"],
        ["full", "90.0 ± 1.2", "80.0 ± 2.0", "1,234", "50.0", "100.0", "1.2 GB"],
    ]
    assert [cell.strip() for cell in table.splitlines()[3].split("|")[-4:-1]] == ["", "", ""]


def test_the_verdict_names_the_best_its_lead_and_a_faster_one_that_the_seeds_do_not_tell_apart():
    outcomes = {
        "full": outcome(0.800, 0.010, 100.0),
        "lower_half_frozen": outcome(0.795, 0.010, 60.0),  # two standard errors are 2 * sqrt(2) * 0.01 / 2 = 0.014
        "encoder_frozen": outcome(0.700, 0.010, 5.0),
    }
    assert verdict(outcomes) == (
        "Best composite: full with 80.0, 0.5 points before lower_half_frozen. Within two standard errors of it, so "
        "not told apart by these seeds: lower_half_frozen. Of these, lower_half_frozen is the fastest: 60% of the "
        "training time of full."
    )
    outcomes["lower_half_frozen"] = outcome(0.780, 0.010, 60.0)
    assert verdict(outcomes) == "Best composite: full with 80.0, 2.0 points before lower_half_frozen."


def test_a_run_that_fails_shows_the_end_of_its_log(recipe, tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)bad failed; the end of .*log.txt.*`num_frozen_layers` is 9"):
        run_once(recipe(), ["--num_frozen_layers=9"], folder=tmp_path, name="bad")
    assert not list(tmp_path.glob("bad_*/all_results.json"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--strategies", "magic"], r"Unknown strategies \['magic'\]; for this recipe there are \['full', "),
        (["--seeds", "0"], "`--seeds` is 0"),
        (["--", "--seed", "7"], "leave --seed out"),
    ],
)
def test_a_study_that_cannot_be_is_refused(recipe, flags, message):
    with pytest.raises(ValueError, match=message):
        main(["--config", str(recipe()), *flags])
