"""Measures what learning labels costs the sentence embedding: a recipe as it is, and without keeping the embedding.

python benchmarks/kept.py --config recipes/quickstart.yaml --seeds 42 43 44

`kept` is the recipe as it is; `free` has neither task layers nor distillation, `layers` only the task layers. The
embedding is measured as in benchmarks/embedding.py, against the encoder that the recipe starts from.
"""

import sys
from pathlib import Path

import yaml
from embedding import evaluate, read_data, remembering
from quality import ROOT, argument_parser, run_at, write_report

from mtsbert.network.embedders import load_embedder
from mtsbert.runs import mean_and_sd


WAYS = {
    "kept": [],
    "layers": ["--embedding_distillation=0", "--embedding_distillation_parts=0"],
    "free": ["--embedding_distillation=0", "--embedding_distillation_parts=0", "--num_task_layers=0"],
}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["kept", "free"])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="See embedding.py.")
    args = parser.parse_args()
    data = read_data(args.data)
    encoder = yaml.safe_load((ROOT / args.config).read_text())["encoder_name_or_path"]
    reference = remembering(load_embedder(encoder, precision="auto"))
    runs: dict[str, dict[int, dict]] = {way: {} for way in args.ways}
    for seed in args.seeds:
        for way in args.ways:
            metrics, folder = run_at(args.config, seed, [*WAYS[way], *args.flags], name=way)
            figures = evaluate(load_embedder(str(folder), precision="auto"), reference, data)
            runs[way][seed] = {key: value for key, value in metrics.items() if key.startswith("test_")} | figures
            sys.stdout.write(f"{way}, seed {seed}: {runs[way][seed]}\n")
            sys.stdout.flush()
    summary = {
        way: {key: mean_and_sd([run[key] for run in of_way.values()]) for key in next(iter(of_way.values()))}
        for way, of_way in runs.items()
    }
    path = write_report("kept", args.config.stem, {"summary": summary, "runs": runs})
    for way, figures in summary.items():
        for key, value in figures.items():
            sys.stdout.write(f"{way:8} {key:40} {100 * value['mean']:8.2f} ± {100 * value['sd']:.2f}\n")
    sys.stdout.write(f"Written to {path}\n")


if __name__ == "__main__":
    main()
