"""Fuzzes cleaning, alignment and tags with atheris.

pip install atheris
python benchmarks/faults/fuzz_text.py -runs=1000000

Atheris tracks which lines an input reaches, and mutates inputs that reach new lines. All flags are those of libFuzzer:
`-max_total_time=600` stops after ten minutes, and with `-timeout=5`, an input that takes five seconds is a failure.
"""

import sys
from itertools import pairwise
from pathlib import Path

import atheris


sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["data_prep.cleaning", "entities_mtsbert", "mtsbert.formats.tag_schemes"]):
    from data_prep.cleaning import clean
    from entities_mtsbert import (
        IGNORE_INDEX,
        bio_labels,
        check_spans,
        spans_to_tags,
        tags_to_spans,
        visible_offsets,
    )
    from mtsbert.formats.tag_schemes import TAG_SCHEMES, join_words, to_bio


TYPES = ["GPE", "ORG"]
LABELS = bio_labels(TYPES)
LABEL2ID = {label: number for number, label in enumerate(LABELS)}
TAGS = ["O", "X", "B-", "I-", "", *(f"{prefix}-{entity}" for prefix in "BIESLU" for entity in TYPES)]
PIECES = ["&", "amp;", "&lt;", "lt;", "#39;", "quot;", "<b>", "</a", ' href="', ">", "<br", "\\", "\\$", " ", "x", ";"]
SIZE = 30  # maximum number of pieces in a text


def try_cleaning(data: atheris.FuzzedDataProvider) -> None:
    """Checks that cleaning a text twice gives the same result as cleaning it once."""
    chosen = [data.ConsumeIntInRange(0, len(PIECES)) for _ in range(data.ConsumeIntInRange(0, SIZE))]
    text = "".join(PIECES[one] if one < len(PIECES) else data.ConsumeUnicodeNoSurrogates(3) for one in chosen)
    cleaned = clean(text)
    assert clean(cleaned) == cleaned, text
    assert cleaned == cleaned.strip(), text


def try_alignment(data: atheris.FuzzedDataProvider) -> None:
    """Checks that each entity is either aligned exactly or counted, and that invalid spans raise `ValueError`."""
    text = data.ConsumeUnicodeNoSurrogates(SIZE)
    borders = sorted({data.ConsumeIntInRange(0, len(text)) for _ in range(data.ConsumeIntInRange(0, SIZE))})
    offsets = [(0, 0), *visible_offsets(list(pairwise(borders)), text), (0, 0)]
    spans = []
    for _ in range(data.ConsumeIntInRange(0, 4)):
        start, end = data.ConsumeIntInRange(-1, len(text) + 1), data.ConsumeIntInRange(-1, len(text) + 1)
        spans.append({"start": start, "end": end, "label": data.PickValueInList([*TYPES, None])})
    try:
        check_spans(spans, text)
    except ValueError:
        return
    tagged = spans_to_tags(spans, offsets, LABEL2ID)
    found = tags_to_spans([LABELS[tag] if tag != IGNORE_INDEX else "O" for tag in tagged.tags], offsets)
    known = [span for span in spans if span["label"] is not None]
    assert len(found) + tagged.num_unaligned == len(known), (text, offsets, spans)
    covered = {place for start, end in offsets for place in range(start, end)}
    for entity in found:
        (span,) = (one for one in known if one["start"] <= entity["start"] and entity["end"] <= one["end"])
        left_out = set(range(span["start"], span["end"])) - set(range(entity["start"], entity["end"]))
        assert span["label"] == entity["label"], (text, offsets, spans)
        assert not left_out & covered, (text, offsets, spans)


def try_tags(data: atheris.FuzzedDataProvider) -> None:
    """Checks that tags of any scheme become entities in the order of the text, or raise `ValueError`."""
    tags = [data.PickValueInList(TAGS) for _ in range(data.ConsumeIntInRange(0, 6))]
    text, offsets = join_words([data.ConsumeUnicodeNoSurrogates(3) for _ in tags])
    try:
        spans = tags_to_spans(to_bio(tags, data.PickValueInList(list(TAG_SCHEMES))), offsets)
    except ValueError:
        return
    begun = sum(tag[:1] in ("B", "S") for tag in tags)
    assert len(spans) >= begun, tags
    assert all(span["label"] in TYPES for span in spans), tags
    ends = [0, *(place for span in spans for place in (span["start"], span["end"]))]
    assert ends == sorted(ends), tags
    assert ends[-1] <= len(text), tags


def try_one(data: bytes) -> None:
    provider = atheris.FuzzedDataProvider(data)
    provider.PickValueInList([try_cleaning, try_alignment, try_tags])(provider)


if __name__ == "__main__":
    atheris.Setup(sys.argv, try_one)
    atheris.Fuzz()
