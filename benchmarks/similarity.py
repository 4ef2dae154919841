"""Compares training Sentence-BERT on STS-B with sentence-transformers' own trainer: seconds and quality.

python benchmarks/similarity.py --config recipes/sbert.yaml

Both use the same rows, epochs, batch size, optimizer, warmup, weights and loss (squared error of the cosine), in fp32
and, where it is native, in bf16, and are compared after the last epoch. sentence-transformers uses random batches and
tokenizes during training. Ours is the unchanged recipe; its seconds include reading and tokenizing the rows before the
first step.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from datasets import Dataset
from quality import PRECISIONS, ROOT, TRAINING_ALONE, write_report
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss
from train import our_trainer


sys.path.insert(0, str(ROOT))

from configuration_mtsbert import PAIR_SIMILARITY
from mtsbert.data.loading import TaskData, load_recipe_data
from mtsbert.data.sources import TEXT, TEXT_PAIR
from mtsbert.input_arguments import MAX_LENGTH
from mtsbert.network.starting_point import load_tokenizer, resolve_name
from mtsbert.recipe import parse_arguments
from mtsbert.runs import mean_and_sd


OURS, THEIRS = "ours", "sentence-transformers"


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="Recipe with a single pair_similarity task.")
    parser.add_argument("--repeats", type=int, default=3, help="Number of repeats, each with a different seed.")
    parser.add_argument("flags", nargs="*", help="Further flags of run_mtl.py, after '--'.")
    args = parser.parse_args()
    ways: dict[str, Callable[[list[str]], tuple[float, float]]] = {OURS: train_ours, THEIRS: train_theirs}
    seconds: dict[str, list[float]] = {f"{way}, {precision}": [] for precision in PRECISIONS for way in ways}
    spearman: dict[str, list[float]] = {name: [] for name in seconds}
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--config", str(ROOT / args.config), "--output_dir", folder, "--disable_tqdm=True"]
        arguments += [*TRAINING_ALONE, *args.flags]
        for seed in range(42, 42 + args.repeats):
            for precision in PRECISIONS:
                for way, train in ways.items():
                    taken, correlation = train([*arguments, f"--seed={seed}", f"--precision={precision}"])
                    seconds[f"{way}, {precision}"].append(taken)
                    spearman[f"{way}, {precision}"].append(correlation)
    quality = {name: mean_and_sd(values) for name, values in spearman.items()}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        sys.stdout.write(
            f"{name:30} {median:7.2f} s; Spearman {quality[name]['mean']:.2f} ± {quality[name]['sd']:.2f}\n"
        )
    for precision in PRECISIONS:
        share = medians[f"{OURS}, {precision}"] / medians[f"{THEIRS}, {precision}"]
        sys.stdout.write(f"{precision}: {OURS} takes {share:.2f} of the time of {THEIRS}\n")
    path = write_report("similarity", args.config.stem, {"seconds": seconds, "spearman": quality, "runs": spearman})
    sys.stdout.write(f"Written to {path}\n")


def train_ours(arguments: list[str]) -> tuple[float, float]:
    """Returns the seconds, and the Spearman correlation on the test split in percent."""
    test = read(arguments, "test").features["test"]
    began = time.perf_counter()
    data = read(arguments, "train")
    reading = time.perf_counter() - began
    trainer, _, _ = our_trainer(arguments, data)
    taken = trainer.train().metrics["train_runtime"]
    metrics = trainer.evaluate(test, metric_key_prefix="test")
    return reading + taken, 100 * metrics[f"test_{similarity(data)}_spearman"]


def train_theirs(arguments: list[str]) -> tuple[float, float]:
    """Trains like the STS-B example in the documentation of sentence-transformers."""
    train, test = pairs(arguments, "train"), pairs(arguments, "test")
    model_args, data_args, ours = parse_arguments(arguments)
    model = SentenceTransformer(resolve_name(model_args.encoder_name_or_path))
    model.max_seq_length = data_args.max_length or MAX_LENGTH
    settings = SentenceTransformerTrainingArguments(
        output_dir=ours.output_dir,
        num_train_epochs=ours.num_train_epochs,
        per_device_train_batch_size=ours.per_device_train_batch_size,
        learning_rate=ours.learning_rate,
        weight_decay=ours.weight_decay,
        warmup_steps=ours.warmup_steps,
        bf16=ours.bf16,
        use_cpu=not torch.cuda.is_available(),
        seed=ours.seed,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = SentenceTransformerTrainer(
        model=model, args=settings, train_dataset=train, loss=CosineSimilarityLoss(model)
    )
    taken = trainer.train().metrics["train_runtime"]
    evaluator = EmbeddingSimilarityEvaluator(test["sentence1"][:], test["sentence2"][:], test["score"][:])
    return taken, 100 * evaluator(model)["spearman_cosine"]


def read(arguments: list[str], split: str) -> TaskData:
    model_args, data_args, _ = parse_arguments(arguments)
    return load_recipe_data(data_args, load_tokenizer(model_args), [split])


def similarity(data: TaskData) -> str:
    """Returns the name of the only task in the recipe."""
    ((task, settings),) = data.tasks.items()
    if settings["type"] != PAIR_SIMILARITY:
        raise ValueError(f"The recipe's task {task!r} is a {settings['type']}; this compares a {PAIR_SIMILARITY}.")
    return task


def pairs(arguments: list[str], split: str) -> Dataset:
    """Returns the same rows that ours uses, with scores from 0 to 1."""
    data = read(arguments, split)
    task = similarity(data)
    lowest, highest = data.tasks[task]["score_range"]
    rows = data.examples[split]
    return Dataset.from_dict(
        {
            "sentence1": [row[TEXT] for row in rows],
            "sentence2": [row[TEXT_PAIR] for row in rows],
            "score": [(row[task] - lowest) / (highest - lowest) for row in rows],
        }
    )


if __name__ == "__main__":
    main()
