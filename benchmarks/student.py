"""Compares a distilled model with its teacher: topic, entities, sentence embedding, and texts per second.

python benchmarks/student.py --teacher runs/ag_news_minilm --student runs/ag_news_distilled

Topic and entities (F1 against spaCy's) are those of the test split of AG News, the embedding is measured by STS-B. For
the speed, the two answer the same texts in turn, in fp32 and in bf16.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from datasets import load_dataset
from embedding import stsb_pairs, write
from infer import under_autocast
from quality import ROOT, write_report


sys.path.insert(0, str(ROOT))

from mtsbert import MTLTrainingArguments, MTSBertTrainer, load_pipeline
from mtsbert.commands.evaluate.embedding import MODEL, REFERENCE, Pairs, evaluate_pairs, to_json
from mtsbert.network.embedders import load_embedder


COLUMNS = {"text": "text", "label": "topic", "entities": "ner"}
TASK_FIGURES = ("topic_accuracy", "ner_f1")


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", required=True, help="Checkpoint with the tasks topic and ner.")
    parser.add_argument("--student", required=True, help="Checkpoint that was distilled from it.")
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="Folder with ag_news/ (Parquet) and stsb/.")
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--max_rows", type=int, help="Use only the first rows of each file.")
    parser.add_argument("--timed_rows", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    models = {"teacher": args.teacher, "student": args.student}
    file = args.data / "ag_news" / ("test.parquet" if args.split == "test" else "validation.parquet")
    news = load_dataset("parquet", data_files={args.split: str(file)})[args.split]
    rows = news if args.max_rows is None else news.select(range(args.max_rows))
    quality = {name: answers(model, rows) for name, model in models.items()}
    for name, value in spearman(models, args.data, args.split, args.max_rows).items():
        quality[name]["stsb_spearman"] = value
    kept = {key: value / quality["teacher"][key] for key, value in quality["student"].items()}
    texts = news.shuffle(seed=0).select(range(min(args.timed_rows, len(news))))["text"][:]
    seconds = timed(models, texts, args.repeats)
    table = {name: dict(figures) for name, figures in quality.items()} | {"kept": kept}
    for precision, of_models in seconds.items():
        row = f"texts/s, {precision}"
        for name, took in of_models.items():
            table[name][row] = len(texts) / statistics.median(took)
        pairs = zip(of_models["teacher"], of_models["student"], strict=True)
        kept[row] = statistics.median(of_teacher / of_student for of_teacher, of_student in pairs)
    for key in kept:
        sys.stdout.write(f"{key:16} " + " ".join(f"{name} {table[name][key]:9.4f}" for name in table) + "\n")
    figures = {"split": args.split, "rows": len(rows), "timed_rows": len(texts), "table": table, "runs": seconds}
    sys.stdout.write(f"Written to {write_report('student', Path(args.student).name, figures)}\n")


def answers(model: str, rows) -> dict[str, float]:
    """Returns the accuracy of topics and the F1 of entities."""
    pipe = load_pipeline(model)
    with tempfile.TemporaryDirectory() as folder:
        arguments = MTLTrainingArguments(folder, per_device_eval_batch_size=128, disable_tqdm=True)
        trainer = MTSBertTrainer(pipe.model, arguments, processing_class=pipe.tokenizer, columns=COLUMNS)
        metrics = trainer.evaluate(rows)
    return {name: metrics[f"eval_{name}"] for name in TASK_FIGURES}


def spearman(models: dict[str, str], data: Path, split: str, max_rows: int | None) -> dict[str, float]:
    """Returns by model the Spearman correlation of cosines and scores of STS-B."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = Pairs.read(write(stsb_pairs(data, split), Path(folder) / "pairs.jsonl", max_rows))
    sides = {MODEL: models["student"], REFERENCE: models["teacher"]}
    embedders = {side: load_embedder(name, precision="auto") for side, name in sides.items()}
    scores = to_json(evaluate_pairs(pairs, embedders, num_resamples=1))["scores"]
    return {"student": scores[MODEL]["spearman"], "teacher": scores[REFERENCE]["spearman"]}


def timed(models: dict[str, str], texts: list[str], repeats: int) -> dict[str, dict[str, list[float]]]:
    """Returns the seconds of every repeat, by precision and model. The models take turns."""
    pipes = {name: load_pipeline(model) for name, model in models.items()}
    seconds: dict[str, dict[str, list[float]]] = {}
    for precision in ("fp32", "bf16"):
        asked = {name: pipe if precision == "fp32" else under_autocast(pipe) for name, pipe in pipes.items()}
        seconds[precision] = {name: [] for name in models}
        for answer in asked.values():
            answer(texts[:32])
        for _ in range(repeats):
            for name, answer in asked.items():
                began = time.perf_counter()
                answer(texts)
                seconds[precision][name].append(time.perf_counter() - began)
    return seconds


if __name__ == "__main__":
    main()
