"""Compares joint training of topic and entities with tasknet: seconds and quality on the same rows, in one encoder.

python benchmarks/multitask.py --config recipes/ag_news_minilm.yaml

tasknet (https://github.com/sileod/tasknet) is another library for training several tasks with transformers' `Trainer`.
Each of its batches belongs to one task, so an epoch passes every text through the encoder once per task. It is
installed into a separate environment, with the same torch and transformers. Rows, epochs, batch size, length, learning
rate, warmup and weights are the same, except that ours uses the recipe's higher learning rate for the heads, which
tasknet does not support.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from datasets import Dataset
from peers import NotAvailable, ask, environment
from quality import PRECISIONS, ROOT, TRAINING_ALONE, write_report
from train import AS_THEIRS, our_trainer


sys.path.insert(0, str(ROOT))

from mtsbert.data.loading import load_recipe_data
from mtsbert.input_arguments import MAX_LENGTH
from mtsbert.network.starting_point import load_tokenizer, resolve_name
from mtsbert.recipe import parse_arguments
from mtsbert.runs import mean_and_sd


OURS, TASKNET = "ours", "tasknet"
REQUIREMENTS = [
    f"torch=={torch.__version__.partition('+')[0]}",
    f"transformers=={transformers.__version__}",
    "tasknet==1.60",
]
MEASURES = ("seconds", "topic_accuracy", "entity_f1")


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", type=Path, required=True, help="Recipe with a single dataset, a folder written by data_prep."
    )
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--test_rows", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3, help="Number of repeats, each with a different seed.")
    args = parser.parse_args()
    ways = {OURS: train_ours, TASKNET: train_tasknet}
    figures: dict[str, dict[str, list[float]]] = {measure: {} for measure in MEASURES}
    not_available: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        rows = {"train": args.rows, "validation": 32, "test": args.test_rows}
        arguments = ["--config", str(ROOT / args.config), "--output_dir", folder, "--disable_tqdm=True"]
        arguments += [*TRAINING_ALONE, *AS_THEIRS]
        arguments += take_rows(arguments, rows, Path(folder))
        for seed in range(42, 42 + args.repeats):
            for precision in PRECISIONS:
                for way in [way for way in ways if way not in not_available]:
                    try:
                        result = ways[way]([*arguments, f"--seed={seed}", f"--precision={precision}"], Path(folder))
                    except NotAvailable as error:
                        not_available[way] = str(error)
                        continue
                    for measure in MEASURES:
                        figures[measure].setdefault(f"{way}, {precision}", []).append(result[measure])
    for name, seconds in figures["seconds"].items():
        sys.stdout.write(f"{name:30} {statistics.median(seconds):7.2f} s")
        for measure in MEASURES[1:]:
            sys.stdout.write("; {}: {mean:.3f} ± {sd:.3f}".format(measure, **mean_and_sd(figures[measure][name])))
        sys.stdout.write("\n")
    for name, reason in not_available.items():
        sys.stdout.write(f"{name} is not available: {reason}\n")
    settings = {"rows": args.rows, "test_rows": args.test_rows, "peers": REQUIREMENTS}
    path = write_report("multitask", args.config.stem, {**settings, **figures, "not_available": not_available})
    sys.stdout.write(f"Written to {path}\n")


def take_rows(arguments: list[str], rows: dict[str, int], folder: Path) -> list[str]:
    """
    Writes the given number of rows of each split of the recipe's dataset, repeating it if necessary. Returns the flags
    that replace the dataset, and that name the tags of all rows: a test row may have one that no training row has.
    """
    _, data_args, _ = parse_arguments(arguments)
    ((name, spec),) = data_args.datasets.items()
    for split, number in rows.items():
        every = Dataset.from_parquet(str(ROOT / spec["path"] / f"{split}.parquet"), cache_dir=str(folder / "cache"))
        some = every.shuffle(seed=0).select([row % len(every) for row in range(number)])
        some.to_parquet(folder / f"{split}.parquet")
    datasets = {name: {**spec, "path": str(folder)}}
    tags = every.features["ner_tags"].feature.names
    tasks = {
        task: {**of_task, "labels": tags} if task == "ner" else of_task for task, of_task in data_args.tasks.items()
    }
    return [f"--datasets={json.dumps(datasets)}", f"--tasks={json.dumps(tasks)}"]


def train_ours(arguments: list[str], folder: Path) -> dict[str, float]:
    model_args, data_args, _ = parse_arguments(arguments)
    data = load_recipe_data(data_args, load_tokenizer(model_args), ["train", "test"])
    trainer, _, _ = our_trainer(arguments, data)
    seconds = trainer.train().metrics["train_runtime"]
    metrics = trainer.evaluate(data.features["test"], metric_key_prefix="test")
    return {"seconds": seconds, "topic_accuracy": metrics["test_topic_accuracy"], "entity_f1": metrics["test_ner_f1"]}


def train_tasknet(arguments: list[str], folder: Path) -> dict[str, float]:
    model_args, data_args, ours = parse_arguments(arguments)
    settings = {
        "model_name": resolve_name(model_args.encoder_name_or_path),
        "max_length": data_args.max_length or MAX_LENGTH,
        "output_dir": str(folder / TASKNET),
        "num_train_epochs": ours.num_train_epochs,
        "per_device_train_batch_size": ours.per_device_train_batch_size,
        "learning_rate": ours.learning_rate,
        "weight_decay": ours.weight_decay,
        "warmup_steps": ours.warmup_steps,
        "bf16": ours.bf16,
        "use_cpu": not torch.cuda.is_available(),
        "seed": ours.seed,
        "eval_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    script = Path(__file__).parent / "tasknet_peer.py"
    return ask(environment(TASKNET, REQUIREMENTS), script, {"data": str(folder), "settings": settings})


if __name__ == "__main__":
    main()
