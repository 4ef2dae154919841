"""Tests that each row of a readable file becomes the right example, or is left out with a reason."""

import json

from hypothesis import given
from hypothesis import strategies as st

from mtsbert.data.examples import read_examples
from mtsbert.data.sources import open_datasets
from tests.fuzz.conftest import fuzz
from tests.fuzz.independent import spans_of
from tests.fuzz.inputs import FILES, texts
from tests.fuzz.outcome import outcome_of


TASKS = {"topic": {"type": "sequence_classification"}, "ner": {"type": "token_classification"}}
NER = {"ner": TASKS["ner"]}

spans = st.fixed_dictionaries(
    {"start": st.integers(-1, 9), "end": st.integers(-1, 9), "label": st.sampled_from(["GPE", "ORG", "", None])}
)
rows = st.lists(
    st.fixed_dictionaries(
        {
            "text": st.one_of(texts, st.just("Oslo beats Lima"), st.none()),
            "topic": st.one_of(st.none(), st.sampled_from(["World", "Sports", ""])),
            "ner": st.one_of(st.none(), st.lists(spans, max_size=3)),
        }
    ),
    min_size=1,
    max_size=6,
)


def is_good(row: dict) -> bool:
    """What the documentation says of a row, said again."""
    text = row["text"] or ""
    places = [place for span in row["ner"] or [] for place in (span["start"], span["end"])]
    return (
        bool(text.split())
        and row["topic"] != ""
        and all(place in range(len(text) + 1) for place in places)
        and places == sorted(places)
        and all(text[span["start"] : span["end"]].split() and span["label"] != "" for span in row["ner"] or [])
    )


def read_with_skipping(path, tasks: dict, columns: dict) -> tuple[list[dict], list[int]]:
    """The examples of a file, and the numbers of the rows that were left out."""
    skipped: list = []

    def read() -> list[dict]:
        (source,) = open_datasets({"d": {"path": str(path), "columns": columns}}, tasks, skip_bad_rows=True)
        return list(read_examples(source, "train", tasks, skipped=skipped))

    found = outcome_of(read, names="")
    assert isinstance(found, list), found
    assert all(one.reason for one in skipped)
    return found, [one.row for one in skipped]


@fuzz
@given(rows)
def test_good_rows_are_kept_with_their_labels_and_the_others_are_named(path_of, rows):
    path = path_of(".jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, skipped = read_with_skipping(path, TASKS, {name: name for name in rows[0]})
    assert skipped == [number for number, row in enumerate(rows) if not is_good(row)]
    assert [{name: one[name] for name in ("row", *rows[0])} for one in found] == [
        {"row": number, **row} for number, row in enumerate(rows) if is_good(row)
    ]


@fuzz
@given(FILES[".bio"].filter(lambda file: file.rows))
def test_tags_become_the_entities_that_they_mark(path_of, file):
    path = path_of(".bio")
    path.write_bytes(file.data)
    found, skipped = read_with_skipping(path, NER, {"tokens": "text", "tags": "ner"})
    meant = [spans_of(row["tokens"], row["tags"]) for row in file.rows]
    assert skipped == [number for number, entities in enumerate(meant) if entities is None]
    for example in found:
        assert example["text"] == " ".join(file.rows[example["row"]]["tokens"])
        marked = [(example["text"][span["start"] : span["end"]], span["label"]) for span in example["ner"]]
        assert marked == meant[example["row"]]
