"""Runs of `run_mtl.py` that take seconds, with everything that a resumed run must reproduce."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from small_encoder import save_encoder


ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = ROOT / "run_mtl.py"
WEIGHTS = "model.safetensors"
NUM_STEPS = 48  # in the whole run
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}

PERSONS, PLACES = ("Ada Perez", "Jon Berg", "Mia Sato"), ("Oslo", "Lima", "Nairobi", "Kyoto")
EVENTS = {"Sports": ("wins the race in", "loses the final in"), "Business": ("sells shares in", "opens a shop in")}


def write_recipe(folder: Path, **changes) -> Path:
    """Writes an encoder, two datasets and a recipe. Keyword arguments replace keys of the recipe; None removes one."""
    chance = random.Random(0)
    entities = [_sentence(chance, with_topic=False) for _ in range(45)]
    topics = [_sentence(chance, with_topic=True) for _ in range(75)]
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in {"entities": entities, "topics": topics, "validation": topics[:21]}.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    texts = [row["text"] for row in entities + topics]
    save_encoder(folder / "encoder", texts, vocab_size=400, num_layers=3)
    settings = {
        "encoder_name_or_path": str(folder / "encoder"),
        "datasets": {
            "entities": {
                "files": {"train": str(folder / "entities.jsonl")},
                "columns": {"text": "text", "ner": "ner"},
            },
            "topics": {
                "files": {"train": str(folder / "topics.jsonl"), "validation": str(folder / "validation.jsonl")},
                "columns": {"text": "text", "topic": "topic", "ner": "ner"},
            },
        },
        "tasks": {"topic": {"type": "sequence_classification"}, "ner": {"type": "token_classification"}},
        "max_length": 32,
        "do_train": True,
        "max_steps": NUM_STEPS,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "weight_decay": 0.1,
        "warmup_steps": 4,
        "dataset_sampling": "temperature",
        "loss_balancing": "uncertainty",
        "freeze_embeddings": True,
        "num_frozen_layers": 1,
        "gradual_unfreezing": True,
        "unfreeze_every": 10,
        "feature_cache": True,
        "feature_cache_dir": str(folder / "cache"),
        "eval_strategy": "epoch",
        "save_strategy": "steps",
        "save_steps": 5,
        "logging_steps": 1,
        "precision": "fp32",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 7,
        **changes,
    }
    path = folder / "recipe.json"  # JSON is YAML
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}, indent=2))
    return path


def _sentence(chance: random.Random, *, with_topic: bool) -> dict:
    topic = chance.choice(list(EVENTS))
    person, event, place = chance.choice(PERSONS), chance.choice(EVENTS[topic]), chance.choice(PLACES)
    text = f"{person} {event} {place}" + " again" * chance.randrange(4)
    start = text.index(place, len(person))
    spans = [(0, len(person), "PERSON"), (start, start + len(place), "GPE")]
    row = {"text": text, "ner": [{"start": first, "end": last, "label": label} for first, last, label in spans]}
    return row | ({"topic": topic} if with_topic else {})


def command(recipe: Path, output: Path, *flags: str, launcher: Sequence[str] = ()) -> list[str]:
    return [sys.executable, *launcher, str(PROGRAM), "--config", str(recipe), "--output_dir", str(output), *flags]


class Run:
    """A run in a subprocess, whose output is read line by line."""

    def __init__(self, arguments: list[str], prefix: Sequence[str] = (), **environment: str):
        self.lines: list[str] = []
        self.num_steps = 0  # number of steps that this process has logged
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [*prefix, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **ENVIRONMENT, **environment},
            cwd=ROOT,
            preexec_fn=_hear_interrupts,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line)
                self.num_steps += "'grad_norm'" in line
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def wait_for_step(self, number: int, timeout: float = 900) -> bool:
        """Waits until the process has taken this many steps. Returns False if it ends before."""
        with self._news:
            self._news.wait_for(lambda: self.num_steps >= number or not self._reader.is_alive(), timeout)
        return self.num_steps >= number

    def finish(self, timeout: float = 900) -> int:
        """Waits for the process and returns its exit status, which is negative if a signal has ended it."""
        status = self.process.wait(timeout)
        self._reader.join(timeout)
        return status

    @property
    def output(self) -> str:
        return "".join(self.lines)


def _hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # it is ignored by default in a shell's background jobs


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:16]


def steps_of_checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.name.rpartition("-")[2]) for path in folder.glob("checkpoint-*"))
