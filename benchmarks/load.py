"""Measures seconds and memory until the first prediction in a fresh process: topic, entities and embedding of a text.

python benchmarks/load.py --model runs/ag_news_minilm

- our model, as `pipeline("multi-task")` and from its ONNX exports;
- three separate models of the same size in transformers' pipelines;
- a spaCy pipeline and a `SentenceTransformer`, without a topic.

Each variant is the Python code that a user would write, including imports. Seconds count from the start of the
interpreter; memory is the peak resident memory (Linux). The first round only fills the system's file cache.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from infer import SPACY_MODEL, stock_models
from quality import ROOT, write_report


sys.path.insert(0, str(ROOT))

from mtsbert.commands.export import export_onnx
from mtsbert.exports.pipeline import load_pipeline


TEXT = "Nokia opens a research centre in Nairobi with the University of Oulu"
OURS = "ours, pipeline"
WAYS = {
    OURS: """
from transformers import pipeline
pipeline("multi-task", model="{model}", trust_remote_code=True)(text)
""",
    "ours, ONNX fp32": """
from mtsbert.exports.pipeline import OnnxPipeline
OnnxPipeline("{folder}/fp32")(text)
""",
    "ours, ONNX int8": """
from mtsbert.exports.pipeline import OnnxPipeline
OnnxPipeline("{folder}/int8")(text)
""",
    "three transformers pipelines": """
from transformers import pipeline
for task in ("text-classification", "token-classification", "feature-extraction"):
    pipeline(task, model=f"{folder}/{{task}}")(text)
""",
    "spaCy + SentenceTransformer": """
import spacy
from sentence_transformers import SentenceTransformer
spacy.load("{spacy_model}", disable=["tagger", "parser", "attribute_ruler", "lemmatizer"])(text)
SentenceTransformer("{folder}/feature-extraction").encode(text)
""",
}
REPORT = """
import time
from pathlib import Path
answered = time.time()
status = Path("/proc/self/status").read_text().splitlines()
print(answered, *(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", required=True, help="Checkpoint with one text classification task and one token task."
    )
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    memory: dict[str, list[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        save_all(args.model, Path(folder))
        for repeat in range(args.repeats + 1):
            for name, code in WAYS.items():
                code = code.format(model=args.model, folder=folder, spacy_model=SPACY_MODEL)
                taken, peak = first_answer(code)
                if repeat > 0:
                    seconds[name].append(taken)
                    memory[name].append(peak)
    for name in WAYS:
        sys.stdout.write(f"{name:30} {statistics.median(seconds[name]):6.2f} s, ")
        sys.stdout.write(f"{statistics.median(memory[name]):7.0f} MB\n")
    path = write_report("load", None, {"seconds": seconds, "peak_memory_mb": memory})
    sys.stdout.write(f"Written to {path}\n")


def save_all(model: str, folder: Path) -> None:
    """Saves everything else that the variants load: ONNX exports, and transformers' own models of the same size."""
    for name, int8 in {"fp32": False, "int8": True}.items():
        export_onnx(model, folder / name, int8=int8)
    ours = load_pipeline(model)
    for task, stock in stock_models(ours, folder).items():
        stock.save_pretrained(folder / task)
        ours.tokenizer.save_pretrained(folder / task)


def first_answer(code: str) -> tuple[float, float]:
    """Runs `code` on `text` in a new interpreter. Returns seconds and peak memory in 10^6 bytes."""
    program = f"text = {TEXT!r}\n{code}\n{REPORT}"
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answered, kilobytes = done.stdout.splitlines()[-1].split()
    return float(answered) - began, int(kilobytes) * 1024 / 1e6


if __name__ == "__main__":
    main()
