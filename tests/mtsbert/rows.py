"""Builds examples from rows written by hand."""

from datasets import Dataset
from transformers import TrainingArguments

from mtsbert.data.examples import DATASET, ROW, example_features


# The name of this flag from transformers 5.23 on, and before.
ACTIVATION_CHECKPOINTING = next(
    name for name in ("activation_checkpointing", "gradient_checkpointing") if hasattr(TrainingArguments, name)
)


def examples_of(rows: list[dict], tasks: dict[str, dict]) -> Dataset:
    """As reading files makes them; what a row leaves out is missing."""
    columns = example_features(tasks)
    complete = [
        {name: row.get(name) for name in columns} | {DATASET: row.get(DATASET, 0), ROW: number}
        for number, row in enumerate(rows)
    ]
    return Dataset.from_list(complete, features=columns)
