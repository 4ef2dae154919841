"""Measures whether scores say how often answers are right, on texts that neither training nor calibration has seen.

python benchmarks/calibration.py --models minilm=runs/ag_news_minilm --data data/ag_news --gold data/ner_gold/b.bio

The expected calibration error (15 bins) of the likeliest label of every text, and of every entity found: with the
scores as the network gives them, and as they are calibrated on the validation split. Entities are also compared with
those that people marked in `--gold`, calibrated on its even rows and measured on its odd ones. The thresholds of
`--target` are tuned on the validation split, and what they reach is measured on the test split.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from gold import name_and_folder
from quality import ROOT, write_report


sys.path.insert(0, str(ROOT))

from configuration_mtsbert import CALIBRATIONS, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, MTSBertConfig
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.calibration.fitting import expected_calibration_error, fit_entities
from mtsbert.calibration.thresholds import Scored, answers_by_label, choose, tunable
from mtsbert.data.gold import COMMON_TYPES, marks_of, read_gold, restrict
from mtsbert.data.loading import load_data
from mtsbert.exports.pipeline import load_pipeline
from mtsbert.machine import autocast
from mtsbert.training.trainer import MTSBertTrainer
from pipeline_mtsbert import MTSBertPipeline


def main() -> None:
    args = parse_arguments()
    report = {name: measure(folder, args) for name, folder in args.models}
    table = {
        name: {key: value for key, value in figures.items() if not isinstance(value, dict)}
        for name, figures in report.items()
    }
    path = write_report("calibration", None, {"table": table, "runs": report})
    for name, figures in report.items():
        for key, value in figures.items():
            sys.stdout.write(f"{name} {key}: {value}\n")
    sys.stdout.write(f"Written to {path}\n")


def measure(folder: str, args: argparse.Namespace) -> dict:
    ask = load_pipeline(folder)
    config: MTSBertConfig = ask.model.config
    config.calibration = False
    columns = {"text": "text", "label": "topic", "entities": "ner"}
    news = {"path": str(ROOT / args.data), "columns": columns}
    splits = ["validation", "test"]
    data = load_data({"news": news}, {}, ask.tokenizer, splits=splits, checkpoint_tasks=config.tasks)
    tasks = tunable(config.tasks, with_pairs=False)
    raw = {split: scored(ask, tasks, data.examples[split]) for split in splits}
    arguments = MTLTrainingArguments("runs/calibration", precision="auto", report_to="none", disable_tqdm=True)
    trainer = MTSBertTrainer(ask.model, arguments, processing_class=ask.tokenizer, max_length=args.max_length)
    fits = trainer.calibrate(data["validation"])
    ask.model.eval()
    calibrated = {split: scored(ask, tasks, data.examples[split]) for split in splits}
    figures: dict = {"settings": {task: fit.settings for task, fit in fits.items()}}
    for task, settings in tasks.items():
        if settings["type"] in (SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION):
            figures[f"{task} error, as it comes"] = error(raw["test"][task].values())
            figures[f"{task} error, calibrated"] = error(calibrated["test"][task].values())
            figures[f"{task} answers"] = sum(len(one.scores) for one in calibrated["test"][task].values())
            figures[f"{task} thresholds"] = reached(calibrated, task, args.target)
    if args.gold is not None:
        figures |= of_gold(ask, args.gold)
    return figures


def scored(ask: MTSBertPipeline, tasks: dict[str, dict], examples: Iterable[dict]) -> dict[str, dict[str, Scored]]:
    texts = [row["text"] for row in examples]
    with autocast(ask.device, "auto"):
        answers = ask(texts, tasks=list(tasks), threshold=0.0, return_embeddings=False)
    return answers_by_label(tasks, examples, answers)


def error(by_label: Iterable[Scored]) -> float:
    by_label = list(by_label)
    scores = np.concatenate([one.scores for one in by_label])
    return expected_calibration_error(scores, np.concatenate([one.is_right for one in by_label]))


def reached(by_split: dict, task: str, target: float) -> dict[str, dict]:
    """By label: what the threshold promises on the validation split, and what it reaches on the test split."""
    found = {}
    for label, on_validation in by_split["validation"][task].items():
        threshold, on_test = choose(on_validation, target), by_split["test"][task].get(label)
        if threshold is None or not threshold.is_reached or on_test is None:
            continue
        chosen = np.array(on_test.scores) >= threshold.value
        right = np.array(on_test.is_right)[chosen]
        precision, low, high = threshold.precision
        found[label] = {
            "threshold": threshold.value, "promised": [precision, low, high], "reached": float(right.mean()),
            "is_within": bool(low <= right.mean() <= high), "recall": float(right.sum() / on_test.num_true),
        }  # fmt: skip
    return found


def of_gold(ask: MTSBertPipeline, path: Path) -> dict:
    """The error of the scores of entities against people's marks: calibrated on even rows, measured on odd ones."""
    task = ask.model.config.tasks_of_type(TOKEN_CLASSIFICATION)[0]
    settings = ask.model.config.tasks[task]
    on_silver = {key: settings.pop(key) for key in CALIBRATIONS if key in settings}
    even, odd = (scored_by_people(ask, task, path, rows) for rows in ("even", "odd"))
    settings.update(on_silver)
    as_on_silver = scored_by_people(ask, task, path, "odd")
    del settings["platt"]
    settings.update(fit_entities(settings, *even).settings)
    return {
        "gold settings": {"platt": settings["platt"]},
        "gold error, as it comes": expected_calibration_error(*odd),
        "gold error, calibrated on the labels of the program": expected_calibration_error(*as_on_silver),
        "gold error, calibrated on the even rows": expected_calibration_error(
            *scored_by_people(ask, task, path, "odd")
        ),
        "gold entities": len(odd[0]),
    }


def scored_by_people(ask: MTSBertPipeline, task: str, path: Path, rows: str) -> tuple[np.ndarray, np.ndarray]:
    gold = read_gold(ROOT / path, rows=rows)
    of_gold = restrict(gold.types, COMMON_TYPES)
    with autocast(ask.device, "auto"):
        answers = ask(gold.texts, tasks=[task], threshold=0.0, return_embeddings=False)
    scores, is_right = [], []
    for text, marked, answer in zip(gold.texts, gold.entities, answers, strict=True):
        right = marks_of(marked, text, of_gold, normalize=True)
        for entity in answer[task]:
            own = restrict([entity["label"]], COMMON_TYPES, of_gold.values())
            if own:
                scores.append(entity["score"])
                is_right.append(bool(marks_of([entity], text, own, normalize=True) & right))
    return np.array(scores), np.array(is_right)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME=FOLDER", type=name_and_folder)
    parser.add_argument("--data", type=Path, required=True, help="A prepared dataset: text, label and entities.")
    parser.add_argument("--gold", type=Path, help="Entities that people marked.")
    parser.add_argument("--target", type=float, default=0.95, help="Precision of the thresholds. Default: %(default)s")
    parser.add_argument("--max_length", type=int, default=128)
    return parser.parse_args()


if __name__ == "__main__":
    main()
