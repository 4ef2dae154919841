"""Measures large or unusual input: a million short texts, a text of two megabytes, 50 tasks, 2,000 labels.

python benchmarks/faults/load.py [--rows 1000000] [--only texts long mixed tasks labels types]

The model is small and has random weights, so that everything except the model is measured. Each case runs in a fresh
process. Seconds count from its start; memory is resident memory (Linux).
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2]))

from small_encoder import save_encoder

from entities_mtsbert import bio_labels
from modeling_mtsbert import MTSBertModel


ROOT = Path(__file__).parents[2]
SENTENCES = [
    "Oslo beat Lima in the final",
    "Shares of Nimbus Labs rise",
    "Ada Perez wins the race in Lima",
    "Oil rises",
]
TOPIC = {"type": "sequence_classification", "labels": ["Business", "Sports"]}
TASKS = {"topic": TOPIC, "ner": {"type": "token_classification", "labels": bio_labels(["GPE", "ORG", "PERSON"])}}
SHARES = (0.1, 0.5, 1.0)  # shares of the rows at which memory is measured
# Case → the tasks of its model.
CASES = {
    "texts": TASKS,
    "long": TASKS,
    "mixed": TASKS,
    "tasks": {f"task_{number}": TOPIC for number in range(50)},
    "labels": {"topic": {**TOPIC, "labels": [f"label {number}" for number in range(2_000)]}},
    "types": {
        "ner": {"type": "token_classification", "labels": bio_labels([f"T{number}" for number in range(1_000)])}
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="Number of short texts. Default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for case in args.only:
            place = Path(folder) / case
            save_model(place / "model", CASES[case])
            write_texts(place / "texts.csv", texts_of(case, args.rows))
            measured = predict(place)
            assert_answered(place, measured["rows"])
            sys.stdout.write(json.dumps({"case": case, **measured}) + "\n")
            sys.stdout.flush()


def save_model(folder: Path, tasks: dict[str, dict]) -> None:
    save_encoder(folder, SENTENCES * 5, vocab_size=200, num_layers=2)
    MTSBertModel.from_encoder(str(folder), tasks=tasks).save_pretrained(folder)


def texts_of(case: str, rows: int):
    """Yields the texts of a case."""
    long = " ".join(SENTENCES * (2_000_000 // len(" ".join(SENTENCES)) + 1))[:2_000_000]
    if case == "texts":
        yield from (f"{SENTENCES[row % len(SENTENCES)]} {row}" for row in range(rows))
    elif case == "long":
        yield long
    elif case == "mixed":
        words = " ".join(long.split()[:10_000])
        yield from (words if row == 40 else SENTENCES[row % len(SENTENCES)] for row in range(100))
    else:
        yield from (SENTENCES[row % len(SENTENCES)] for row in range(1_000))


def write_texts(path: Path, texts) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text"])
        writer.writerows([text] for text in texts)


def predict(folder: Path) -> dict:
    """Runs `mtsbert predict` and measures its memory while its progress bar advances."""
    command = [
        sys.executable,
        "-m",
        "mtsbert",
        "predict",
        "--model",
        folder / "model",
        "--input",
        folder / "texts.csv",
    ]
    began = time.monotonic()
    process = subprocess.Popen(
        [*map(str, command), "--output", str(folder / "answers.jsonl"), "--precision", "fp32"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    resident: list[tuple[float, int]] = []  # share of the rows → megabytes
    peak, line, memory = 0, b"", None
    while letter := process.stderr.read(1):
        if letter not in b"\r\n":
            line += letter
            continue
        done, _, total = line.partition(b"| ")[2].partition(b" [")[0].partition(b"/")
        memory = memory_of(process.pid) or memory  # as last seen, if it has ended since it said this
        if line.startswith(b"Predicting") and done.isdigit() and memory:
            resident.append((int(done) / int(total), memory["VmRSS"]))
            peak = memory["VmHWM"]
        line = b""
    said = process.stdout.read().decode()
    if process.wait():
        raise RuntimeError(f"mtsbert predict failed on {folder}: {line.decode()}")
    shares = {f"{share:.0%}": next((memory for done, memory in resident if done >= share), None) for share in SHARES}
    rows = int(said.rpartition(": ")[2].partition(" ")[0].replace(",", ""))
    return {
        "rows": rows,
        "seconds": round(time.monotonic() - began, 1),
        "resident_mb": shares,
        "most_mb": max([memory for _, memory in resident], default=None),
        "peak_mb": peak,
    }


def memory_of(process: int) -> dict[str, int] | None:
    """Returns the memory of a running process in 10^6 bytes; None if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    fields = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return {name: int(fields[name].split()[0]) * 1024 // 10**6 for name in ("VmRSS", "VmHWM") if name in fields}


def assert_answered(folder: Path, rows: int) -> None:
    """Checks that there is a prediction for each text, in order."""
    with (
        (folder / "answers.jsonl").open(encoding="utf-8") as answers,
        (folder / "texts.csv").open(newline="") as texts,
    ):
        csv.field_size_limit(sys.maxsize)
        number = 0
        for number, (answer, row) in enumerate(zip(answers, csv.DictReader(texts), strict=True), start=1):
            assert json.loads(answer)["text"] == row["text"], number
        assert number == rows


if __name__ == "__main__":
    main()
