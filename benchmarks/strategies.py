"""Compares all strategies of `mtsbert study` on whole test splits: quality of each task, the embedding, and seconds.

python benchmarks/strategies.py --config recipes/ag_news_minilm.yaml --rows 1000 8000 --seeds 42 43 44

As in adaptive_freezing.py, without `embedding_distillation` and `num_task_layers`; adapters and biases learn with the
rate of adapters.py. The embedding is measured by STS-B. With `--jobs`, several runs share the machine, and seconds say
little.
"""

import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

from adapters import RATE
from adaptive_freezing import PLAIN, measure
from embedding import stsb_pairs, write
from quality import ROOT, TRAINING_ALONE, argument_parser, write_report


sys.path.insert(0, str(ROOT))

from mtsbert.commands.evaluate.embedding import MODEL, Pairs, evaluate_pairs, to_json
from mtsbert.commands.study import strategies
from mtsbert.data.loading import TaskData, load_recipe_data
from mtsbert.network.embedders import load_embedder
from mtsbert.network.starting_point import load_encoder_config, load_tokenizer
from mtsbert.recipe import parse_arguments
from mtsbert.runs import mean_and_sd


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 8000])
    parser.add_argument("--ways", nargs="+", help="Strategies. Default: all.")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="Folder with stsb/.")
    parser.add_argument("--jobs", type=int, default=1, help="Runs at a time.")
    args = parser.parse_args()
    arguments = ["--config", str(ROOT / args.config), *TRAINING_ALONE, *PLAIN, "--letter_case=False"]
    arguments += ["--calibration=False", "--disable_tqdm=True", *args.flags]
    model_args, data_args, _ = parse_arguments([*arguments, "--output_dir=unused"])
    layers = load_encoder_config(model_args).get_text_config().num_hidden_layers
    known = strategies(layers, list(data_args.tasks))
    ways = {way: [*known[way], *([RATE] if way.startswith(("lora", "bitfit")) else [])] for way in args.ways or known}
    runs: dict[str, dict[str, dict[int, dict]]] = {}
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as workers:
        begun = {
            (rows, way, seed): workers.submit(run, arguments, [*flags, f"--seed={seed}"], rows, args.data)
            for rows in sorted(args.rows, reverse=True)
            for seed in args.seeds
            for way, flags in ways.items()
        }
        for (rows, way, seed), outcome in begun.items():
            of_rows = runs.setdefault(f"{rows} rows", {})
            of_rows.setdefault(way, {})[seed] = outcome.result()
            sys.stdout.write(f"{rows} rows, {way}, seed {seed}: {of_rows[way][seed]}\n")
            sys.stdout.flush()
    table = {rows: summary(of_rows) for rows, of_rows in runs.items()}
    path = write_report("strategies", args.config.stem, {"jobs": args.jobs, "table": table, "runs": runs})
    sys.stdout.write(f"Written to {path}\n")


def run(arguments: list[str], flags: list[str], rows: int, data: Path) -> dict:
    """Trains once in a folder of its own. Returns the figures of [`measure`], and Spearman's correlation of STS-B."""
    with tempfile.TemporaryDirectory() as folder:
        features = read_rows(tuple(arguments), rows)
        flags = [*flags, f"--output_dir={folder}", f"--feature_cache_dir={folder}/features"]
        figures = measure([*arguments, *flags], features, saves=True)
        evaluation = evaluate_pairs(
            read_pairs(data), {MODEL: load_embedder(folder, precision="auto")}, num_resamples=1
        )
    return figures | {"test_sts_b_spearman": to_json(evaluation)["scores"][MODEL]["spearman"]}


@cache
def read_rows(arguments: tuple[str, ...], rows: int) -> TaskData:
    model_args, data_args, _ = parse_arguments([*arguments, f"--max_train_samples={rows}", "--output_dir=unused"])
    return load_recipe_data(data_args, load_tokenizer(model_args), ["train", "test"])


@cache
def read_pairs(data: Path) -> Pairs:
    with tempfile.TemporaryDirectory() as folder:
        return Pairs.read(write(stsb_pairs(data), Path(folder) / "pairs.jsonl", None))


def summary(runs: dict[str, dict[int, dict]]) -> dict[str, dict]:
    numbers = [
        key for key, value in next(iter(next(iter(runs.values())).values())).items() if isinstance(value, float)
    ]
    return {
        way: {key: mean_and_sd([run[key] for run in of_way.values()]) for key in numbers}
        for way, of_way in runs.items()
    }


if __name__ == "__main__":
    main()
