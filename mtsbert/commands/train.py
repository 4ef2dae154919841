"""Trains, evaluates and saves a multi-task model from a recipe (`mtsbert train`, `run_mtl.py`)."""

import argparse
import logging
import sys
from pathlib import Path

from transformers import set_seed

from mtsbert.arguments import MTLTrainingArguments
from mtsbert.data.loading import load_recipe_data, needed_splits
from mtsbert.data.report import describe_data
from mtsbert.data.skipped_rows import report_skipped_rows
from mtsbert.distillation.layers import keep_layers
from mtsbert.input_arguments import MAX_LENGTH, DataArguments
from mtsbert.machine import use_all_cores
from mtsbert.network.starting_point import (
    check_longest,
    load_encoder_config,
    load_model,
    load_tokenizer,
    longest_input,
    tasks_of_checkpoint,
)
from mtsbert.preparation import data_prep, prepare
from mtsbert.recipe import parse_arguments
from mtsbert.results.provenance import provenance_of
from mtsbert.results.tables import parameter_table, results_table
from mtsbert.training.checkpoints import checkpoint_to_resume
from mtsbert.training.hub import check_push
from mtsbert.training.output import check_writable, save_predictions, save_run, set_up_logging
from mtsbert.training.search import search
from mtsbert.training.trainer import MTSBertTrainer


logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None, *, prog: str = "mtsbert train") -> dict[str, float]:
    """Runs training, evaluation and prediction and returns all metrics. Invalid input raises `ValueError` first."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--search", type=Path)
    found, rest = finder.parse_known_args(argv)
    if found.search is not None:
        return search(found.search, rest)
    model_args, data_args, training_args = parse_arguments(argv, prog)
    splits = needed_splits(training_args)
    set_up_logging(training_args)
    use_all_cores(training_args)
    only_read = [model_args.encoder_name_or_path, training_args.embedding_reference, training_args.teacher]
    check_writable(training_args.output_dir, others=only_read)
    check_push(training_args)
    set_seed(training_args.seed)

    build_missing_dataset(data_args, training_args)
    tokenizer = load_tokenizer(model_args)
    config = load_encoder_config(model_args)
    if data_args.max_length is None:
        data_args.max_length = min(MAX_LENGTH, longest_input(tokenizer, config))
    check_longest(data_args.max_length, tokenizer, config, letter_case=model_args.letter_case)
    with training_args.main_process_first(desc="reading the data"):  # the other processes read its cache
        data = load_recipe_data(
            data_args,
            tokenizer,
            splits,
            tasks_of_checkpoint(model_args),
            texts_alone=training_args.learns_from_texts,
        )
    if data.skipped is not None and training_args.process_index == 0:
        report_skipped_rows(data.skipped, training_args.output_dir)
    if data_args.check_data:
        if training_args.process_index == 0:
            sys.stdout.write(describe_data(data))
        return {}
    model = load_model(model_args, data.tasks)
    if model_args.num_layers is not None:
        model = keep_layers(model, model_args.num_layers)
    trainer = MTSBertTrainer(
        model,
        training_args,
        processing_class=tokenizer,
        train_dataset=data.features.get("train"),
        eval_dataset=data.features.get("validation"),
        max_length=data_args.max_length,
        provenance=provenance_of(model_args, data_args, data),
    )

    metrics: dict[str, float] = {}
    trains = training_args.do_train and not trainer.freezing.is_total
    if training_args.do_train:
        metrics["num_trained_parameters"] = trainer.freezing.num_trained_parameters
    if trains:
        checkpoint = checkpoint_to_resume(training_args, training_args.resume_from_checkpoint)
        metrics |= trainer.train(resume_from_checkpoint=checkpoint).metrics
    elif training_args.do_train:
        logger.warning("Everything is frozen, so there is nothing to train: this run only evaluates.")
        logger.info(f"What is trained:\n{parameter_table(trainer.freezing, trainer.learning_rates)}")
    if training_args.do_eval:
        metrics |= trainer.evaluate()
    if training_args.do_predict:
        if data.has_labels("test"):
            metrics |= trainer.evaluate(data.features["test"], metric_key_prefix="test")
        save_predictions(trainer, data.texts("test"), total=len(data.examples["test"]))
    save_run(trainer, metrics, trained=trains, started_from=model_args.model_name_or_path)
    if trainer.is_world_process_zero():
        sys.stdout.write(f"\n{results_table(metrics, list(data.tasks))}\n\nSaved in {training_args.output_dir}\n")
    try:
        if training_args.push_to_hub and (pushed := trainer.push_to_hub()):
            sys.stdout.write(f"Pushed to {pushed.commit_url}\n")
    finally:
        trainer.accelerator.end_training()  # without it, several processes may abort when they exit
    return metrics


def build_missing_dataset(data_args: DataArguments, training_args: MTLTrainingArguments) -> None:
    """Builds the dataset described by the recipe's `prepare`, unless its output folder exists."""
    if not data_args.prepare:
        return
    data_prep("build").check_options(data_args.prepare)
    with training_args.main_process_first(desc="labelling"):
        if not Path(data_args.prepare["output"]).exists():
            prepare(**data_args.prepare)
