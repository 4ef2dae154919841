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


def read(tmp_path, content, name: str = "a.jsonl", others: dict | None = None, **spec) -> list[dict]:
    """Reads rows as a recipe does, with the task `ner`, a `topic` if it is mapped, and others."""
    path = tmp_path / name
    if isinstance(content, list):
        text = json.dumps(content) if name.endswith(".json") else "\n".join(map(json.dumps, content))
        path.write_text(text, encoding="utf-8")
    tasks = NER | ({"topic": {"type": "sequence_classification"}} if "topic" in spec["columns"].values() else {})
    tasks |= others or {}
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


DONE = {"data": {"text": "No"}, "annotations": [{"result": []}]}


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_who_has_finished_a_text_and_marked_or_chosen_nothing_has_said_so(tmp_path, name):
    several = CHOICE | {"from_name": "kind"}
    rows = [
        {"data": {"text": "No"}, "annotations": [{"was_cancelled": True, "result": []}, {"result": []}]},
        {"data": {"text": "Oslo wins"}, "annotations": [{"result": [SPAN, CHOICE, several]}]},
        {"data": {"text": "Skipped"}, "annotations": [{"was_cancelled": True, "result": [SPAN]}]},
        {"data": {"text": "Never"}, "annotations": []},
    ]
    kinds = {"kind": {"type": "sequence_classification", "multi_label": True}}
    columns = {"text": "text", "label": "ner", "topic": "topic", "kind": "kind"}
    assert read(tmp_path, rows, name, kinds, columns=columns) == [
        {"text": "No", "ner": [], "topic": None, "kind": []},  # a single choice that was not made is no label
        {"text": "Oslo wins", "ner": OSLO, "topic": "Sports", "kind": ["Sports"]},
        {"text": "Skipped", "ner": None, "topic": None, "kind": None},
        {"text": "Never", "ner": None, "topic": None, "kind": None},
    ]


def test_a_control_is_known_by_what_a_model_predicted_or_by_what_was_cancelled(tmp_path):
    predicted = {"data": {"text": "x"}, "annotations": [], "predictions": [{"result": [SPAN]}]}
    expected = [{"text": "No", "ner": []}, {"text": "x", "ner": None}]
    assert read(tmp_path, [DONE, predicted], "a.json", columns=COLUMNS) == expected
    cancelled = {"data": {"text": "x"}, "annotations": [{"was_cancelled": True, "result": [SPAN]}]}
    assert read(tmp_path, [DONE, cancelled], "b.json", columns=COLUMNS) == expected


def test_a_short_export_of_label_studio_leaves_out_what_has_no_entity(tmp_path):
    marks = [{"start": 0, "end": 4, "text": "Oslo", "labels": ["GPE"]}]
    rows = [{"text": "No", "annotation_id": 1}, {"text": "Oslo wins", "label": marks, "annotation_id": 2}]
    rows.append({"text": "of another file"})
    assert [row["ner"] for row in read(tmp_path, rows, "a.json", columns=COLUMNS)] == [[], OSLO, None]


def test_one_choice_and_several_of_a_short_export_of_label_studio_are_lists(tmp_path):
    """One choice is a text there, several are an object, and none are left out."""
    rows = [{"text": str(number), "annotation_id": number, "topic": "a"} for number in range(3)]
    rows[1] |= {"kind": "a"}
    rows[2] |= {"kind": {"choices": ["a", "b"]}}
    (tmp_path / "a.json").write_text(json.dumps(rows))
    found = read_file(tmp_path / "a.json")
    assert found["kind"][:] == [[], ["a"], ["a", "b"]]
    assert found["topic"][:] == ["a"] * 3


def label_studio(results: list[dict], **data) -> list[dict]:
    return [{"data": data, "annotations": [{"result": results}]}]


def marking(words: str | None, start: int, end: int, to_name: str = "text") -> dict:
    """A `SPAN` of Label Studio that marks these words."""
    return SPAN | {"to_name": to_name, "value": {"start": start, "end": end, "text": words, "labels": ["GPE"]}}


COLUMNS = {"text": "text", "label": "ner"}
OF_JAVASCRIPT = [{"start": 0, "end": 2, "label": "GPE"}, {"start": 3, "end": 7, "label": "GPE"}]  # in "😀 Oslo"


@pytest.mark.parametrize("words", ["Oslo", " Oslo\n", None, ""])
def test_words_that_were_marked_are_those_of_the_text(tmp_path, words):
    rows = label_studio([marking(words, 2, 6)], text="😀 Oslo wins")
    assert read(tmp_path, rows, columns=COLUMNS)[0]["ner"] == [{"start": 2, "end": 6, "label": "GPE"}]


@pytest.mark.parametrize(
    ("text", "start"), [("New\nYork wins", 0), ("😀 New\r\n\r\nYork wins", 3), (r"New\nYork wins", 0)]
)
def test_label_studio_writes_a_line_break_as_two_characters(tmp_path, text, start):
    end = text.index(" wins") + (start > 0)  # the second counts as JavaScript does
    rows = label_studio([marking(r"New\nYork", start, end)], text=text)
    place = text.index("New")
    expected = [{"start": place, "end": text.index(" wins"), "label": "GPE"}]
    assert read(tmp_path, rows, columns=COLUMNS)[0]["ner"] == expected


def test_places_in_utf16_become_characters(tmp_path):
    expected = [{"start": 0, "end": 1, "label": "GPE"}, {"start": 2, "end": 6, "label": "GPE"}]
    rows = label_studio(
        [marking(None, 0, 2), marking("Oslo", 3, 7)], text="😀 Oslo"
    )  # one span has no words to compare
    assert read(tmp_path, rows, columns=COLUMNS)[0]["ner"] == expected
    spans = [
        {"start": 0, "end": 2, "label": "GPE", "text": "😀"},
        {"start": 3, "end": 7, "label": "GPE", "text": "Oslo"},
    ]
    rows = [{"text": "😀 Oslo", "spans": spans, "answer": "accept", "_task_hash": 1}]
    assert read(tmp_path, rows, "b.jsonl", columns={"text": "text", "spans": "ner"})[0]["ner"] == expected


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([marking("Oslo", 4, 8)], "marks 'Oslo', and 'lo w' stands there.*count UTF-16"),
        ([marking("Oslo", 3, 7), marking("wins", 7, 11)], "marks 'Oslo', and 'slo ' stands"),  # counted in two ways
        ([marking("Oslo", 3, 7), marking(None, 1, 2)], "marks 'Oslo', and 'slo ' stands"),  # 1 is inside of the emoji
        ([marking("Lima", 0, 4, to_name="title")], "was marked in 'title'; the texts are those of 'text'"),
    ],
)
def test_marks_of_another_place_or_text_are_refused(tmp_path, results, message):
    rows = label_studio(results, text="😀 Oslo wins", title="Lima")
    with pytest.raises(ValueError, match=rf"Row 0 of dataset 'news', .*column 'label': entity .*{message}"):
        read(tmp_path, rows, columns=COLUMNS)


def test_marks_belong_to_the_text_that_they_name(tmp_path):
    rows = label_studio([marking("Lima", 0, 4, to_name="title")], text="Oslo wins", title="Lima")
    found = read(tmp_path, rows, columns={"title": "text", "label": "ner"})
    assert found == [{"text": "Lima", "ner": [{"start": 0, "end": 4, "label": "GPE"}]}]


def test_a_text_whose_column_is_called_otherwise_than_its_place_in_the_interface(tmp_path):
    rows = label_studio([marking("Oslo", 0, 4)], body="Oslo wins")
    assert read(tmp_path, rows, columns={"body": "text", "label": "ner"})[0]["ner"] == OSLO


def test_choices_for_a_part_of_a_text_are_no_labels_of_the_text(tmp_path):
    of_part = CHOICE | {"value": {"start": 0, "end": 4, "text": "Oslo", "choices": ["Politics"]}}
    (tmp_path / "a.json").write_text(json.dumps(label_studio([of_part, CHOICE, CHOICE], text="Oslo wins")))
    assert read_file(tmp_path / "a.json").to_list() == [{"text": "Oslo wins", "topic": ["Sports"]}]


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


def test_what_was_accepted_in_prodigy_without_a_mark_or_choice_has_none(tmp_path):
    span = {"start": 0, "end": 4, "label": "GPE"}
    common = {"text": "Oslo wins", "_task_hash": 2, "answer": "accept"}
    rows = [
        {**common, "_view_id": "ner_manual", "spans": [span]},
        {**common, "_view_id": "ner_manual"},
        {**common, "_view_id": "ner_manual", "answer": "ignore"},
        {**common, "_view_id": "choice", "accept": ["a"], "spans": [span]},  # a mark that was shown, and not asked for
        {**common, "_view_id": "choice"},
        {**common, "_view_id": "classification"},
    ]
    kinds = {"kind": {"type": "sequence_classification", "multi_label": True}}
    found = read(tmp_path, rows, others=kinds, columns={"text": "text", "spans": "ner", "accept": "kind"})
    assert [row["ner"] for row in found] == [OSLO, [], None, OSLO, None, None]
    assert [row["kind"] for row in found] == [None, None, None, ["a"], [], None]


def test_an_answer_is_a_column_like_any_other_elsewhere(tmp_path):
    row = {"text": "Oslo wins", "entities": OSLO, "answer": "reject"}
    assert read(tmp_path, [row], columns={"text": "text", "entities": "ner"})[0]["ner"] == OSLO


def test_words_of_gliner(tmp_path):
    rows = [{"tokenized_text": ["In", "New", "York"], "ner": [[1, 2, "GPE"]]}, {"tokenized_text": ["No"], "ner": []}]
    assert read(tmp_path, rows, "a.json", columns={"tokenized_text": "text", "ner": "ner"}) == [
        {"text": "In New York", "ner": [{"start": 3, "end": 11, "label": "GPE"}]},
        {"text": "No", "ner": []},
    ]


def test_an_entity_of_gliner_without_a_label_is_unknown(tmp_path):
    rows = [{"tokenized_text": ["In", "New", "York", "Oslo"], "ner": [[1, 2, None], [3, 3, "GPE"]]}]
    assert read(tmp_path, rows, "a.json", columns={"tokenized_text": "text", "ner": "ner"})[0]["ner"] == [
        {"start": 3, "end": 6, "label": None},
        {"start": 7, "end": 11, "label": None},
        {"start": 12, "end": 16, "label": "GPE"},
    ]


def test_tokens_of_a_docbin_that_nobody_annotated_are_left_open(tmp_path):
    nlp = spacy.blank("en")
    some, one, space = nlp("Ada Perez joins  Nimbus."), nlp("Lima wins it"), nlp("Lima \n")
    some.set_ents([some.char_span(0, 9, "PERSON")], default="missing")
    one.set_ents([], missing=[one[0:1]], default="outside")
    space.set_ents([space.char_span(0, 4, "GPE")], default="missing")
    DocBin(docs=[some, one, space]).to_disk(tmp_path / "a.spacy")
    found = read(tmp_path, None, "a.spacy", columns={"text": "text", "entities": "ner"})
    assert [row["ner"] for row in found] == [
        [{"start": 0, "end": 9, "label": "PERSON"}, {"start": 10, "end": 24, "label": None}],
        [{"start": 0, "end": 4, "label": None}],
        [{"start": 0, "end": 4, "label": "GPE"}],
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
        (
            {
                "text": "a b",
                "label": [{"start": None, "end": 1, "labels": ["A"]}, {"start": 2, "end": 3, "labels": ["A"]}],
            },
            "an entity begins and ends at a character, whose number is whole: {'start': None",
        ),
        (
            {"text": "a", "label": [{"start": 0, "end": 1.0, "labels": ["A"]}]},
            "an entity begins and ends at a character",
        ),
        (
            label_studio([SPAN | {"value": {"start": 0, "end": 4, "text": "Oslo"}}], text="Oslo wins")[0],
            r"an entity has one label; this one has \[\]",  # whoever marked it has chosen none
        ),
        ({"data": {"label": "a"}, "annotations": [{"result": [SPAN]}]}, "both have 'label'; rename one"),
        (label_studio([CHOICE, CHOICE | {"value": {"choices": ["World"]}}], text="x")[0], "'topic' has two answers"),
        (DONE | {"annotations": [{"result": None}]}, "has no list as 'result': None"),
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
