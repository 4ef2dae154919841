"""Random parts of training texts, whose embeddings are held as well, so that shorter texts keep theirs."""

import random

from datasets import ClassLabel, Dataset, Features, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from mtsbert.data.examples import DATASET
from mtsbert.data.features import NEGATIVE_IDS, unlabelled


PARTS = "parts of texts"  # the name of their dataset: batches of their own hold the embedding better than mixed ones
MIN_PART = 4  # tokens, without special ones


def with_parts(
    features: Dataset, tasks: dict[str, dict], tokenizer: PreTrainedTokenizerBase, *, share: float, seed: int
) -> Dataset:
    """
    Appends a random stretch of tokens of some texts, each as a row without labels, as a further dataset.

    Args:
        features (`Dataset`): The training rows, from `build_features`. Of a pair, the first text is used.
        tasks (`dict[str, dict]`): The tasks of the model.
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer, whose special tokens every part has around it.
        share (`float`): The share of rows to take a part of, from 0 to 1.
        seed (`int`): The parts depend on it, and on the number of the row.
    """
    special = tokenizer("")["input_ids"]
    names, number = features.features[DATASET].names, max(features[DATASET]) + 1
    names = [*names[:number], PARTS, *names[number:]]  # the last ones have no training rows
    columns = Features(features.features | {DATASET: ClassLabel(names=names)})

    def cut(row: dict, place: int) -> dict:
        first, end = borders(row["input_ids"], special)
        draw = random.Random(f"{seed} {place}")
        length = draw.randint(MIN_PART, end - first - 1)
        start = draw.randint(first, end - length)
        ids = row["input_ids"][:first] + row["input_ids"][start : start + length] + row["input_ids"][end:]
        return unlabelled(row, tasks, num_tokens=len(ids)) | {
            "input_ids": ids,
            "pair_input_ids": [],
            **({NEGATIVE_IDS: []} if NEGATIVE_IDS in row else {}),
            "length": len(ids),
            DATASET: number,
        }

    draw = random.Random(seed)
    chosen = [
        place
        for place, ids in enumerate(features["input_ids"])
        if draw.random() < share and len(ids) - len(special) > MIN_PART
    ]
    if not chosen:
        return features
    parts = features.select(chosen).map(cut, with_indices=True, features=columns, desc="Cutting parts")
    return concatenate_datasets([features.cast_column(DATASET, columns[DATASET]), parts])


def borders(ids: list[int], special: list[int]) -> tuple[int, int]:
    """Returns where the text begins and ends between the special tokens, which an empty text has too."""
    for before in range(len(special), -1, -1):
        after = len(special) - before
        if ids[:before] == special[:before] and ids[len(ids) - after :] == special[before:]:
            return before, len(ids) - after
    return 0, len(ids)
