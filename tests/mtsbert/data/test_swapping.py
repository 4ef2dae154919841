"""Tests that copies of training texts have other names of the same kind in them, and nothing else that is new."""

import pytest
from datasets import Dataset

from mtsbert.data.loading import load_data


TASKS = {
    "topic": {"type": "sequence_classification", "labels": ["Travel", "Space"]},
    "ner": {"type": "token_classification"},
}
COLUMNS = {"text": "text", "topic": "topic", "ner": "ner"}
PEOPLE = ["Ada Perez", "Bo Lind", "Cy Ortega", "Di Amin", "Eve Stone"]
PLACES = ["Oslo", "Lima", "Bern", "Rome", "Kyiv"]


def spans(text: str, **labels: str | None) -> list[dict]:
    """The first place of each word, with `_` for a blank, and its label."""
    found = [(text.index(word.replace("_", " ")), word, label) for word, label in labels.items()]
    return [{"start": start, "end": start + len(word), "label": label} for start, word, label in sorted(found)]


def row(number: int) -> dict:
    person, place = PEOPLE[number % 5], PLACES[number // 5 % 5]
    text = f"On day {number} {person} flew to {place}, and from {place} to the moon"
    again = text.rindex(place)
    marked = spans(text, **{person.replace(" ", "_"): "PERSON", place: "GPE", "moon": "LOC", "day": None})
    marked.insert(3, {"start": again, "end": again + len(place), "label": "GPE"})
    return {"text": text, "topic": "Travel", "ner": marked}


ROWS = [row(number) for number in range(50)]


def load(rows: list[dict], copies=2, tasks=TASKS, columns=COLUMNS, **options):
    splits = {"train": Dataset.from_list(rows), "validation": Dataset.from_list(rows[:3])}
    spec = {"dataset": splits, "columns": columns, "swapped_copies": copies}
    return load_data({"news": spec}, tasks, **options)


def names(example: dict) -> list[tuple[str, str | None]]:
    return [(example["text"][span["start"] : span["end"]], span["label"]) for span in example["ner"]]


def test_copies_have_other_names_of_the_same_type_in_their_places():
    examples = list(load(ROWS).examples["train"])
    assert len(examples) == 150
    assert [example["text"] for example in examples[:50]] == [row["text"] for row in ROWS]
    for number, copy in enumerate(examples[50:]):
        before = examples[number % 50]
        (person, place) = (names(copy)[1][0], names(copy)[2][0])
        assert names(copy) == [("day", None), (person, "PERSON"), (place, "GPE"), (place, "GPE"), ("moon", "LOC")]
        assert person in PEOPLE
        assert place in PLACES
        assert copy["text"] == f"On day {number % 50} {person} flew to {place}, and from {place} to the moon"
        assert {**copy, "text": 0, "ner": 0} == {**before, "text": 0, "ner": 0}


def test_two_of_five_names_are_swapped_and_no_two_copies_alike():
    examples = list(load(ROWS, 20).examples["train"])
    pairs = [(examples[number % 50], copy) for number, copy in enumerate(examples[50:])]
    swapped = sum(names(before)[place] != names(copy)[place] for before, copy in pairs for place in (1, 2))
    assert 0.36 < swapped / (2 * len(pairs)) < 0.44
    assert len({copy["text"] for copy in examples[50::50]}) > 5
    assert list(load(ROWS, 20).examples["train"]) == examples


def test_a_name_is_swapped_for_one_of_as_many_words_or_stays():
    rows = [
        {"text": "Ada flew", "topic": "Travel", "ner": spans("Ada flew", Ada="PERSON")},
        {"text": "Bo Lind sang", "topic": "Travel", "ner": spans("Bo Lind sang", Bo_Lind="PERSON")},
        {"text": "Oslo slept", "topic": "Travel", "ner": spans("Oslo slept", Oslo="GPE")},
    ]
    assert {example["text"] for example in load(rows, 20).examples["train"]} == {row["text"] for row in rows}


def test_only_training_rows_with_names_are_copied():
    plain = [
        {"text": "nobody flew", "topic": "Travel", "ner": []},
        {"text": "the moon", "topic": "Travel", "ner": spans("the moon", moon="LOC")},
        {"text": "Who knows", "topic": "Travel", "ner": None},
        {"text": "Somebody flew", "topic": "Travel", "ner": spans("Somebody flew", Somebody=None)},
    ]
    data = load([*ROWS, *plain])
    assert len(data.examples["train"]) == 50 + 4 + 100
    assert len(data.examples["validation"]) == 3
    assert len(load(ROWS, splits=["validation"]).examples["validation"]) == 3
    assert len(load([*ROWS, *plain], max_samples={"train": 20}).examples["train"]) <= 60


def test_where_letters_have_no_case_every_entity_is_a_name():
    cities = ["東京", "大阪", "京都"]
    rows = [
        {"text": f"{city}は雨", "topic": "Travel", "ner": spans(f"{city}は雨", **{city: "GPE"})} for city in cities
    ]
    texts = {example["text"] for example in load(rows, 20).examples["train"]}
    assert texts == {f"{city}は雨" for city in cities}
    assert len(load(rows, 20).examples["train"]) == 63


def test_without_a_name_there_are_no_copies_and_a_warning(caplog):
    rows = [{**row, "ner": spans(row["text"], moon="LOC")} for row in ROWS]
    assert len(load(rows).examples["train"]) == 50
    assert "`swapped_copies`: no entity of 'ner' is a name" in caplog.text


def test_of_pairs_there_are_no_copies():
    rows = [{**row, "other": "Nobody flew" if number < 10 else None} for number, row in enumerate(ROWS)]
    tasks = {**TASKS, "nli": {"type": "pair_classification", "labels": ["yes", "no"]}}
    rows = [{**row, "nli": "yes" if row["other"] else None} for row in rows]
    data = load(rows, 1, tasks=tasks, columns={**COLUMNS, "other": "text_pair", "nli": "nli"})
    assert len(data.examples["train"]) == 50 + 40


def test_tags_of_words_are_swapped_as_well(tokenizer):
    words = [{"text": ["Oslo", "beat", "Lima"], "ner": ["B-GPE", "O", "B-GPE"]}, {"text": ["Ada"], "ner": ["O"]}]
    data = load(words, 3, tasks={"ner": TASKS["ner"]}, columns={"text": "text", "ner": "ner"}, tokenizer=tokenizer)
    assert {example["text"] for example in data.examples["train"]} <= {
        "Ada",
        *(f"{one} beat {other}" for one in ("Oslo", "Lima") for other in ("Oslo", "Lima")),
    }
    assert len(data["train"]) == 2 + 3
    assert [sum(tag > 0 for tag in tags) for tags in data["train"]["ner"]] == [2, 0, 2, 2, 2]


@pytest.mark.parametrize("copies", [-1, True, "2", 1.0, None])
def test_what_is_no_number_of_copies_is_refused(copies):
    with pytest.raises(ValueError, match=r"Dataset 'news': 'swapped_copies' is .*; it must be a whole number from 0"):
        load(ROWS, copies)


@pytest.mark.parametrize(
    ("tasks", "found"),
    [
        ({"topic": "sequence_classification"}, "none"),
        ({"ner": "token_classification", "topic": "token_classification"}, r"\['ner', 'topic'\]"),
    ],
    ids=["no entities", "two kinds"],
)
def test_copies_without_entities_of_one_task_are_refused(tasks, found):
    rows = [{**row, "topic": row["ner"] if len(tasks) == 2 else "Travel"} for row in ROWS]
    with pytest.raises(ValueError, match=f"'swapped_copies' swaps the entities of one task, .* feeds {found}"):
        load(rows, tasks=tasks, columns={"text": "text"} | {task: task for task in tasks})
