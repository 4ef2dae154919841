"""Measures memory and seconds of training on many rows, and whether a run of them resumes exactly.

python benchmarks/rows.py --rows 100000 1000000

Texts are made up, and the model has one narrow layer with random weights: what could grow with the rows is independent
of its size. Memory is the peak of what a process has for itself (`RssAnon`), without the pages of files on disk.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from quality import ROOT, write_report
from safetensors.torch import load_file
from scale import in_a_fresh_process
from stream import WORDS, memory_mb, save_small_encoder
from train import our_trainer


sys.path.insert(0, str(ROOT))

from configuration_mtsbert import SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION
from mtsbert.data.loading import load_recipe_data
from mtsbert.network.starting_point import load_tokenizer
from mtsbert.recipe import parse_arguments


PLACES = ("geneva", "lima")
TASKS = {"topic": {"type": SEQUENCE_CLASSIFICATION}, "ner": {"type": TOKEN_CLASSIFICATION}}
COLUMNS = {"text": "text", "topic": "topic", "ner": "ner"}
ROWS_AT_ONCE = 10_000
WEIGHTS = "model.safetensors"
OWN = "RssAnon"


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--batch_size", type=int, default=256)
    args = parser.parse_args()
    figures: dict[str, dict[str, float | bool]] = {}
    for rows in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            flags = recipe_in(Path(folder), rows, args.batch_size)
            found = in_a_fresh_process(measure, flags)
            half, *_ = sorted(Path(folder, "run").glob("checkpoint-*"))
            again = [*flags, f"--output_dir={folder}/again", f"--resume_from_checkpoint={half}"]
            resumed = in_a_fresh_process(measure, again)
            found |= {f"resumed_{name}": value for name, value in resumed.items()}
            ends = [load_file(Path(folder, name, WEIGHTS)) for name in ("run", "again")]
            found["resumes_exactly"] = all(bool((ends[0][key] == ends[1][key]).all()) for key in ends[0])
        sys.stdout.write(f"{rows:,} rows: {found}\n")
        for name, value in found.items():
            figures.setdefault(name, {})[f"{rows:,} rows"] = value
    sys.stdout.write(f"Written to {write_report('rows', None, figures)}\n")


def recipe_in(folder: Path, rows: int, batch_size: int) -> list[str]:
    """Writes rows and an encoder to a folder, and returns the flags of a run on them that saves after half of it."""
    write_rows(folder / "rows.parquet", rows)
    (folder / "encoder").mkdir()
    save_small_encoder(folder / "encoder", width=16, num_layers=1)
    datasets = {"rows": {"files": {"train": str(folder / "rows.parquet")}, "columns": COLUMNS}}
    return [
        *("--do_train=True", "--precision=fp32", "--disable_tqdm=True", "--num_train_epochs=1", "--report_to=none"),
        *("--eval_strategy=no", "--gradient_statistics_steps=0", f"--output_dir={folder / 'run'}"),
        *("--save_strategy=steps", f"--save_steps={rows // batch_size // 2}", "--save_total_limit=3"),
        *(f"--encoder_name_or_path={folder / 'encoder'}", f"--per_device_train_batch_size={batch_size}"),
        *(f"--datasets={json.dumps(datasets)}", f"--tasks={json.dumps(TASKS)}"),
    ]


def write_rows(path: Path, number: int) -> None:
    """Writes texts of 8 to 30 words with a random topic, in which the places are entities."""
    draw, writer = random.Random(0), None
    for begin in range(0, number, ROWS_AT_ONCE):
        rows = [made_up_row(draw) for _ in range(min(ROWS_AT_ONCE, number - begin))]
        table = pa.Table.from_pylist(rows)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    writer.close()


def made_up_row(draw: random.Random) -> dict:
    words, entities, place = draw.choices(WORDS, k=draw.randint(8, 30)), [], 0
    for word in words:
        if word in PLACES:
            entities.append({"start": place, "end": place + len(word), "label": "GPE"})
        place += len(word) + 1
    return {"text": " ".join(words), "topic": draw.choice(["Business", "Sports"]), "ner": entities}


def measure(arguments: list[str]) -> dict[str, float]:
    """Reads the rows and trains. Returns seconds, and the peak of memory of each in MB."""
    model_args, data_args, training_args = parse_arguments(arguments)
    figures = {"start_mb": memory_mb(OWN)}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result, figures[f"{name}_mb"] = peak_while(work)
        figures[f"{name}_seconds"] = time.perf_counter() - began
        return result

    data = timed("reading", lambda: load_recipe_data(data_args, load_tokenizer(model_args), ["train"]))
    trainer, _, _ = our_trainer(arguments, data)
    timed("training", lambda: trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint))
    trainer.save_model()
    return figures


def peak_while(work: Callable[[], Any]) -> tuple[Any, float]:
    """Returns what `work` returns, and the highest memory of this process meanwhile, looked at 20 times a second."""
    seen, is_over = [memory_mb(OWN)], threading.Event()

    def look() -> None:
        while not is_over.wait(0.05):
            seen.append(memory_mb(OWN))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        return work(), max(*seen, memory_mb(OWN))
    finally:
        is_over.set()
        watcher.join()


if __name__ == "__main__":
    main()
