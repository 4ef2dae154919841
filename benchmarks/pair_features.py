"""Compares what a pair classification reads: embeddings of length 1, or of the length of their raw numbers.

python benchmarks/pair_features.py --config recipes/nli.yaml --seeds 42 43 44

Sentence-BERT (arXiv 1908.10084) classifies raw embeddings u, v and |u - v|. Ours have length 1, and `feature_scale`,
the root of their size by default, brings their numbers back to about 1.
"""

import json
import sys

import yaml
from quality import ROOT, TRAINING_ALONE, argument_parser, run, write_report

from configuration_mtsbert import PAIR_CLASSIFICATION
from mtsbert.runs import mean_and_sd


def main() -> None:
    args = argument_parser(__doc__).parse_args()
    tasks = yaml.safe_load((ROOT / args.config).read_text())["tasks"]
    (task, settings), *_ = (item for item in tasks.items() if item[1]["type"] == PAIR_CLASSIFICATION)
    of_length_1 = json.dumps(tasks | {task: settings | {"feature_scale": 1.0}})
    ways = {"length 1": [f"--tasks={of_length_1}"], "scaled": []}
    # In turn, so that whoever stops it early has as many runs of each.
    runs = {way: {} for way in ways}
    for seed in args.seeds:
        for number, (way, flags) in enumerate(ways.items()):
            runs[way][seed] = run(args.config, seed, [*TRAINING_ALONE, *flags, *args.flags], name=f"pair_{number}")
    table = {way: mean_and_sd([one[f"eval_{task}_accuracy"] for one in runs[way].values()]) for way in ways}
    path = write_report("pair_features", args.config.stem, {"table": table, "runs": runs})
    lines = [f"| {way} | {100 * cell['mean']:.1f} ± {100 * cell['sd']:.1f} |" for way, cell in table.items()]
    sys.stdout.write("\n".join(["| embeddings | accuracy |", "|---|---|", *lines, "", f"Written to {path}", ""]))


if __name__ == "__main__":
    main()
