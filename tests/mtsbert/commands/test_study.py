"""Tests the freezing study: each strategy is run once, and the verdict agrees with the table."""

import json

import pytest
import yaml
from transformers import AlbertConfig, AlbertModel

from mtsbert.arguments import MTLTrainingArguments
from mtsbert.commands.study import Outcome, main, strategies, study_recipe, study_table, verdict
from mtsbert.runs import run_once


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


@pytest.mark.slow
def test_a_study_runs_every_strategy_once_and_writes_table_and_plot(recipe, warm_runs, tmp_path, capsys):
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
    everywhere, adapters = "--lora_target=all-linear", ["--learning_rate=0.003", "--head_learning_rate=0.001"]
    args = MTLTrainingArguments("unused", learning_rate=2e-4, head_learning_rate=1e-3)
    assert strategies(6, ["topic", "ner"], args) == {
        "full": [],
        "encoder_frozen": ["--freeze_encoder"],
        "topic_head_frozen": ["--freeze_heads", "topic"],
        "ner_head_frozen": ["--freeze_heads", "ner"],
        "lower_half_frozen": ["--freeze_embeddings", "--num_frozen_layers=3", "--feature_cache=True"],
        "top_layer": ["--freeze_embeddings", "--num_frozen_layers=5", "--feature_cache=True"],
        "embeddings_frozen": ["--freeze_embeddings"],
        "bitfit": ["--bitfit", "--learning_rate=0.001", "--head_learning_rate=0.001"],
        "lora_8": ["--lora_r=8", everywhere, *adapters],
        "lora_32": ["--lora_r=32", "--lora_alpha=64", everywhere, *adapters],
        "thawed_after_a_third": ["--freeze_encoder", "--thaw_at=0.33"],
        "gradual": ["--gradual_unfreezing", "--unfreeze_every=0.1250"],
        "adaptive": ["--adaptive_freezing"],
        "nothing_trained": ["--freeze_encoder", "--freeze_heads", "topic", "ner"],
    }


def test_shallow_encoders_have_no_strategy_that_is_another_one():
    args = MTLTrainingArguments("unused")
    assert "top_layer" not in strategies(2, ["topic"], args)
    assert not {"top_layer", "lower_half_frozen", "adaptive"} & set(strategies(1, ["topic"], args))


def test_few_parameters_learn_faster_and_heads_as_fast_as_ever():
    by_default = strategies(6, ["topic"], MTLTrainingArguments("unused", learning_rate=1e-5))
    assert by_default["lora_32"][-2:] == ["--learning_rate=0.00015", "--head_learning_rate=1e-05"]
    assert by_default["bitfit"][1:] == ["--learning_rate=5e-05", "--head_learning_rate=1e-05"]
    assert not [flag for name in ("full", "adaptive", "gradual") for flag in by_default[name] if "rate" in flag]


def test_what_a_study_decides_is_taken_out_of_the_recipe(recipe, tmp_path):
    config = recipe(
        freeze_encoder=True, layer_decay=0.9, push_to_hub=True, early_stopping_patience=2, seed=7, feature_cache=True
    )
    path, seed = study_recipe(config, tmp_path / "study")
    assert seed == 7
    kept = yaml.safe_load(path.read_text())
    assert not {"freeze_encoder", "layer_decay", "early_stopping_patience", "seed", "feature_cache"} & set(kept)
    assert kept["push_to_hub"] is False
    assert kept["tasks"] == yaml.safe_load(config.read_text())["tasks"]


def test_a_study_does_not_write_over_its_recipe(recipe, tmp_path):
    config = recipe(freeze_encoder=True).rename(tmp_path / "recipe.yaml")
    before = config.read_text()
    with pytest.raises(ValueError, match=r"recipe.yaml would be written over .*; name another folder"):
        main(["--config", str(config), "--output_dir", str(tmp_path)])
    assert config.read_text() == before


def test_how_adapters_are_trained_is_for_the_study_to_say(recipe, tmp_path):
    of_adapters = {"lora_r": 4, "lora_alpha": 8.0, "lora_dropout": 0.1, "lora_target": ["query"], "lora_merge": False}
    path, _ = study_recipe(recipe(**of_adapters), tmp_path / "study")
    assert not of_adapters.keys() & yaml.safe_load(path.read_text()).keys()


def test_a_strategy_that_fails_is_left_out_and_the_others_go_on(recipe, tokenizer, warm_runs, tmp_path, caplog):
    sizes = {"hidden_size": 32, "embedding_size": 16, "num_attention_heads": 2, "intermediate_size": 64}
    albert = AlbertConfig(vocab_size=len(tokenizer), num_hidden_layers=4, **sizes)  # four times the same layer
    AlbertModel(albert).save_pretrained(tmp_path / "albert")
    tokenizer.save_pretrained(tmp_path / "albert")
    config = recipe(encoder_name_or_path=str(tmp_path / "albert"))
    command = ["--config", str(config), "--seeds", "1", "--output_dir", str(tmp_path / "study"), "--strategies"]
    main([*command, "embeddings_frozen", "lower_half_frozen"])
    assert list(json.loads((tmp_path / "study" / "study.json").read_text())) == ["embeddings_frozen"]
    assert "Strategy lower_half_frozen is left out" in caplog.text
    assert "AlbertModel does not expose a list of its 4 layers" in caplog.text
    with pytest.raises(ValueError, match="No strategy could be run"):
        main([*command, "lower_half_frozen"])


def test_a_run_that_was_cut_off_while_it_wrote_its_results_is_run_again(recipe, warm_runs, tmp_path):
    flags = ["--do_eval=True"]
    metrics = run_once(recipe(), flags, folder=tmp_path, name="run")
    (results,) = tmp_path.glob("run_*/all_results.json")
    results.write_text(results.read_text()[:20])
    again = run_once(recipe(), flags, folder=tmp_path, name="run")
    assert again["eval_composite"] == metrics["eval_composite"]


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
        (["--", "--seed", "7"], r"The study decides \['seed'\] itself"),
        (["--", "--freeze_encoder"], r"The study decides \['freeze_encoder'\] itself"),
        (["--", "--num-frozen-layers=2", "--lora-r", "8"], r"decides \['lora_r', 'num_frozen_layers'\] itself"),
        (["--", "--no_lora_merge"], r"The study decides \['lora_merge'\] itself"),
        (["--", "--config", "other.yaml"], r"The study decides \['config'\] itself"),
    ],
)
def test_a_study_that_cannot_be_is_refused(recipe, flags, message):
    with pytest.raises(ValueError, match=message):
        main(["--config", str(recipe()), *flags])
