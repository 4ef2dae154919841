"""Makes pairs of texts from labelled news: whether they have the same topic, and how alike their labels are."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from datasets import ClassLabel, Features, Value

from .cleaning import clean
from .output import check_output, write_splits
from .sources import open_source


RELATIONS = ["same_topic", "other_topic"]
FEATURES = Features(
    {
        "text": Value("string"),
        "text_pair": Value("string"),
        "relation": ClassLabel(names=RELATIONS),
        "likeness": Value("float64"),
    }
)


def build_pairs(*, pairs_of: str, output: str | Path, overwrite: bool = False) -> dict[str, int]:
    """
    Writes a dataset folder with a Parquet file per split: `text`, `text_pair`, their `relation`, and their `likeness`,
    the share of the source's labels (of the sample: topic and sentiment) that are the same.

    Args:
        pairs_of (`str`): A source of news, see [`~data_prep.sources.open_source`].
        output (`str` or `Path`): The folder to write.
        overwrite (`bool`, *optional*, defaults to `False`): Whether a non-empty `output` may be replaced.

    Returns:
        `dict[str, int]`: Split → number of pairs.

    Raises:
        `ValueError`: for invalid input. Nothing is left behind in that case.
    """
    output = Path(output)
    check_output(output, overwrite=overwrite)
    source = open_source(pairs_of)
    made = {split: list(pairs(rows(), ["label", *source.extra_labels])) for split, rows in source.splits.items()}
    for split, found in made.items():
        if not found:
            raise ValueError(f"Split {split!r} of source {pairs_of!r} has no two texts to compare.")
    return write_splits(made, FEATURES.arrow_schema, output)


def pairs(rows: Iterable[dict], labels: list[str]) -> Iterator[dict]:
    """
    Yields two pairs for each text that has a topic: with the next one of the same topic, and with the next one of
    another; after the last text comes the first.

    Args:
        rows (`Iterable[dict]`): Rows with `parts` and the ids of their labels.
        labels (`list[str]`): The labels that are compared; `"label"` is the topic.
    """
    texts = [(" ".join(filter(None, map(clean, row["parts"]))), [row[name] for name in labels]) for row in rows]
    # Each text once. The Hub writes -1 for what is not labelled.
    texts = [(text, ids) for text, ids in dict(texts).items() if text and ids[0] is not None and ids[0] >= 0]
    partners: list[tuple] = [()] * len(texts)
    next_of: dict[int, int] = {}  # topic → the next text of it, seen from the end; twice around
    for place in [*reversed(range(len(texts)))] * 2:
        topic = texts[place][1][0]
        others = [(after - place) % len(texts) for one, after in next_of.items() if one != topic]
        partners[place] = (next_of.get(topic), (place + min(others)) % len(texts) if others else None)
        next_of[topic] = place
    for place, (text, ids) in enumerate(texts):
        for is_same, partner in zip((True, False), partners[place], strict=True):
            if partner in (None, place):
                continue
            other = texts[partner]
            alike = [one == another for one, another in zip(ids, other[1], strict=True)]
            relation = RELATIONS.index("same_topic" if is_same else "other_topic")
            likeness = sum(alike) / len(alike)
            yield {"text": text, "text_pair": other[0], "relation": relation, "likeness": likeness}
