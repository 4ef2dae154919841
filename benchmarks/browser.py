"""Compares the answers of a page in a browser (`mtsbert export --format web`) with Python's on the same graph.

python benchmarks/browser.py --model runs/ag_news_minilm --data data/ag_news --rows 200

Needs npm, chromium and chromedriver. By task, texts are counted that have the
same label, or the same entities at the same places.
"""

import argparse
import functools
import json
import shutil
import sys
import tempfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median

import numpy as np
from datasets import load_dataset
from quality import ROOT, write_report
from selenium import webdriver


sys.path.insert(0, str(ROOT))

from configuration_mtsbert import SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION
from mtsbert.commands.export import export_web
from mtsbert.exports.pipeline import load_pipeline


ASK = """
const [texts, done] = arguments;
import("./mtsbert.js").then(async ({ load }) => {
  const before = performance.now();
  const ask = await load();
  const loaded = performance.now();
  const answers = [];
  for (const text of texts) answers.push(await ask(text));
  done({ answers, loading: (loaded - before) / 1000, seconds: (performance.now() - loaded) / 1000 });
}).catch((error) => done(String(error)));
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", required=True, help="Folder whose test split has a column `text`.")
    parser.add_argument("--rows", type=int, default=200)
    args = parser.parse_args()
    texts = load_dataset(args.data, split="test")["text"][: args.rows]
    of_checkpoint = load_pipeline(args.model)
    answers, figures = {"checkpoint": of_checkpoint(texts)}, {}
    with tempfile.TemporaryDirectory() as folder:
        for form in ("fp32", "int8"):
            page = Path(folder) / form
            export_web(str(args.model), page, int8=form == "int8")
            found = in_browser(page, texts)
            answers[form] = load_pipeline(page)(texts, batch_size=1)
            figures[form] = {
                "megabytes": sum(file.stat().st_size for file in page.rglob("*") if file.is_file()) / 1e6,
                "seconds to load": found["loading"],
                "texts/s, one thread": len(texts) / found["seconds"],
            }
            pairs = {
                "browser, Python": (found["answers"], answers[form]),
                "browser, checkpoint": (found["answers"], answers["checkpoint"]),
                "Python, checkpoint": (answers[form], answers["checkpoint"]),
            }
            for name, pair in pairs.items():
                figures[f"{form}: {name}"] = compare(of_checkpoint.model.config.tasks, *pair)
    path = write_report("browser", args.model.name, {"texts": len(texts), **figures})
    sys.stdout.write(f"{json.dumps(figures, indent=2)}\nWritten to {path}\n")


def in_browser(page: Path, texts: list[str]) -> dict:
    """Serves a page on this machine, and asks it in headless Chromium."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    handler = functools.partial(SimpleHTTPRequestHandler, directory=page)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with webdriver.Chrome(options=options, service=service) as browser:
            browser.set_script_timeout(3600)
            browser.get(f"http://127.0.0.1:{server.server_port}/")
            found = browser.execute_async_script(ASK, texts)
        server.shutdown()
    if isinstance(found, str):
        raise RuntimeError(f"The page has failed: {found}")
    return found


def compare(tasks: dict[str, dict], answers: list[dict], others: list[dict]) -> dict:
    """By task, how many answers are the same; and the median and largest distance of embeddings."""
    same: dict[str, float] = {}
    for task, settings in tasks.items():
        if settings["type"] == SEQUENCE_CLASSIFICATION:
            same[task] = sum(
                one[task].get("label") == other[task].get("label") for one, other in zip(answers, others, strict=True)
            )
        elif settings["type"] == TOKEN_CLASSIFICATION:
            same[task] = sum(
                marks(one[task]) == marks(other[task]) for one, other in zip(answers, others, strict=True)
            )
    distances = [
        float(np.linalg.norm(np.subtract(one["embedding"], other["embedding"])))
        for one, other in zip(answers, others, strict=True)
    ]
    same |= {"median distance": median(distances), "largest distance": max(distances)}
    return same


def marks(entities: list[dict]) -> list[tuple]:
    return [(entity["label"], entity["start"], entity["end"], entity["text"]) for entity in entities]


if __name__ == "__main__":
    main()
