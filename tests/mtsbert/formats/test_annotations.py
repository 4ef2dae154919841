"""Tests that the files of annotation tools are read as entities and labels."""

import json

import pytest
import spacy
from spacy.tokens import DocBin

from mtsbert.data.examples import read_examples
from mtsbert.data.sources import open_datasets
from mtsbert.formats.files import read_file


OSLO = [{"start": 0, "end": 4, "label": "GPE"}]
NER = {"ner": {"type": "token_classification"}}
CHOICE = {
    "from_name": "topic",
    "to_name": "text",
    "type": "choices",
    "value": {"choices": ["Sports"]},
}
SPAN = {
    "from_name": "label",
    "to_name": "text",
    "type": "labels",
    "value": {"start": 0, "end": 4, "text": "Oslo", "labels": ["GPE"]},
}


def read(tmp_path, content, name: str = "a.jsonl", **spec) -> list[dict]:
    """Reads rows as a recipe does, with the task `ner` and a `topic` if it is mapped."""
    path = tmp_path / name
    if isinstance(content, list):
        text = json.dumps(content) if name.endswith(".json") else "\n".join(map(json.dumps, content))
        path.write_text(text, encoding="utf-8")
    tasks = NER | ({"topic": {"type": "sequence_classification"}} if "topic" in spec["columns"].values() else {})
    (source,) = open_datasets({"news": {"path": str(path), **spec}}, tasks)
    return [{role: row[role] for role in source.columns} for row in read_examples(source, "train", tasks)]


@pytest.mark.parametrize("column", ["label", "labels", "entities"])
def test_triples_of_doccano(tmp_path, column):
    rows = [{"id": 1, "text": "Oslo beat Rome", column: [[10, 14, "GPE"], [0, 4, "GPE"]]}, {"text": "No", column: []}]
    assert read(tmp_path, rows, columns={"text": "text", column: "ner"}) == [
        {"text": "Oslo beat Rome", "ner": [*OSLO, {"start": 10, "end": 14, "label": "GPE"}]},
        {"text": "No", "ner": []},
    ]


def test_pairs_of_spacy(tmp_path):
    rows = [["Oslo wins", {"entities": [[0, 4, "GPE"]]}], ["No", {"entities": []}]]
    expected = [{"text": "Oslo wins", "ner": OSLO}, {"text": "No", "ner": []}]
    columns = {"text": "text", "entities": "ner"}
    assert read(tmp_path, rows, columns=columns) == expected
    assert read(tmp_path, rows, "a.json", columns=columns) == expected


def test_an_export_of_label_studio(tmp_path):
    rows = [
        {"data": {"text": "Oslo wins"}, "annotations": [{"was_cancelled": True}, {"result": [SPAN, CHOICE]}]},
        {"data": {"text": "No"}, "annotations": []},
    ]
    assert read(tmp_path, rows, "a.json", columns={"text": "text", "label": "ner", "topic": "topic"}) == [
        {"text": "Oslo wins", "ner": OSLO, "topic": "Sports"},
        {"text": "No", "ner": None, "topic": None},
    ]


def test_a_short_export_of_label_studio(tmp_path):
    rows = [{"text": "Oslo wins", "label": [{"start": 0, "end": 4, "text": "Oslo", "labels": ["GPE"]}], "topic": "a"}]
    columns = {"text": "text", "label": "ner", "topic": "topic"}
    assert read(tmp_path, rows, "a.json", columns=columns) == [{"text": "Oslo wins", "ner": OSLO, "topic": "a"}]


def test_several_choices_of_label_studio_are_a_list(tmp_path):
    choices = {**CHOICE, "value": {"choices": ["a", "b"]}}
    (tmp_path / "a.json").write_text(json.dumps([{"data": {"text": "x"}, "annotations": [{"result": [choices]}]}]))
    assert read_file(tmp_path / "a.json").to_list() == [{"text": "x", "topic": ["a", "b"]}]


def test_one_choice_and_several_of_label_studio_are_labels_of_one_task(tmp_path):
    several = {**CHOICE, "value": {"choices": ["a", "b"]}}
    rows = [{"data": {"text": "x"}, "annotations": [{"result": [choice]}]} for choice in (several, CHOICE)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    kinds = {"kind": {"type": "sequence_classification", "multi_label": True}}
    spec = {"path": str(tmp_path / "a.json"), "columns": {"text": "text", "topic": "kind"}}
    (source,) = open_datasets({"news": spec}, kinds)
    assert read_examples(source, "train", kinds)["kind"][:] == [["a", "b"], ["Sports"]]


def test_answers_of_prodigy(tmp_path):
    span = {"start": 0, "end": 4, "token_start": 0, "token_end": 0, "label": "GPE"}
    row = {
        "text": "Oslo wins",
        "_input_hash": 1,
        "_task_hash": 2,
        "tokens": [{"text": "Oslo", "id": 0}],
        "spans": [span],
    }
    rows = [{**row, "answer": "accept"}, {**row, "answer": "reject"}, {**row, "answer": "ignore"}]
    assert read(tmp_path, rows, columns={"text": "text", "spans": "ner"}) == [
        {"text": "Oslo wins", "ner": OSLO},
        {"text": "Oslo wins", "ner": None},
        {"text": "Oslo wins", "ner": None},
    ]


def test_an_answer_is_a_column_like_any_other_elsewhere(tmp_path):
    row = {"text": "Oslo wins", "entities": OSLO, "answer": "reject"}
    assert read(tmp_path, [row], columns={"text": "text", "entities": "ner"})[0]["ner"] == OSLO


def test_words_of_gliner(tmp_path):
    rows = [{"tokenized_text": ["In", "New", "York"], "ner": [[1, 2, "GPE"]]}, {"tokenized_text": ["No"], "ner": []}]
    assert read(tmp_path, rows, "a.json", columns={"tokenized_text": "text", "ner": "ner"}) == [
        {"text": "In New York", "ner": [{"start": 3, "end": 11, "label": "GPE"}]},
        {"text": "No", "ner": []},
    ]


def test_a_docbin_of_spacy(tmp_path):
    nlp = spacy.blank("en")
    doc, other = nlp("Oslo wins"), nlp("No one")
    doc.ents = [doc.char_span(0, 4, "GPE")]
    doc.cats = {"Sports": 1.0, "World": 0.0}
    DocBin(docs=[doc, other], store_user_data=True).to_disk(tmp_path / "a.spacy")
    assert read_file(tmp_path / "a.spacy").to_list() == [
        {"text": "Oslo wins", "entities": OSLO, "cats": ["Sports"]},
        {"text": "No one", "entities": None, "cats": None},
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"text": "a", "label": [{"start": 0, "end": 1, "labels": ["A", "B"]}]},
            "an entity has one label; this one has",
        ),
        ({"data": {"label": "a"}, "annotations": [{"result": [SPAN]}]}, "both have 'label'; rename one"),
        ({"tokenized_text": ["a"], "ner": [[0, 1, "A"]]}, "is not .first word, last word, label. of 1 words"),
        ({"tokenized_text": ["a"], "ner": [[0, 0, "A"], [0, 0, "B"]]}, "overlaps another one"),
    ],
)
def test_a_row_that_contradicts_itself_is_named(tmp_path, row, message):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x"}) + "\n" + json.dumps(row))
    with pytest.raises(ValueError, match=rf"Line 2 of .*a.jsonl: .*{message}"):
        read_file(tmp_path / "a.jsonl")
    broken: dict[int, str] = {}
    assert len(read_file(tmp_path / "a.jsonl", broken)) == 2
    assert list(broken) == [1]


def test_what_is_no_docbin_is_named(tmp_path):
    (tmp_path / "a.spacy").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"a.spacy is not a DocBin of spaCy"):
        read_file(tmp_path / "a.spacy")
