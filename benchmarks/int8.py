"""Measures what exports lose: their answers, in fp32, bf16 and int8, against those of the model on test splits.

python benchmarks/int8.py --model runs/ag_news_minilm --data data/ag_news --pairs data/stsb/test.csv
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from datasets import load_dataset
from forms import TORCH, forms_of
from quality import ROOT, write_report
from scipy.stats import spearmanr


sys.path.insert(0, str(ROOT))

from configuration_mtsbert import SEQUENCE_CLASSIFICATION
from mtsbert.formats.files import stream_rows
from pipeline_mtsbert import MTSBertPipeline


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path, help="Dataset folder written by data_prep.")
    parser.add_argument("--pairs", type=Path, help="File with scored pairs, for the correlation of the embedding.")
    parser.add_argument("--max_rows", type=int)
    args = parser.parse_args()
    rows = load_dataset("parquet", data_files={"test": str(args.data / "test.parquet")})["test"]
    if args.max_rows is not None:
        rows = rows.shuffle(seed=0).select(range(min(args.max_rows, len(rows))))
    pairs = [] if args.pairs is None else list(stream_rows(args.pairs))[: args.max_rows]
    with tempfile.TemporaryDirectory() as folder:
        pipelines = forms_of(args.model, args.data, Path(folder))
        answers = {name: ask(list(rows["text"])) for name, ask in pipelines.items()}
        correlations = {name: correlation(ask, pairs) for name, ask in pipelines.items() if pairs}
    tasks = pipelines[TORCH].model.config.tasks
    figures = {"rows": len(rows), "pairs": len(pairs), "model": args.model}
    for name, found in answers.items():
        figures[name] = {"spearman": correlations[name]} if pairs else {}
        for task, settings in tasks.items():
            if settings["type"] == SEQUENCE_CLASSIFICATION:
                same = [
                    one[task]["label"] == other[task]["label"]
                    for one, other in zip(found, answers[TORCH], strict=True)
                ]
                figures[name][f"{task} agreement"] = 100 * sum(same) / len(same)
            else:
                figures[name][f"{task} f1"] = 100 * entity_f1(
                    [spans(one[task]) for one in found], [spans(row) for row in rows["entities"]]
                )
        sys.stdout.write(f"{name}: {figures[name]}\n")
    path = write_report("int8", Path(args.model).name, figures)
    sys.stdout.write(f"Written to {path}\n")


def correlation(ask: MTSBertPipeline, pairs: list[dict]) -> float:
    """Computes Spearman's correlation of cosine and score."""
    ones, others = (
        torch.tensor([answer["embedding"] for answer in ask([row[name] for row in pairs], tasks=[])])
        for name in ("sentence1", "sentence2")
    )
    cosines = torch.nn.functional.cosine_similarity(ones, others)
    return 100 * float(spearmanr(cosines, [float(row["score"]) for row in pairs]).statistic)


def spans(entities: list[dict]) -> set[tuple]:
    return {(entity["start"], entity["end"], entity["label"]) for entity in entities}


def entity_f1(found: list[set[tuple]], expected: list[set[tuple]]) -> float:
    """Computes F1 of exact spans and types over all texts."""
    right = sum(len(one & other) for one, other in zip(found, expected, strict=True))
    return 2 * right / (sum(map(len, found)) + sum(map(len, expected)))


if __name__ == "__main__":
    main()
