"""Compares adaptive freezing with full fine-tuning: seconds of training, and what it costs each task.

python benchmarks/adaptive_freezing.py --config recipes/ag_news_minilm.yaml --rows 8000 --seeds 42 43

Both train all weights at first, without `embedding_distillation` and `num_task_layers`. They take turns, because other
programs may run on the machine: CPU seconds say more than seconds then.
"""

import sys
import tempfile
import time

from quality import PLAIN, ROOT, TRAINING_ALONE, argument_parser, write_report
from train import our_trainer
from transformers import set_seed


sys.path.insert(0, str(ROOT))

from mtsbert.data.loading import TaskData, load_recipe_data
from mtsbert.network.starting_point import load_tokenizer
from mtsbert.recipe import parse_arguments
from mtsbert.results.metrics import PRIMARY_METRIC
from mtsbert.runs import mean_and_sd


Ways = dict[str, list[str]]  # name → its flags

FULL = "full"
ADAPTIVE = {"adaptive": ["--adaptive_freezing"]}


def main() -> None:
    compare("adaptive_freezing", ADAPTIVE, __doc__)


def compare(name: str, ways: Ways, description: str) -> None:
    """Trains in full and in other ways, for every seed in turn, and writes the report `name`."""
    parser = argument_parser(description)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--ways", nargs="+", choices=list(ways), default=list(ways), help="Default: all.")
    args = parser.parse_args()
    ways = {way: ways[way] for way in args.ways}
    runs: dict[str, dict[int, dict]] = {way: {} for way in (FULL, *ways)}
    with tempfile.TemporaryDirectory() as folder:
        always = [*TRAINING_ALONE, *PLAIN, "--calibration=False", "--disable_tqdm=True", f"--output_dir={folder}"]
        always += [f"--max_train_samples={args.rows}", f"--feature_cache_dir={folder}"]
        arguments = ["--config", str(ROOT / args.config), *always, *args.flags]
        model_args, data_args, _ = parse_arguments(arguments)
        data = load_recipe_data(data_args, load_tokenizer(model_args), ["train", "test"])
        for seed in args.seeds:
            for way, flags in {FULL: [], **ways}.items():
                runs[way][seed] = measure([*arguments, *flags, f"--seed={seed}"], data)
                sys.stdout.write(f"{way}, seed {seed}: {runs[way][seed]}\n")
                sys.stdout.flush()
            subject = f"{args.config.stem}_{args.rows}"
            path = write_report(name, subject, {"rows": args.rows, **summary(runs), "runs": runs})
            sys.stdout.write(f"Written to {path}\n")


def measure(arguments: list[str], data: TaskData) -> dict:
    """Trains once. Returns seconds, CPU seconds, the main metrics, and from which step each part was frozen."""
    set_seed(parse_arguments(arguments)[2].seed)
    trainer, _, _ = our_trainer(arguments, data)
    began = time.process_time()
    metrics = trainer.train().metrics
    figures = {"seconds": metrics["train_runtime"], "cpu_seconds": time.process_time() - began}
    figures["memory_gb"] = metrics["train_peak_memory_gb"]
    metrics = trainer.evaluate(data.features["test"], metric_key_prefix="test")
    for task, settings in data.tasks.items():
        key = f"test_{task}_{PRIMARY_METRIC[settings['type']]}"
        figures[key] = metrics[key]
    return figures | {"frozen_from_step": trainer.freezing.settled, "num_steps": trainer.state.global_step}


def summary(runs: dict[str, dict[int, dict]]) -> dict:
    """Returns mean and standard deviation over the seeds of each way and its difference to full, and its speed-up."""
    full = runs[FULL]
    numbers = [key for key, value in next(iter(full.values())).items() if isinstance(value, float)]
    columns = {
        way: {key: mean_and_sd([run[key] for run in of_way.values()]) for key in numbers}
        for way, of_way in runs.items()
    }
    times = {}
    for way in [way for way in runs if way != FULL]:
        pairs = [(run, full[seed]) for seed, run in runs[way].items()]
        columns[f"{way} - {FULL}"] = {
            key: mean_and_sd([one[key] - other[key] for one, other in pairs]) for key in numbers
        }
        for key in ("seconds", "cpu_seconds"):
            times[f"{way}: times faster, {key}"] = columns[FULL][key]["mean"] / columns[way][key]["mean"]
    return times | {"table": columns}


if __name__ == "__main__":
    main()
