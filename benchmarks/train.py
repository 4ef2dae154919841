"""Compares training topic and entities jointly with two runs of transformers' Trainer on the same rows, in seconds.

python benchmarks/train.py --config recipes/ag_news_minilm.yaml --rows 512

- two single-task models with transformers' `Trainer`: the same rows, length, batch size and optimizer, with batches
  padded to their longest text, in fp32 and in bf16;
- a plain PyTorch loop over the batches of our Trainer with the same model, which shows the overhead of our Trainer.

bf16 is left out on a machine that does not compute it natively; the loop is in fp32 there.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from quality import PLAIN, PRECISIONS, ROOT, TRAINING_ALONE, write_report
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)


sys.path.insert(0, str(ROOT))

from mtsbert.arguments import MTLTrainingArguments
from mtsbert.data.loading import TaskData, load_recipe_data
from mtsbert.input_arguments import ModelArguments
from mtsbert.machine import has_native_bf16
from mtsbert.network.dropout import fast_attention_dropout, use_fast_dropout
from mtsbert.network.padding_free import PaddingFree
from mtsbert.network.starting_point import load_model, load_tokenizer, resolve_name
from mtsbert.recipe import parse_arguments
from mtsbert.training.trainer import MTSBertTrainer


OURS, THEIRS = "ours, joint", "two single-task runs of Trainer"
BARE = "bare loop over our batches"
AS_THEIRS = [*PLAIN, "--letter_case=False"]  # nothing that `run_glue.py` and `run_ner.py` do not do


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="Recipe with one dataset, `topic` and `ner`.")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arguments, data = one_epoch(args.config, args.rows, folder, AS_THEIRS)
        ways: dict[str, Callable[[], float]] = {}
        for precision in PRECISIONS:
            flags = [*arguments, f"--precision={precision}"]
            ways[f"{OURS}, {precision}"] = partial(joint, flags, data)
            ways[f"{THEIRS}, {precision}"] = partial(two_runs, arguments, data, bf16=precision == "bf16")
        ways[f"{BARE}, {precision}"] = partial(bare_loop, flags, data)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.repeats):
            for name, train in ways.items():
                seconds[name].append(train())
        overhead = step_overhead(flags, data, args.repeats)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in medians.items():
        ours = f"{OURS}, {name.rpartition(', ')[2]}"
        sys.stdout.write(f"{name:45} {value:7.2f} s; {ours} takes {medians[ours] / value:.3f} of it\n")
    sys.stdout.write(f"A step of {OURS}, {precision}, takes {overhead:.3f} of one in the loop\n")
    subject = args.config.stem + ("" if has_native_bf16() else "_without_bf16")
    path = write_report(
        "train", subject, {"rows": args.rows, "seconds": seconds, "medians": medians, "step_overhead": overhead}
    )
    sys.stdout.write(f"Written to {path}\n")


def one_epoch(config: Path, rows: int, folder: str, flags: Sequence[str] = ()) -> tuple[list[str], TaskData]:
    """Returns the arguments of `run_mtl.py` for an epoch on a few rows of a recipe, and these rows."""
    arguments = ["--config", str(ROOT / config), *TRAINING_ALONE, "--num_train_epochs=1", *flags]
    arguments += ["--disable_tqdm=True", "--output_dir", folder, f"--max_train_samples={rows}"]
    model_args, data_args, _ = parse_arguments(arguments)
    return arguments, load_recipe_data(data_args, load_tokenizer(model_args), ["train"])


def our_trainer(
    arguments: list[str], data: TaskData, **kwargs
) -> tuple[MTSBertTrainer, MTLTrainingArguments, ModelArguments]:
    """Builds the Trainer like `run_mtl.py` with these arguments. `kwargs` are passed to the Trainer."""
    model_args, _, training_args = parse_arguments(arguments)
    trainer = MTSBertTrainer(
        load_model(model_args, data.tasks),
        training_args,
        processing_class=load_tokenizer(model_args),
        train_dataset=data.features["train"],
        **kwargs,
    )
    return trainer, training_args, model_args


def joint(arguments: list[str], data: TaskData) -> float:
    trainer, _, _ = our_trainer(arguments, data)
    return trainer.train().metrics["train_runtime"]


class StepTimes(TrainerCallback):
    """The CPU seconds of the process when the steps of a run ended."""

    def __init__(self):
        self.ends: list[float] = []

    def tick(self) -> None:
        self.ends.append(time.process_time())

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.tick()


def step_overhead(arguments: list[str], data: TaskData, repeats: int) -> float:
    """
    Returns the CPU time of our Trainer's steps, without its beginning and end, as a multiple of the loop's. Other
    programs on the machine hardly change it.
    """
    ours, bare = [], []
    for _ in range(repeats):
        of_trainer, of_loop = StepTimes(), StepTimes()
        our_trainer(arguments, data, callbacks=[of_trainer])[0].train()
        bare_loop(arguments, data, of_loop.tick)
        ours.append(np.diff(of_trainer.ends))
        bare.append(np.diff(of_loop.ends))
    # The steps have the same rows in the same order.
    return float(np.median(ours, axis=0).sum() / np.median(bare, axis=0).sum())


def two_runs(arguments: list[str], data: TaskData, *, bf16: bool) -> float:
    """Trains each task alone, like transformers' `run_glue.py` and `run_ner.py`."""
    model_args, _, ours = parse_arguments(arguments)
    tokenizer, encoder = load_tokenizer(model_args), resolve_name(model_args.encoder_name_or_path)
    settings = TrainingArguments(
        output_dir=ours.output_dir,
        num_train_epochs=1,
        per_device_train_batch_size=ours.per_device_train_batch_size,
        learning_rate=ours.learning_rate,
        weight_decay=ours.weight_decay,
        warmup_steps=ours.warmup_steps,
        bf16=bf16,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        disable_tqdm=True,
    )
    total = 0.0
    for task, auto_class, collator in (
        ("topic", AutoModelForSequenceClassification, DataCollatorWithPadding(tokenizer)),
        ("ner", AutoModelForTokenClassification, DataCollatorForTokenClassification(tokenizer)),
    ):
        rows = data.features["train"].select_columns(["input_ids", task]).rename_column(task, "labels")
        model = auto_class.from_pretrained(encoder, num_labels=len(data.tasks[task]["labels"]))
        trainer = Trainer(model, settings, data_collator=collator, train_dataset=rows)
        total += trainer.train().metrics["train_runtime"]
    return total


def bare_loop(arguments: list[str], data: TaskData, on_step_end: Callable[[], None] = lambda: None) -> float:
    """Trains in a plain loop, for `max_steps` steps at most. Returns seconds."""
    trainer, training_args, model_args = our_trainer(arguments, data)
    model = load_model(model_args, data.tasks).to(training_args.device)
    use_fast_dropout(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=training_args.learning_rate, fused=True)
    loader = trainer.get_train_dataloader()
    model.train()
    without_padding = PaddingFree(model).active() if training_args.padding_free else nullcontext()
    began = time.perf_counter()
    with fast_attention_dropout(), without_padding:
        for batch in islice(loader, training_args.max_steps if training_args.max_steps > 0 else None):
            with torch.autocast(training_args.device.type, dtype=torch.bfloat16, enabled=training_args.bf16):
                loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            on_step_end()
    loss.item()  # waits for a GPU
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
