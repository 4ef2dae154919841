"""Measures how two training runs at once slow each other on the same cores, against one alone.

python benchmarks/contended.py --config recipes/ag_news_minilm.yaml

Each run has as many threads as there are cores. Idle threads sleep, which is what our commands choose. For comparison,
one run alone has them do what they do without us: libgomp, which torch brings along, spins 300,000 times before it
sleeps if no variable says otherwise. The settings take turns.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from quality import ROOT, TRAINING_ALONE, write_report


SLEEPING, SPINNING, TWO = "one alone", "one alone, as without us", "two at once, together"
DEFAULT_OF_LIBGOMP = {"GOMP_SPINCOUNT": "300000"}  # wins over OMP_WAIT_POLICY, which our commands set


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1600)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    command = [sys.executable, str(ROOT / "run_mtl.py"), "--config", str(ROOT / args.config), *TRAINING_ALONE]
    command += ["--do_eval=False", "--do_predict=False", "--calibration=False", "--num_train_epochs=1"]
    command += [f"--max_train_samples={args.rows}", "--disable_tqdm=True"]
    rates: dict[str, list[float]] = {SLEEPING: [], SPINNING: [], TWO: []}
    for _ in range(args.repeats):
        rates[SLEEPING].append(sum(rows_per_second(command, 1)))
        rates[TWO].append(sum(rows_per_second(command, 2)))
        rates[SPINNING].append(sum(rows_per_second(command, 1, **DEFAULT_OF_LIBGOMP)))
    figures = {
        "rows_per_second": rates,
        "two at once / one alone": median(two / one for two, one in zip(rates[TWO], rates[SLEEPING], strict=True)),
        "alone: sleeping / as without us": median(
            one / two for one, two in zip(rates[SLEEPING], rates[SPINNING], strict=True)
        ),
    }
    sys.stdout.write(
        f"{json.dumps(figures, indent=2)}\nWritten to {write_report('contended', args.config.stem, figures)}\n"
    )


def rows_per_second(command: list[str], number: int, **variables: str) -> list[float]:
    """Starts runs at the same time, and returns the rows that each has learned per second of training."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / str(run) for run in range(number)]
        own = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # a choice of the user's would win
        environment = {name: value for name, value in os.environ.items() if name not in own} | variables
        runs = [
            subprocess.Popen([*command, f"--output_dir={output}"], env=environment, stdout=subprocess.DEVNULL)
            for output in outputs
        ]
        if any([run.wait() for run in runs]):
            raise RuntimeError("A run has failed; its error is above.")
        results = [json.loads((output / "all_results.json").read_text()) for output in outputs]
        return [result["train_samples_per_second"] for result in results]


if __name__ == "__main__":
    main()
