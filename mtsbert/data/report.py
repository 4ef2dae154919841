"""Formats the report of `--check_data`: the data of each task."""

from collections import Counter, defaultdict
from itertools import chain, islice

import numpy as np
from datasets import Dataset

from configuration_mtsbert import NUMBER_TYPES, PAIR_RANKING, TOKEN_CLASSIFICATION
from mtsbert.data.loading import TaskData
from mtsbert.data.sources import TEXT, TEXT_NEGATIVE, TEXT_PAIR


NUM_SAMPLES = 3
NUM_LABELS = 20  # labels listed by name, most common first
PERCENTILES = (50, 90, 99, 100)


def describe_data(data: TaskData) -> str:
    """Describes loaded data in Markdown, with a section per split and a subsection per task."""
    parts = ["No row was skipped: one that cannot be used is an error."]
    if data.skipped is not None:
        parts = [f"{len(data.skipped):,} rows were skipped because they cannot be used."]
    for split, examples in data.examples.items():
        parts.append(f"\n# {split}: {len(examples):,} rows")
        for task, settings in data.tasks.items():
            rows = [row for row, value in enumerate(examples[task]) if value is not None]
            parts.append(f"\n## {split} / {task} ({settings['type']}): {len(rows):,} labelled rows\n")
            if rows:
                parts += _describe_task(task, settings, rows, split, data)
    return "\n".join(parts) + "\n"


def _describe_task(task: str, settings: dict, rows: list[int], split: str, data: TaskData) -> list[str]:
    labelled = data.examples[split].select(rows)
    report = data.tokenization[split]
    lengths = np.array(data.features[split]["length"][:])[rows]
    percentiles = zip(PERCENTILES, np.percentile(lengths, PERCENTILES).astype(int), strict=True)
    num_cut = sum(report.cut[row] for row in rows)
    lines = [
        _negatives_line(labelled) if settings["type"] == PAIR_RANKING else _label_line(settings, labelled[task][:]),
        "Word pieces: " + ", ".join(f"{length} at {share} %" for share, length in percentiles),
        f"Longer than `max_length`: {num_cut:,} rows ({num_cut / len(rows):.2%})",
    ]
    if settings["type"] == TOKEN_CLASSIFICATION:
        counts = report.entities[task]
        lines.append(
            f"Entities: {counts.total:,}, of them {counts.truncated:,} cut off and {counts.unaligned:,} not at the "
            "borders of word pieces"
        )
    return lines + [_sample(task, settings, example) for example in islice(labelled, NUM_SAMPLES)]


def _negatives_line(pairs: Dataset) -> str:
    number = len(pairs) - pairs[TEXT_NEGATIVE][:].count(None)
    return f"Pairs: {len(pairs):,}, of them {number:,} with a hard negative"


def _label_line(settings: dict, values: list) -> str:
    if settings["type"] in NUMBER_TYPES:
        return f"Scores: {min(values):g} to {max(values):g}, mean {sum(values) / len(values):.3g}"
    if settings["type"] == TOKEN_CLASSIFICATION:
        counts = Counter(span["label"] or "(not known)" for value in values for span in value)
    elif settings.get("soft_labels"):
        shares: dict[str, float] = defaultdict(float)
        for of_label in chain.from_iterable(values):
            shares[of_label["label"]] += of_label["probability"]
        counts = Counter({label: round(share, 1) for label, share in shares.items()})
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
    if settings.get("soft_labels"):
        value = ", ".join(f"{of_label['label']} {of_label['probability']:.2f}" for of_label in value)
    pair = f" | {example[TEXT_PAIR]!r}" if example.get(TEXT_PAIR) is not None else ""
    if settings["type"] == PAIR_RANKING:
        negative = example[TEXT_NEGATIVE]
        return f"- {text!r}{pair}" + ("" if negative is None else f" → not {negative!r}")
    return f"- {text!r}{pair} → {value}"
