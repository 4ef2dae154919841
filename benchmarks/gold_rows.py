"""Measures what a few sentences with people's labels add to machine-made ones.

python benchmarks/gold_rows.py --config recipes/ag_news_minilm.yaml --gold data/ner_gold/btc_news.bio:even \\
    --report data/ner_gold/btc_news.bio:odd --seeds 42 43

Trains on the entities of --config's dataset (machine-made), on these and N sentences of --gold, and on the N sentences
alone, for as many steps. Reports the F1 of persons, organisations and places in --report, borders normalised.
"""

import json
import random
import sys
import tempfile
from pathlib import Path

from quality import ROOT, TRAINING_ALONE, argument_parser, run_at, write_report


sys.path.insert(0, str(ROOT))

from configuration_mtsbert import ONTONOTES_TYPES
from mtsbert.commands.evaluate.entities import MODEL, TEACHER, evaluate, load_finder, to_json
from mtsbert.data.gold import COMMON_TYPES, GoldFile, read_gold
from mtsbert.runs import mean_and_sd


SILVER, GOLD = "silver", "gold"
TASKS = {"ner": {"type": "token_classification", "labels": ["LOC", "ORG", "PER"]}}
FLAGS = ["--do_eval=False", "--do_predict=False", "--calibration=False", "--embedding_distillation=0"]
FLAGS += ["--embedding_distillation_parts=0", f"--tasks={json.dumps(TASKS)}"]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, default=Path("data/ag_news"), help="Dataset with machine-made entities.")
    parser.add_argument("--gold", required=True, metavar="FILE[:even|:odd]", help="Sentences to learn from.")
    parser.add_argument("--report", required=True, metavar="FILE[:even|:odd]", help="Sentences to report on.")
    parser.add_argument("--numbers", type=int, nargs="+", default=[50, 100, 200], help="Sentences of --gold.")
    parser.add_argument("--num_silver", type=int, default=4000, help="Texts of --data.")
    parser.add_argument("--gold_share", type=float, default=0.2, help="Share of the batches that are of --gold.")
    args = parser.parse_args()
    gold, report = (open_gold(place) for place in (args.gold, args.report))
    teacher = load_finder("spacy:en_core_web_sm")
    table: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            for name, flags in settings(gold, args, seed, Path(folder)).items():
                model = run_at(args.config, seed, [*TRAINING_ALONE, *FLAGS, *flags, *args.flags], name=name)[1]
                finders = {TEACHER: teacher, MODEL: load_finder(str(model), min_score=0.0)}
                scores = to_json(evaluate(report, finders, COMMON_TYPES, normalize=True))["scores"]
                for side in (TEACHER, MODEL):
                    of_side = table.setdefault("spaCy" if side == TEACHER else name, [])
                    of_side.append(100 * scores[side]["all"]["f1"])
                sys.stdout.write(f"{name} seed {seed}: {table[name][-1]:.1f}\n")
    summary = {name: mean_and_sd(values[-len(args.seeds) :]) for name, values in table.items()}
    path = write_report("gold_rows", Path(args.gold.partition(":")[0]).stem, {"f1": summary})
    for name, value in summary.items():
        sys.stdout.write(f"| {name} | {value['mean']:.1f} ± {value['sd']:.1f} |\n")
    sys.stdout.write(f"Written to {path}\n")


def open_gold(place: str) -> GoldFile:
    path, _, rows = place.partition(":")
    return read_gold(ROOT / path, rows=rows or None)


def settings(gold: GoldFile, args, seed: int, folder: Path) -> dict[str, list[str]]:
    """Returns the flags of each run by its name."""
    silver = {"path": str(args.data), "columns": {"text": "text", "entities": "ner"}, "label_map": {"ner": coarse()}}
    steps = [f"--max_steps={2 * args.num_silver // 32}"]
    sample = f"--max_train_samples={args.num_silver}"
    found = {"silver": [f"--datasets={json.dumps({SILVER: silver})}", sample, *steps]}
    order = random.Random(seed).sample(range(len(gold.texts)), max(args.numbers))
    for number in args.numbers:
        rows = [{"text": gold.texts[place], "ner": of_common_types(gold.entities[place])} for place in order[:number]]
        path = folder / f"{seed}_{number}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        marked = {"path": str(path), "gold": True}
        weights = {SILVER: 1.0 - args.gold_share, GOLD: args.gold_share}
        found[f"silver_and_{number}"] = [
            f"--datasets={json.dumps({SILVER: silver, GOLD: marked})}",
            sample,
            "--dataset_sampling=weights",
            f"--sampling_weights={json.dumps(weights)}",
            *steps,
        ]
        found[f"{number}_alone"] = [f"--datasets={json.dumps({GOLD: marked})}", *steps]
    return found


def coarse() -> dict[str, str | None]:
    return {label: COMMON_TYPES.get(label) for label in ONTONOTES_TYPES}


def of_common_types(spans: list[dict]) -> list[dict]:
    return [span | {"label": COMMON_TYPES[span["label"]]} for span in spans if span["label"] in COMMON_TYPES]


if __name__ == "__main__":
    main()
