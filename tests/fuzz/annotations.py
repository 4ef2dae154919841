"""Hypothesis strategies for exports of annotation tools: written as the tools do, and with values exchanged."""

import copy
import json
from dataclasses import dataclass
from typing import Any

import spacy
from hypothesis import strategies as st
from spacy.tokens import Doc, DocBin, Span

from tests.fuzz.inputs import TYPES, Written, texts


@dataclass(frozen=True)
class Annotated:
    """A text in words, with entities over whole words."""

    words: list[str]
    entities: list[tuple[int, int, str]]
    """First word, last word, type; in order, and without overlaps."""

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def spans(self) -> list[dict]:
        """In characters, `end` exclusive."""
        starts = [sum(len(word) + 1 for word in self.words[:number]) for number in range(len(self.words))]
        return [
            {"start": starts[first], "end": starts[last] + len(self.words[last]), "label": label}
            for first, last, label in self.entities
        ]


@st.composite
def annotated(draw) -> Annotated:
    words = draw(st.lists(texts.map(lambda text: text.replace(" ", "_") or "a"), min_size=1, max_size=5))
    borders = sorted(draw(st.sets(st.integers(0, len(words) - 1), max_size=4)))
    pairs = list(zip(borders[::2], borders[1::2], strict=False))
    return Annotated(words, [(first, last, draw(st.sampled_from(TYPES))) for first, last in pairs])


def doccano(one: Annotated) -> tuple[Any, dict]:
    triples = [[span["start"], span["end"], span["label"]] for span in one.spans]
    return {"text": one.text, "label": triples[::-1]}, {"text": one.text, "label": one.spans}


def spacy_pair(one: Annotated) -> tuple[Any, dict]:
    triples = [[span["start"], span["end"], span["label"]] for span in one.spans]
    return [one.text, {"entities": triples}], {"text": one.text, "entities": one.spans}


def label_studio(one: Annotated) -> tuple[Any, dict]:
    result = [
        {
            "from_name": "label",
            "to_name": "text",
            "type": "labels",
            "value": {"start": span["start"], "end": span["end"], "text": "", "labels": [span["label"]]},
        }
        for span in reversed(one.spans)
    ]
    guess = {"from_name": "label", "to_name": "text", "value": {"start": 0, "end": 1, "labels": ["X"]}}
    row = {"id": 1, "data": {"text": one.text}, "annotations": [{"id": 2, "result": result}]}
    row["predictions"] = [{"result": [guess]}]  # so that the interface is known where nobody has marked anything
    marked = [span | {"text": "", "to_name": "text"} for span in one.spans]
    return row, {"text": one.text, "label": marked}


def label_studio_min(one: Annotated) -> tuple[Any, dict]:
    marks = [{"start": span["start"], "end": span["end"], "labels": [span["label"]]} for span in one.spans]
    return {"text": one.text, "label": marks}, {"text": one.text, "label": one.spans}


def prodigy(one: Annotated) -> tuple[Any, dict]:
    row = {"text": one.text, "spans": one.spans, "answer": "reject", "_task_hash": 1}
    return row, {**row, "spans": None}


def gliner(one: Annotated) -> tuple[Any, dict]:
    tags = ["O"] * len(one.words)
    for first, last, label in one.entities:
        tags[first : last + 1] = [f"B-{label}", *[f"I-{label}"] * (last - first)]
    row = {"tokenized_text": one.words, "ner": [list(entity) for entity in one.entities]}
    return row, {**row, "ner": tags}


TOOLS = {
    tool.__name__: tool for tool in (doccano, spacy_pair, label_studio, label_studio_min, prodigy, gliner)
}  # each gives a row as the tool writes it, and the row that is to be read


@st.composite
def exports(draw, tool: str, suffix: str) -> Written:
    pairs = [TOOLS[tool](one) for one in draw(st.lists(annotated(), min_size=1, max_size=3))]
    return Written(as_file([row for row, _ in pairs], suffix), [expected for _, expected in pairs])


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 9), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["start", "labels"]), inner)),
    max_leaves=4,
)


@st.composite
def exchanged(draw, tool: str, suffix: str) -> Written:
    """An export in which one or two values, however deep, are others or are gone."""
    pairs = [TOOLS[tool](one) for one in draw(st.lists(annotated(), min_size=1, max_size=3))]
    rows = copy.deepcopy([row for row, _ in pairs])
    for _ in range(draw(st.integers(1, 2))):
        place: Any = rows
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and draw(st.integers(0, 3)):
                place = place[key]
                continue
            if draw(st.booleans()):
                place[key] = draw(values)
            else:
                del place[key]
            break
    return Written(as_file(rows, suffix), rows)


def as_file(rows: list, suffix: str) -> bytes:
    return (json.dumps(rows) if suffix == ".json" else "\n".join(map(json.dumps, rows))).encode()


@st.composite
def docbins(draw) -> Written:
    docs, expected, vocabulary = DocBin(), [], spacy.blank("xx").vocab
    for one in draw(st.lists(annotated(), min_size=1, max_size=3)):
        doc = Doc(vocabulary, words=one.words, spaces=[True] * (len(one.words) - 1) + [False])
        doc.set_ents([Span(doc, first, last + 1, label=label) for first, last, label in one.entities])
        docs.add(doc)
        expected.append({"text": doc.text, "entities": one.spans, "cats": None})
    return Written(docs.to_bytes(), expected)


@st.composite
def broken_docbins(draw) -> Written:
    whole = draw(docbins())
    at = draw(st.integers(0, len(whole.data) - 1))
    rest = whole.data[at + draw(st.integers(1, 8)) :]
    return Written(whole.data[:at] + draw(st.binary(max_size=2)) + rest, whole.rows)


EXPORTS = {
    f"{tool}{suffix}": (exports(tool, suffix), exchanged(tool, suffix))
    for tool in TOOLS
    for suffix in (".json", ".jsonl")
} | {"docbin.spacy": (docbins(), broken_docbins())}
"""The end of a file's name -> what its tool writes, and the same when it is broken."""
