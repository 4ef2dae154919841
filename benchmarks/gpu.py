"""Trains and answers on one GPU: an encoder of BERT-base's shape, on the rows of a recipe with topic and entities.

python benchmarks/gpu.py --config recipes/ag_news_minilm.yaml --rows 8192

Weights are random, which changes nothing about speed. The bare loop is plain PyTorch over the batches of our Trainer,
with the same model. Answers are those of the pipeline, whose batches are by default of 16,384 tokens.
"""

import argparse
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from infer import three_pipelines
from quality import PLAIN, ROOT, TRAINING_ALONE, write_report
from train import bare_loop, our_trainer
from transformers import BertConfig, BertModel, TrainerCallback, set_seed


sys.path.insert(0, str(ROOT))

from mtsbert.data.loading import TaskData, load_recipe_data
from mtsbert.machine import autocast
from mtsbert.network.starting_point import load_tokenizer
from mtsbert.recipe import parse_arguments


PADDED, RANDOM = "--padding_free=False", "--train_sampling_strategy=random"
BARE = "bare loop"
WAYS = {  # of training: name → flags
    "ours": [],
    "ours, with padding": [PADDED],
    BARE: [],
    f"{BARE}, with padding": [PADDED],
    "ours, random order": [RANDOM],
    "ours, random order, with padding": [RANDOM, PADDED],
    "ours, fp32": ["--precision=fp32"],
    "ours, LoRA r 8": ["--lora_r=8"],
    "ours, LoRA r 8 at all layers": ["--lora_r=8", "--lora_target", "query", "key", "value", "dense"],
}
WARM_UP, MOST_STEPS = 8, 48  # steps
ONE_BY_ONE = 128  # texts


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="Recipe with one dataset, `topic` and `ner`.")
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="Default: all.")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this benchmark needs a GPU")
    with tempfile.TemporaryDirectory() as folder:
        arguments, data = rows_of_recipe(args.config, args.rows, Path(folder))
        num_tokens = sum(map(len, data.features["train"]["input_ids"][:]))
        answering = compare_answers(arguments, data, Path(folder), args.repeats)
        training = compare_training(args, arguments, data, num_tokens)
    report = {"rows": args.rows, "tokens": num_tokens, "repeats": args.repeats, **training, "answers": answering}
    sys.stdout.write(f"Written to {write_report('gpu', None, report)}\n")


def rows_of_recipe(config: Path, rows: int, folder: Path) -> tuple[list[str], TaskData]:
    """Saves an encoder of BERT-base's shape; returns the arguments of an epoch that begins with it, and its rows."""
    arguments = ["--config", str(ROOT / config), *TRAINING_ALONE, *PLAIN, "--letter_case=False", "--calibration=False"]
    arguments += ["--num_train_epochs=1", f"--max_train_samples={rows}"]
    arguments += ["--disable_tqdm=True", f"--output_dir={folder / 'run'}"]
    tokenizer = load_tokenizer(parse_arguments(arguments)[0])
    set_seed(0)
    BertModel(BertConfig(vocab_size=len(tokenizer))).save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    arguments.append(f"--encoder_name_or_path={folder / 'encoder'}")
    model_args, data_args, _ = parse_arguments(arguments)
    return arguments, load_recipe_data(data_args, load_tokenizer(model_args), ["train"])


def compare_training(args: argparse.Namespace, arguments: list[str], data: TaskData, num_tokens: int) -> dict:
    """Returns, for every batch size and way, the medians of tokens/s and of ms a step, and the peak of memory."""
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for size in args.batch_sizes:
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in args.ways}
        # The first run of each way does not count: it loads the kernels that it needs.
        for _ in range(1 + args.repeats):
            for way in args.ways:
                flags = [*arguments, f"--per_device_train_batch_size={size}", *WAYS[way]]
                flags.append(f"--max_steps={min(MOST_STEPS, args.rows // size)}")
                runs[way].append(measure(flags, data, is_bare=way.startswith(BARE)))
        for way, (_, *of_way) in runs.items():
            milliseconds = statistics.median(run["ms_per_step"] for run in of_way)
            figures.setdefault(f"batches of {size}", {})[way] = {
                "tokens_per_second": num_tokens / args.rows * size / milliseconds * 1000,
                "ms_per_step": milliseconds,
                "peak_gb": max(run["peak_gb"] for run in of_way),
            }
            sys.stdout.write(f"{size:4} {way:45} {figures[f'batches of {size}'][way]}\n")
            sys.stdout.flush()
    return figures


class Clock(TrainerCallback):
    """Measures the steps of a run after the first few, until there are enough of them."""

    def __init__(self):
        self.steps, self.began, self.ended = 0, 0.0, 0.0

    def tick(self) -> None:
        self.steps += 1
        if self.steps == WARM_UP:
            torch.cuda.synchronize()
            self.began = time.perf_counter()
        elif self.steps == MOST_STEPS:
            self.stop()

    def stop(self) -> None:
        torch.cuda.synchronize()
        self.ended = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.tick()

    def on_train_end(self, args, state, control, **kwargs):
        if not self.ended:
            self.stop()

    def ms_per_step(self) -> float:
        return 1000 * (self.ended - self.began) / (min(self.steps, MOST_STEPS) - WARM_UP)


def measure(arguments: list[str], data: TaskData, *, is_bare: bool = False) -> dict[str, float]:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    clock = Clock()
    if is_bare:
        bare_loop(arguments, data, clock.tick)
        clock.on_train_end(None, None, None)
    else:
        trainer, _, _ = our_trainer(arguments, data, callbacks=[clock])
        trainer.train()
    return {"ms_per_step": clock.ms_per_step(), "peak_gb": torch.cuda.max_memory_allocated() / 1e9}


def compare_answers(arguments: list[str], data: TaskData, folder: Path, repeats: int) -> dict[str, float]:
    """Returns texts/s of ways to answer the texts of the rows."""
    trainer, _, _ = our_trainer([*arguments, "--max_steps=1"], data)
    trainer.train()
    trainer.save_model()
    ask = trainer.model.eval().as_pipeline(trainer.processing_class, device=trainer.model.device)
    texts = ask.tokenizer.batch_decode(data.features["train"]["input_ids"][:], skip_special_tokens=True)
    pipelines = three_pipelines(ask, folder)
    ways: dict[str, tuple[Callable[[list[str]], object], list[str], str]] = {
        "ours, bf16": (ask, texts, "bf16"),
        "ours, bf16, batches of 32": (lambda rows: ask(rows, batch_size=32), texts, "bf16"),
        "ours, bf16, one text at a time": (lambda rows: [ask(row) for row in rows], texts[:ONE_BY_ONE], "bf16"),
        "ours, fp32": (ask, texts, "fp32"),
        **{name: (answer, texts[:ONE_BY_ONE], "bf16") for name, answer in pipelines.items()},
    }
    rates = {}
    for name, (answer, rows, precision) in ways.items():
        with autocast(trainer.model.device, precision):
            answer(rows[:64])
            seconds = [timed(answer, rows) for _ in range(repeats)]
        rates[name] = {"texts_per_second": len(rows) / statistics.median(seconds)}
        sys.stdout.write(f"{name:50} {rates[name]}\n")
        sys.stdout.flush()
    return rates


def timed(answer: Callable[[list[str]], object], rows: list[str]) -> float:
    began = time.perf_counter()
    answer(rows)
    torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
