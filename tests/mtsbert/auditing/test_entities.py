"""Tests that suspicious entities are judged by classifiers that have not seen their texts, ranked, and named."""

import json

import numpy as np
import pytest

from mtsbert.auditing.encoder import Tokens
from mtsbert.auditing.entities import (
    NONE,
    UNKNOWN,
    Doubt,
    LabelledEntities,
    describe_suspects,
    doubts_of,
    judge,
    rank,
    read_entities,
    suspects_of,
)
from tests.conftest import ROWS


TEXTS = [text for text, _, _ in ROWS]
ENTITIES = [[{"start": a, "end": b, "label": label} for a, b, label in spans] for _, _, spans in ROWS]
TYPES = ["GPE", "ORG", "PERSON"]


def some_tokens(words: list[list[str]], features: np.ndarray | None = None) -> Tokens:
    """Tokens that are words with a space between them."""
    spans, of_text = [], []
    for number, text in enumerate(words):
        ends = np.cumsum([len(word) + 1 for word in text])
        spans += [(end - 1 - len(word), end - 1) for word, end in zip(text, ends, strict=True)]
        of_text += [number] * len(text)
    if features is None:
        features = np.zeros((len(spans), 1), dtype=np.float16)
    return Tokens(np.array(of_text), np.array(spans), np.arange(len(spans)), features)


def test_rows_are_read_and_those_without_entity_labels_left_out(tmp_path, caplog):
    path = tmp_path / "rows.jsonl"
    rows = [{"text": text, "entities": spans} for text, spans in zip(TEXTS, ENTITIES, strict=True)]
    rows.insert(1, {"text": "not marked", "entities": None})
    path.write_text("\n".join(map(json.dumps, rows)))
    read = read_entities(path, "text", "entities", num_folds=3)
    assert read.rows.tolist() == [0, *range(2, 9)]
    assert (read.texts, read.entities, read.types) == (TEXTS, ENTITIES, TYPES)
    assert "1 rows of" in caplog.text


def test_of_a_type_in_too_few_texts_nothing_is_said(tmp_path, caplog):
    path = tmp_path / "rows.jsonl"
    rows = [{"text": text, "entities": spans} for text, spans in zip(TEXTS, ENTITIES, strict=True)]
    path.write_text("\n".join(map(json.dumps, rows)))
    read = read_entities(path, "text", "entities", num_folds=4)  # three texts have an ORG, three a PERSON
    assert read.types == ["GPE"]
    assert read.entities[5] == [{"start": 10, "end": 21, "label": None}]
    assert "Entities whose type is in fewer than 4 texts are left out: {'PERSON': 3, 'ORG': 3}" in caplog.text


def test_a_type_that_is_twice_in_a_text_is_in_one_text(tmp_path):
    path = tmp_path / "rows.jsonl"
    twice = [{"start": 0, "end": 4, "label": "ORG"}, {"start": 10, "end": 14, "label": "ORG"}]
    rows = [{"text": f"Oslo beat Lima {number}", "entities": twice} for number in range(2)]
    rows += [{"text": f"Rome {number}", "entities": [{"start": 0, "end": 4, "label": "GPE"}]} for number in range(3)]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert read_entities(path, "text", "entities", num_folds=3).types == ["GPE"]


def test_types_that_differ_only_in_how_they_are_written_are_audited_as_one(tmp_path):
    path = tmp_path / "rows.jsonl"
    oslo = {"start": 0, "end": 4}
    labels = ["GPE", "GPE "] * 2
    rows = [{"text": f"Oslo {row}", "entities": [oslo | {"label": label}]} for row, label in enumerate(labels)]
    path.write_text("\n".join(map(json.dumps, rows)))
    read = read_entities(path, "text", "entities", num_folds=3)
    assert read.types == ["GPE"]
    assert read.entities == [[oslo | {"label": "GPE"}]] * 4


def test_words_and_tags_are_read(tmp_path):
    path = tmp_path / "rows.bio"
    path.write_text("Ada B-PER\nPerez E-PER\nwins O\n\nLea S-PER\nrises O\n")
    read = read_entities(path, "tokens", "tags", num_folds=2, tag_scheme="bioes")
    assert read.texts == ["Ada Perez wins", "Lea rises"]
    assert read.entities[0] == [{"start": 0, "end": 9, "label": "PER"}]
    assert read.types == ["PER"]


@pytest.mark.parametrize(
    ("spans", "texts", "message"),
    [
        ([], "abcde", r"has no entity type in at least 5 distinct texts of 'entities' \(all: {}\)"),
        ([{"start": 0, "end": 4, "label": "GPE"}], ["Oslo"] * 9, "has 1 distinct texts .* 5 folds need as many"),
    ],
)
def test_what_cannot_be_audited_is_said(tmp_path, spans, texts, message):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"text": text, "entities": spans}) for text in texts))
    with pytest.raises(ValueError, match=message):
        read_entities(path, "text", "entities", num_folds=5)


def test_tags_are_those_of_the_span_that_a_token_is_in():
    tokens = some_tokens([["Ada", "Perez", "of", "Oslo", "rests"]])
    spans = [{"start": 0, "end": 9, "label": "PERSON"}, {"start": 13, "end": 17, "label": None}]
    tags = LabelledEntities(np.array([0]), ["Ada Perez of Oslo rests"], [spans], TYPES).tags(tokens)
    assert tags.tolist() == [3, 3, NONE, UNKNOWN, NONE]


def test_a_token_that_touches_a_span_is_not_in_it():
    tokens = Tokens(np.zeros(3, int), np.array([(0, 1), (1, 2), (2, 3)]), np.arange(3), np.zeros((3, 1)))
    for start, expected in enumerate([[1, NONE, NONE], [NONE, 1, NONE], [NONE, NONE, 1]]):
        spans = [{"start": start, "end": start + 1, "label": "GPE"}]
        assert LabelledEntities(np.array([0]), ["東京都"], [spans], TYPES).tags(tokens).tolist() == expected


# Judging


@pytest.fixture
def blobs() -> tuple[Tokens, np.ndarray, list[str]]:
    """Two hundred texts of five tokens, whose features lie round the corner of their tag."""
    random = np.random.default_rng(0)
    tags = random.integers(3, size=1_000)
    features = (np.eye(3)[tags] + 0.15 * random.normal(size=(1_000, 3))).astype(np.float16)
    texts = [f"text {number}" for number in range(200)]
    return some_tokens([["word"] * 5] * 200, features), tags, texts


def test_a_token_is_judged_by_a_network_that_has_not_seen_its_text(blobs):
    tokens, tags, texts = blobs
    wrong = tags.copy()
    wrong[7] = (tags[7] + 1) % 3
    probabilities = judge(tokens, wrong, texts, num_types=2)
    assert probabilities.shape == (1_000, 3)
    assert probabilities.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    assert (probabilities.argmax(axis=1) == tags).mean() > 0.99
    assert probabilities[7].argmax() == tags[7]
    assert (probabilities == judge(tokens, wrong, texts, num_types=2)).all()
    assert (probabilities != judge(tokens, wrong, texts, num_types=2, seed=1)).any()


def test_copies_of_a_text_do_not_vouch_for_each_other(blobs):
    """All tokens of tag 2 are in forty texts; if these are one text, who has not seen it cannot know the tag."""
    tokens, _, texts = blobs
    tags = np.arange(1_000) % 2
    tags[:200] = 2
    features = (np.eye(3)[tags] + 0.15 * np.random.default_rng(0).normal(size=(1_000, 3))).astype(np.float16)
    tokens = Tokens(tokens.text, tokens.spans, tokens.words, features)
    apart = judge(tokens, tags, texts, num_types=2)[:200]
    together = judge(tokens, tags, ["the same"] * 40 + texts[40:], num_types=2)[:200]
    assert apart[:, 2].min() > 0.5
    assert together[:, 2].max() < 0.5


def test_nothing_is_learned_from_what_is_not_known(blobs):
    tokens, tags, texts = blobs
    unknown = np.where(tags == 2, UNKNOWN, tags)
    assert judge(tokens, unknown, texts, num_types=2)[:, 2].max() < 0.25
    assert judge(tokens, tags, texts, num_types=2)[tags == 2, 2].min() > 0.25


def test_the_tokens_of_a_word_share_their_mean(blobs):
    tokens, tags, texts = blobs
    alone = judge(tokens, tags, texts, num_types=2)
    joined = Tokens(
        tokens.text, tokens.spans, np.arange(1_000) // 5 * 5 + np.minimum(np.arange(1_000) % 5, 3), tokens.features
    )
    shared = judge(joined, tags, texts, num_types=2).reshape(200, 5, 3)
    alone = alone.reshape(200, 5, 3)
    assert shared[:, :3] == pytest.approx(alone[:, :3])
    for place in (3, 4):
        assert shared[:, place] == pytest.approx(alone[:, 3:].mean(axis=1), abs=1e-6)


def test_what_no_fold_can_judge_is_said(blobs):
    tokens, tags, texts = blobs
    with pytest.raises(ValueError, match="all text outside a fold is in spans without a label"):
        judge(tokens, np.where(tokens.text == 0, tags, UNKNOWN), texts, num_types=2)
    with pytest.raises(ValueError, match="Of 4 distinct texts the tokenizer makes tokens; 5 folds need as many"):
        judge(tokens, tags, [f"text {number % 4}" for number in range(200)], num_types=2)


def test_a_text_is_as_doubtful_as_its_worst_place():
    tags = np.array([1, 1, NONE, NONE, 2, NONE, UNKNOWN, NONE])
    own = np.array([0.9, 0.4, 0.8, 0.7, 0.5, 0.9, 0.01, 0.95])
    probabilities = np.full((8, 3), 0.0)
    probabilities[np.arange(8), np.maximum(tags, 0)] = own
    doubts = doubts_of(probabilities, tags, [slice(0, 4), slice(4, 6), slice(6, 8), slice(8, 8)])
    pair = (0.9 * 0.4) ** 0.5  # geometric mean
    assert [doubt.score for doubt in doubts] == pytest.approx([(pair * 0.4) ** 0.5, 0.5, 0.95, 1.0])
    assert [(doubt.first, doubt.last) for doubt in doubts[:3]] == [(0, 1), (4, 4), (7, 7)]
    assert rank(doubts).tolist() == [0, 1, 2, 3]
    only = np.array([True, False, True, False, False, True, True, False])  # of 0.8 and 0.7, the former
    doubts = doubts_of(probabilities, tags, [slice(0, 4), slice(2, 4), slice(4, 6), slice(7, 8)], only=only)
    assert [doubt.score for doubt in doubts] == pytest.approx([(pair * 0.4) ** 0.5, 0.8, 0.9, 1.0])
    assert rank([Doubt(0.5, 0, 0), Doubt(0.1, 0, 0), Doubt(0.5, 0, 0)]).tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("spans", "likely", "suspect"),
    [
        # one that is none; one that is missing; another type; a border; two for one
        ([(0, 3, "ORG")], [0, 0, 0, 0, 0], (("Ada", "ORG"), ("", ""), "Ada")),
        ([], [3, 3, 0, 0, 0], (("", ""), ("Ada Perez", "PERSON"), "Ada Perez")),
        ([(0, 9, "ORG")], [3, 3, 0, 0, 0], (("Ada Perez", "ORG"), ("Ada Perez", "PERSON"), "Ada Perez")),
        ([(0, 12, "PERSON")], [3, 3, 0, 0, 0], (("Ada Perez of", "PERSON"), ("Ada Perez", "PERSON"), "Ada Perez of")),
        ([(0, 3, "PERSON")], [3, 3, 0, 0, 0], (("Ada", "PERSON"), ("Ada Perez", "PERSON"), "Ada Perez")),
        (
            [(0, 17, "ORG")],
            [3, 3, 0, 1, 0],
            (("Ada Perez of Oslo", "ORG"), ("Ada Perez; Oslo", "PERSON; GPE"), "Ada Perez of Oslo"),
        ),
        ([(0, 9, "PERSON"), (13, 17, "GPE")], [3, 3, 0, 1, 0], None),
    ],
)
def test_a_suspect_says_what_is_there_and_what_is_likelier(spans, likely, suspect):
    text = "Ada Perez of Oslo rests"
    marked = [{"start": start, "end": end, "label": label} for start, end, label in spans]
    given = LabelledEntities(np.array([4]), [text], [marked], TYPES)
    tokens = some_tokens([text.split()])
    probabilities = np.full((5, 4), 0.05)
    probabilities[np.arange(5), likely] = 0.85
    found = suspects_of(given, tokens, given.tags(tokens), probabilities, 1.0)
    if suspect is None:
        assert found == []
        return
    (found,) = found
    there, suggested, place = suspect
    assert (found["row"], found["text"]) == (4, text)
    assert (found["entities"], found["types"]) == there
    assert (found["suggested"], found["suggested_types"]) == suggested
    assert text[found["start"] : found["end"]] == place
    assert 0 < found["probability"] < 0.3


def test_of_a_share_below_one_row_the_worst_row_is_looked_at_and_unknown_spans_are_not_named():
    text = "Ada Perez rests"
    marked = [{"start": 0, "end": 3, "label": "GPE"}, {"start": 4, "end": 9, "label": None}]
    given = LabelledEntities(np.arange(3), [text] * 3, [marked] * 3, TYPES)
    tokens = some_tokens([text.split()] * 3)
    probabilities = np.tile([[0.02, 0.04, 0.04, 0.9], [0.02, 0.04, 0.04, 0.9], [0.97, 0.01, 0.01, 0.01]], (3, 1))
    probabilities[3, 1] = 0.01  # of the second text
    tags = given.tags(tokens)
    (found,) = suspects_of(given, tokens, tags, probabilities, 0.1)
    assert (found["row"], found["entities"], found["suggested"]) == (1, "Ada", "Ada")
    wide = Tokens(tokens.text, np.tile([[0, 5], [4, 9], [10, 15]], (3, 1)), tokens.words, tokens.features)
    (found,) = suspects_of(given, wide, tags, probabilities, 0.1)  # a place that reaches into the unknown span
    assert (found["entities"], found["types"]) == ("Ada", "GPE")


def test_the_place_is_widened_until_no_entity_goes_beyond_it():
    """Five entities of two words each, and as many that begin a word later."""
    text = " ".join("abcdefghijk")
    marked = [{"start": 4 * n, "end": 4 * n + 3, "label": "GPE" if n % 2 else "ORG"} for n in range(5)]
    given = LabelledEntities(np.array([0]), [text], [marked], TYPES)
    tokens = some_tokens([text.split()])
    likely = [0, *(1 + (number // 2 + 1) % 2 for number in range(10))]
    probabilities = np.full((11, 4), 0.05)
    probabilities[np.arange(11), likely] = 0.85
    (found,) = suspects_of(given, tokens, given.tags(tokens), probabilities, 1.0)
    assert (found["start"], found["end"]) == (0, len(text))


def test_a_place_that_is_likely_what_it_says_does_not_hide_another():
    text = "Ada Perez rests"
    given = LabelledEntities(np.array([0]), [text], [[{"start": 0, "end": 3, "label": "GPE"}]], TYPES)
    probabilities = np.array([[0.3, 0.31, 0.2, 0.19], [0.4, 0.01, 0.01, 0.58], [0.97, 0.01, 0.01, 0.01]])
    tokens = some_tokens([text.split()])
    (found,) = suspects_of(given, tokens, given.tags(tokens), probabilities, 1.0)
    assert (found["entities"], found["suggested"], found["suggested_types"]) == ("", "Perez", "PERSON")


def test_suspects_are_counted_by_what_they_are_and_what_is_likelier():
    rows = [("ORG", ""), ("ORG", ""), ("", "GPE (city)"), ("ORG", "ORG"), ("ORG", "GPE; GPE")]
    table = describe_suspects([{"types": there, "suggested_types": found} for there, found in rows])
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]] == [
        ["ORG", "no entity", "2"],
        ["no entity", "GPE (city)", "1"],
        ["ORG", "other borders", "1"],
        ["ORG", "GPE; GPE", "1"],
    ]
