"""Measures the memory of the pipeline over an endless generator: resident memory after every tenth of the texts.

python benchmarks/stream.py --texts 1000000

The model has two narrow layers with random weights: what could grow is independent of its size.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from quality import ROOT, write_report
from transformers import BertConfig, BertModel, BertTokenizer


sys.path.insert(0, str(ROOT))

from configuration_mtsbert import SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION
from modeling_mtsbert import MTSBertModel


WORDS = ("envoys", "met", "in", "geneva", "lima", "wins", "the", "final", "oil", "rises", "ada", "perez", "scored")
TASKS = {
    "topic": {"type": SEQUENCE_CLASSIFICATION, "labels": ["Business", "Sports"]},
    "ner": {"type": TOKEN_CLASSIFICATION, "labels": ["O", "B-GPE", "I-GPE"]},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=1_000_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ask = small_pipeline(Path(folder))
        read = [0]
        began = time.perf_counter()
        answers = ask(texts(args.texts, read))
        next(answers)
        figures = {"first_answer_seconds": time.perf_counter() - began, "read_before_the_first_answer": read[0]}
        resident, number = {}, 1
        for number, _ in enumerate(answers, start=2):
            if number % max(1, args.texts // 10) == 0:
                resident[number] = memory_mb("VmRSS")
                sys.stdout.write(f"{number:,} texts: {resident[number]:.0f} MB\n")
    assert number == args.texts, "answers are missing"
    figures |= {"texts": number, "seconds": time.perf_counter() - began, "resident_mb": resident}
    sys.stdout.write(f"Written to {write_report('stream', None, figures)}\n")


def small_pipeline(folder: Path):
    tokenizer = save_small_encoder(folder, width=32, num_layers=2)
    return MTSBertModel.from_encoder(str(folder), tasks=TASKS).eval().as_pipeline(tokenizer)


def save_small_encoder(folder: Path, *, width: int, num_layers: int) -> BertTokenizer:
    """Writes an encoder with random weights and its tokenizer, which knows `WORDS`, to a folder that exists."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": width, "num_hidden_layers": num_layers, "num_attention_heads": num_layers}
    BertModel(BertConfig(vocab_size=len(vocabulary), intermediate_size=2 * width, **sizes)).save_pretrained(folder)
    return tokenizer


def texts(number: int, read: list[int]) -> Iterator[str]:
    """Yields sentences of 3 to 24 words, and counts them in `read`."""
    draw = random.Random(0)
    for _ in range(number):
        read[0] += 1
        yield " ".join(draw.choices(WORDS, k=draw.randint(3, 24)))


def memory_mb(kind: str) -> float:
    """Returns the memory that the process holds now (Linux): `VmRSS`, or `RssAnon` without the pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) / 1024


if __name__ == "__main__":
    main()
