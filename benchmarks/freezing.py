"""Compares all strategies of `mtsbert study`: each task and the embedding on whole test splits, seconds and memory.

python benchmarks/freezing.py --config recipes/ag_news_minilm.yaml --rows 1000 --seeds 42 43 44

As in adaptive_freezing.py, without `embedding_distillation` and `num_task_layers`. The embedding is measured by
Spearman's correlation on STS-B, which is no part of the composite. Each run has a process of its own. Seconds are
those of the fastest seed, as other programs may run on the machine.
"""

import json
import sys
import tempfile
from pathlib import Path

from embedding import stsb_pairs, write
from quality import PLAIN, RESULTS, ROOT, TRAINING_ALONE, argument_parser, write_report
from scale import in_a_fresh_process
from train import our_trainer
from transformers import set_seed


sys.path.insert(0, str(ROOT))

from mtsbert.commands.evaluate.embedding import MODEL, Pairs, evaluate_pairs, to_json
from mtsbert.commands.study import Outcome, plot, strategies
from mtsbert.data.loading import load_recipe_data
from mtsbert.network.embedders import load_embedder
from mtsbert.network.starting_point import load_encoder_config, load_tokenizer
from mtsbert.recipe import parse_arguments
from mtsbert.results.metrics import COMPOSITE, PRIMARY_METRIC
from mtsbert.settings import spelled_out


STS_B = "STS-B"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--strategies", nargs="+", help="Default: all.")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="Folder with stsb/.")
    args = parser.parse_args()
    arguments = ["--config", str(ROOT / args.config), *TRAINING_ALONE, *PLAIN, "--letter_case=False"]
    arguments += ["--calibration=False", "--disable_tqdm=True", f"--max_train_samples={args.rows}", *args.flags]
    model_args, data_args, training_args = parse_arguments([*arguments, "--output_dir=unused"])
    tasks = spelled_out(data_args.tasks)
    num_layers = load_encoder_config(model_args).get_text_config().num_hidden_layers
    known = strategies(num_layers, list(tasks), training_args)
    keys = {task: f"test_{task}_{PRIMARY_METRIC[settings['type']]}" for task, settings in tasks.items()}
    keys |= {STS_B: STS_B, COMPOSITE: f"test_{COMPOSITE}"}
    runs: dict[str, dict[int, dict]] = {name: {} for name in args.strategies or known}
    with tempfile.TemporaryDirectory() as folder:
        pairs = Pairs.read(write(stsb_pairs(args.data), Path(folder) / "pairs.jsonl", None))
        for seed in args.seeds:
            for name, of_strategy in runs.items():
                flags = [*known[name], f"--seed={seed}", f"--feature_cache_dir={folder}/features"]
                flags.append(f"--output_dir={folder}/run")
                of_strategy[seed] = in_a_fresh_process(run, [*arguments, *flags], pairs)
                sys.stdout.write(f"{name}, seed {seed}: {json.dumps(of_strategy[seed])}\n")
                sys.stdout.flush()
            report(f"{args.config.stem}_{args.rows}", runs, keys)


def run(arguments: list[str], pairs: Pairs) -> dict[str, float]:
    """Trains once, and returns what the Trainer measured, on the test split as well, and the correlation on STS-B."""
    model_args, data_args, training_args = parse_arguments(arguments)
    data = load_recipe_data(data_args, load_tokenizer(model_args), ["train", "test"])
    set_seed(training_args.seed)
    trainer, _, _ = our_trainer(arguments, data)
    figures = {"num_trained_parameters": trainer.freezing.num_trained_parameters}
    if figures["num_trained_parameters"]:
        figures |= trainer.train().metrics
    figures |= trainer.evaluate(data.features["test"], metric_key_prefix="test")
    trainer.save_model()
    embedder = load_embedder(training_args.output_dir, precision="auto")
    evaluation = evaluate_pairs(pairs, {MODEL: embedder}, num_resamples=1)
    return figures | {STS_B: to_json(evaluation)["scores"][MODEL]["spearman"]}


def report(subject: str, runs: dict[str, dict[int, dict]], keys: dict[str, str]) -> None:
    outcomes = {}
    for name, of_strategy in runs.items():
        of_seeds = list(of_strategy.values())
        fastest = min(run.get("train_runtime", 0.0) for run in of_seeds)
        outcomes[name] = Outcome.of([run | {"train_runtime": fastest} for run in of_seeds], keys)
    path = write_report("freezing", subject, {name: vars(outcome) for name, outcome in outcomes.items()})
    plot(outcomes, RESULTS / f"{path.stem}.png", split="test")
    sys.stdout.write(f"Written to {path}\n")


if __name__ == "__main__":
    main()
