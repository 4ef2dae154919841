"""Trains and tests with tasknet; `benchmarks/multitask.py` runs this in tasknet's own environment.

Takes one argument in JSON: `data`, a folder written by data_prep, and tasknet's `settings`. Writes JSON: the `seconds`
of training, and `topic_accuracy` and `entity_f1` on the test split.
"""

import json
import sys
import time

import evaluate
import torch
from datasets import DatasetDict, load_dataset
from seqeval.metrics import f1_score


evaluate.load = lambda *args, **kwargs: None  # tasknet loads metrics from the Hub at import; none of them is used here

import tasknet  # noqa: E402


TOPIC, ENTITIES = 0, 1  # positions of the tasks
BATCH_SIZE = 32


def main() -> None:
    question = json.loads(sys.argv[1])
    files = {split: f"{question['data']}/{split}.parquet" for split in ("train", "validation", "test")}
    rows = load_dataset("parquet", data_files=files, cache_dir=f"{question['data']}/cache")
    tasks = [
        tasknet.Classification(select(rows, "text", "label"), s1="text", y="label"),
        tasknet.TokenClassification(select(rows, "tokens", "ner_tags"), tokens="tokens", y="ner_tags"),
    ]
    settings = question["settings"]
    model, trainer = tasknet.Model_Trainer(tasks, settings)
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    tokenizer = trainer.tokenizer
    answer = {
        "seconds": seconds,
        "topic_accuracy": topic_accuracy(model, tokenizer, rows["test"], settings["max_length"]),
        "entity_f1": entity_f1(model, tokenizer, rows["test"], settings["max_length"]),
    }
    sys.stdout.write(f"\n{json.dumps(answer)}\n")


def select(rows: DatasetDict, *columns: str) -> DatasetDict:
    return rows.select_columns(list(columns))


@torch.inference_mode()
def logits(model, task: int, encoded) -> torch.Tensor:
    model.eval()
    inputs = {name: encoded[name].to(model.device) for name in ("input_ids", "attention_mask")}
    return model.task_models_list[task](**inputs).logits.cpu()


def topic_accuracy(model, tokenizer, rows, max_length: int) -> float:
    """
    Computes the accuracy of the topic task.

    Args:
        model: The tasknet model.
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer.
        rows (`Dataset`): The test split.
        max_length (`int`): Longer texts are truncated to this many tokens.
    """
    right = 0
    for batch in rows.iter(BATCH_SIZE):
        encoded = tokenizer(batch["text"], truncation=True, max_length=max_length, padding=True, return_tensors="pt")
        right += int((logits(model, TOPIC, encoded).argmax(-1) == torch.tensor(batch["label"])).sum())
    return right / len(rows)


def entity_f1(model, tokenizer, rows, max_length: int) -> float:
    """
    Computes F1 of exact spans and types. The tag of a word is that of its first token; truncated words do not count.

    Args:
        model: The tasknet model.
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer.
        rows (`Dataset`): The test split.
        max_length (`int`): Longer texts are truncated to this many tokens.
    """
    names = rows.features["ner_tags"].feature.names
    expected, found = [], []
    for batch in rows.iter(BATCH_SIZE):
        encoded = tokenizer(
            batch["tokens"],
            is_split_into_words=True,
            truncation=True,
            max_length=max_length,
            padding=True,
            return_tensors="pt",
        )
        tags = logits(model, ENTITIES, encoded).argmax(-1)
        for text, gold in enumerate(batch["ner_tags"]):
            first_pieces: dict[int, int] = {}
            for place, word in enumerate(encoded.word_ids(text)):
                if word is not None:
                    first_pieces.setdefault(word, place)
            found.append([names[tags[text, place]] for place in first_pieces.values()])
            expected.append([names[gold[word]] for word in first_pieces])
    return float(f1_score(expected, found))


if __name__ == "__main__":
    main()
