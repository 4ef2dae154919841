"""Measures the cost of int8: predictions of the ONNX export, in fp32 and int8, against the model on a test split.

python benchmarks/int8.py --model runs/ag_news_minilm --data data/ag_news
"""

import argparse
import sys
import tempfile
from pathlib import Path

from datasets import load_dataset
from quality import ROOT, write_report


sys.path.insert(0, str(ROOT))

from configuration_mtsbert import SEQUENCE_CLASSIFICATION
from mtsbert.commands.export import export
from mtsbert.network.onnx_pipeline import OnnxPipeline
from mtsbert.network.starting_point import load_pipeline


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path, help="Dataset folder written by data_prep.")
    parser.add_argument("--max_rows", type=int)
    args = parser.parse_args()
    rows = load_dataset("parquet", data_files={"test": str(args.data / "test.parquet")})["test"]
    if args.max_rows is not None:
        rows = rows.shuffle(seed=0).select(range(min(args.max_rows, len(rows))))
    pipelines = {"torch fp32": load_pipeline(args.model)}
    with tempfile.TemporaryDirectory() as folder:
        for name, int8 in {"onnx fp32": False, "onnx int8": True}.items():
            export(args.model, Path(folder) / name, int8=int8)
            pipelines[name] = OnnxPipeline(Path(folder) / name)
        answers = {name: ask(list(rows["text"])) for name, ask in pipelines.items()}
    tasks = pipelines["torch fp32"].model.config.tasks
    figures = {"rows": len(rows), "model": args.model}
    for name, found in answers.items():
        figures[name] = {}
        for task, settings in tasks.items():
            if settings["type"] == SEQUENCE_CLASSIFICATION:
                same = [
                    one[task]["label"] == other[task]["label"]
                    for one, other in zip(found, answers["torch fp32"], strict=True)
                ]
                figures[name][f"{task} agreement"] = 100 * sum(same) / len(same)
            else:
                figures[name][f"{task} f1"] = 100 * entity_f1(
                    [spans(one[task]) for one in found], [spans(row) for row in rows["entities"]]
                )
        sys.stdout.write(f"{name}: {figures[name]}\n")
    path = write_report("int8", Path(args.model).name, figures)
    sys.stdout.write(f"Written to {path}\n")


def spans(entities: list[dict]) -> set[tuple]:
    return {(entity["start"], entity["end"], entity["label"]) for entity in entities}


def entity_f1(found: list[set[tuple]], expected: list[set[tuple]]) -> float:
    """Computes F1 of exact spans and types over all texts."""
    right = sum(len(one & other) for one, other in zip(found, expected, strict=True))
    return 2 * right / (sum(map(len, found)) + sum(map(len, expected)))


if __name__ == "__main__":
    main()
