"""Compares adaptive freezing with full fine-tuning: seconds of training, and what it costs each task.

python benchmarks/adaptive_freezing.py --config recipes/ag_news_minilm.yaml --rows 8000 --seeds 42 43

Both train all weights at first, without `embedding_distillation` and `num_task_layers`. They take turns, because other
programs may run on the machine: CPU seconds say more than seconds then.
"""

import sys
import tempfile
import time

from quality import ROOT, TRAINING_ALONE, argument_parser, write_report
from train import our_trainer
from transformers import set_seed


sys.path.insert(0, str(ROOT))

from mtsbert.data.loading import TaskData, load_recipe_data
from mtsbert.network.starting_point import load_tokenizer
from mtsbert.recipe import parse_arguments
from mtsbert.results.metrics import PRIMARY_METRIC
from mtsbert.runs import mean_and_sd


PLAIN = ["--num_task_layers=0", "--embedding_distillation=0", "--embedding_distillation_parts=0"]
WAYS = {"full": [], "adaptive": ["--adaptive_freezing"]}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rows", type=int, default=8000)
    args = parser.parse_args()
    runs: dict[str, dict[int, dict]] = {way: {} for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        always = [*TRAINING_ALONE, *PLAIN, "--calibration=False", "--disable_tqdm=True", f"--output_dir={folder}"]
        always += [f"--max_train_samples={args.rows}", f"--feature_cache_dir={folder}"]
        arguments = ["--config", str(ROOT / args.config), *always, *args.flags]
        model_args, data_args, _ = parse_arguments(arguments)
        data = load_recipe_data(data_args, load_tokenizer(model_args), ["train", "test"])
        for seed in args.seeds:
            for way, flags in WAYS.items():
                runs[way][seed] = measure([*arguments, *flags, f"--seed={seed}"], data)
                sys.stdout.write(f"{way}, seed {seed}: {runs[way][seed]}\n")
                sys.stdout.flush()
            path = write_report(
                "adaptive_freezing", args.config.stem, {"rows": args.rows, **summary(runs), "runs": runs}
            )
            sys.stdout.write(f"Written to {path}\n")


def measure(arguments: list[str], data: TaskData) -> dict:
    """Trains once. Returns seconds, CPU seconds, the main metrics, and from which step each part was frozen."""
    set_seed(parse_arguments(arguments)[2].seed)
    trainer, _, _ = our_trainer(arguments, data)
    began = time.process_time()
    seconds = trainer.train().metrics["train_runtime"]
    figures = {"seconds": seconds, "cpu_seconds": time.process_time() - began}
    metrics = trainer.evaluate(data.features["test"], metric_key_prefix="test")
    for task, settings in data.tasks.items():
        key = f"test_{task}_{PRIMARY_METRIC[settings['type']]}"
        figures[key] = metrics[key]
    return figures | {"frozen_from_step": trainer.freezing.settled, "num_steps": trainer.state.global_step}


def summary(runs: dict[str, dict[int, dict]]) -> dict:
    """Returns mean and standard deviation over the seeds, for each way and for their difference, and the speed-up."""
    pairs = [(run, runs["full"][seed]) for seed, run in runs["adaptive"].items()]
    numbers = [key for key, value in pairs[0][0].items() if isinstance(value, float)]
    columns = {
        way: {key: mean_and_sd([run[key] for run in of_way.values()]) for key in numbers}
        for way, of_way in runs.items()
    }
    columns["adaptive - full"] = {key: mean_and_sd([one[key] - full[key] for one, full in pairs]) for key in numbers}
    times = {
        f"times faster, {key}": columns["full"][key]["mean"] / columns["adaptive"][key]["mean"]
        for key in ("seconds", "cpu_seconds")
    }
    return times | {"table": columns}


if __name__ == "__main__":
    main()
