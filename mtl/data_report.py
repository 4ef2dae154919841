"""What `--check_data` prints: the data as the tasks see them."""

from collections import Counter

import numpy as np

from configuration_mtsbert import PAIR_SIMILARITY, TOKEN_CLASSIFICATION
from mtl.data import TaskData
from mtl.datasets import TEXT, TEXT_PAIR


NUM_SAMPLES = 3
NUM_LABELS = 20  # labels listed by name, commonest first
PERCENTILES = (50, 90, 99, 100)


def describe_data(data: TaskData) -> str:
    """Markdown: one section per split, in it one per task."""
    parts = ["No row was skipped: one that cannot be used is an error."]
    for split, examples in data.examples.items():
        report = data.tokenization[split]
        lengths = np.percentile(data.features[split]["length"][:], PERCENTILES).astype(int)
        parts += [
            f"\n# {split}: {len(examples):,} rows\n",
            "Word pieces: "
            + ", ".join(f"{length} at {share} %" for share, length in zip(PERCENTILES, lengths, strict=True)),
            f"Longer than `max_length`: {report.num_cut_texts:,} of {report.num_texts:,} texts "
            f"({report.num_cut_texts / report.num_texts:.2%})",
        ]
        for task, settings in data.tasks.items():
            labelled = [example for example in examples if example.get(task) is not None]
            parts.append(f"\n## {split} / {task} ({settings['type']}): {len(labelled):,} labelled rows\n")
            parts.append(_label_line(task, settings, labelled))
            if settings["type"] == TOKEN_CLASSIFICATION:
                parts.append(
                    f"Entities over all token tasks: {report.num_entities:,}, of them {report.num_truncated:,} cut "
                    f"off and {report.num_unaligned:,} not at the borders of word pieces"
                )
            parts += [_sample(task, settings, example) for example in labelled[:NUM_SAMPLES]]
    return "\n".join(parts) + "\n"


def _label_line(task: str, settings: dict, labelled: list[dict]) -> str:
    values = [example[task] for example in labelled]
    if settings["type"] == PAIR_SIMILARITY:
        if not values:
            return "No score"
        return f"Scores: {min(values):g} to {max(values):g}, mean {sum(values) / len(values):.3g}"
    if settings["type"] == TOKEN_CLASSIFICATION:
        counts = Counter(span["label"] for value in values for span in value)
    elif settings.get("multi_label"):
        counts = Counter(label for value in values for label in value)
    else:
        counts = Counter(values)
    shown = [f"{label} {count:,}" for label, count in counts.most_common(NUM_LABELS)]
    more = f", and {len(counts) - NUM_LABELS} more" if len(counts) > NUM_LABELS else ""
    return f"Labels: {', '.join(shown) or 'none'}{more}"


def _sample(task: str, settings: dict, example: dict) -> str:
    text = example[TEXT]
    value = example[task]
    if settings["type"] == TOKEN_CLASSIFICATION:
        value = [f"{span['label']}: {text[span['start'] : span['end']]}" for span in value]
    pair = f" | {example[TEXT_PAIR]!r}" if example.get(TEXT_PAIR) is not None else ""
    return f"- {text!r}{pair} → {value}"
