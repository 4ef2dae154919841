"""Tests that suspicious entities are judged by networks that have not seen their texts, ranked, and named."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from mtsbert.auditing.encoder import load_encoder, read_tokens, writing
from mtsbert.auditing.entities import (
    NONE,
    UNKNOWN,
    Doubt,
    LabelledEntities,
    Tokens,
    describe_suspects,
    doubts_of,
    judge,
    plant,
    rank,
    read_entities,
    suspects_of,
)
from tests.conftest import ROWS


TEXTS = [text for text, _, _ in ROWS]
ENTITIES = [[{"start": a, "end": b, "label": label} for a, b, label in spans] for _, _, spans in ROWS]
TYPES = ["GPE", "ORG", "PERSON"]


@pytest.fixture
def given() -> LabelledEntities:
    return LabelledEntities(np.arange(len(TEXTS)), TEXTS, ENTITIES, TYPES)


@pytest.fixture(scope="module")
def pipeline(encoder_folder):
    return load_encoder(str(encoder_folder))


@pytest.fixture(scope="module")
def tokens(pipeline) -> Tokens:
    return read_tokens(pipeline, TEXTS, precision="fp32")


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


# Reading


def test_tokens_have_the_states_of_three_layers_in_the_order_of_the_texts(pipeline, tokens):
    places = tokens.of_texts(len(TEXTS))
    assert [tokens.text[place].tolist() for place in places] == [
        [number] * (place.stop - place.start) for number, place in enumerate(places)
    ]
    encoded = pipeline.tokenizer(TEXTS[1], return_tensors="pt")
    with torch.no_grad():
        layers = pipeline.model.encoder(**encoded, output_hidden_states=True).hidden_states
    expected = torch.cat([layers[1], layers[1], layers[2]], dim=-1)[0, 1:-1]  # of three: input, first, last
    assert tokens.features.shape[1] == 3 * 32 + 15
    assert tokens.features[places[1], : 3 * 32] == pytest.approx(expected.numpy(), abs=2e-3)
    assert [TEXTS[1][start:end] for start, end in tokens.spans[places[1]]] == TEXTS[1].split()


def test_a_text_that_is_longer_than_the_model_reads_loses_nothing(pipeline):
    long = " ".join(["Oslo beat Lima in the final"] * 40)  # 240 words; the model has 64 positions
    tokens = read_tokens(pipeline, ["Lima", long, "Oslo"], precision="fp32")
    first, second, third = tokens.of_texts(3)
    assert [long[start:end] for start, end in tokens.spans[second]] == long.split()
    assert tokens.spans[first].tolist() == tokens.spans[third].tolist() == [[0, 4]]


@pytest.mark.parametrize(
    ("text", "spans", "starts"),
    [
        ("Nokia 5", [(0, 2), (2, 5), (6, 7)], [0, 0, 6]),
        ("don't", [(0, 3), (3, 4), (4, 5)], [0, 3, 4]),
        ("東京都", [(0, 1), (1, 2), (2, 3)], [0, 1, 2]),  # written without spaces: each character is a word
    ],
)
def test_tokens_of_one_word_start_where_it_does(text, spans, starts):
    assert writing(text, np.array(spans))[0].tolist() == starts


def test_how_words_are_written_is_seen_beside_each_token():
    _, written = writing("NATO and Oslo, 5G", np.array([(0, 2), (2, 4), (5, 8), (9, 13), (13, 14), (15, 17)]))
    capital, capitals, digit, lower, mark = written[:, :5].T.tolist()
    assert capital == [1, 1, 0, 1, 0, 0]
    assert capitals == [1, 1, 0, 0, 0, 1]
    assert digit == [0, 0, 0, 0, 0, 1]
    assert lower == [0, 0, 1, 0, 0, 0]
    assert mark == [0, 0, 0, 0, 1, 0]
    assert written[1:, 5:10].tolist() == written[:-1, :5].tolist()
    assert written[:-1, 10:].tolist() == written[1:, :5].tolist()
    assert not written[0, 5:10].any()
    assert not written[-1, 10:].any()


def test_rows_are_read_and_those_without_entity_labels_left_out(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"text": text, "entities": spans} for text, spans in zip(TEXTS, ENTITIES, strict=True)]
    rows.insert(1, {"text": "not marked", "entities": None})
    path.write_text("\n".join(map(json.dumps, rows)))
    read = read_entities(path, "text", "entities", num_folds=5)
    assert read.rows.tolist() == [0, *range(2, 9)]
    assert (read.texts, read.entities, read.types) == (TEXTS, ENTITIES, TYPES)


def test_words_and_tags_are_read(tmp_path):
    path = tmp_path / "rows.bio"
    path.write_text("Ada B-PER\nPerez I-PER\nwins O\n\nLima B-LOC\nrises O\n")
    read = read_entities(path, "tokens", "tags", num_folds=2)
    assert read.texts == ["Ada Perez wins", "Lima rises"]
    assert read.entities[0] == [{"start": 0, "end": 9, "label": "PER"}]
    assert read.types == ["LOC", "PER"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a", "entities": []}, {"text": "b", "entities": []}], "No row of .* has an entity in 'entities'"),
        ([{"text": "Oslo", "entities": [{"start": 0, "end": 4, "label": "GPE"}]}] * 9, "1 distinct texts .* 5 folds"),
    ],
)
def test_what_cannot_be_audited_is_said(tmp_path, rows, message):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=message):
        read_entities(path, "text", "entities", num_folds=5)


def test_tags_are_those_of_the_span_that_a_token_is_in():
    tokens = some_tokens([["Ada", "Perez", "of", "Oslo", "rests"]])
    spans = [{"start": 0, "end": 9, "label": "PERSON"}, {"start": 13, "end": 17, "label": None}]
    tags = LabelledEntities(np.array([0]), ["Ada Perez of Oslo rests"], [spans], TYPES).tags(tokens)
    assert tags.tolist() == [3, 3, NONE, UNKNOWN, NONE]


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
    assert rank([Doubt(0.5, 0, 0), Doubt(0.1, 0, 0), Doubt(0.5, 0, 0)]).tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("spans", "likely", "suspect"),
    [
        # one that is none; one that is missing; another type; a border; two for one
        ([(0, 3, "ORG")], [0, 0, 0, 0, 0], ("Ada (ORG)", "", "Ada")),
        ([], [3, 3, 0, 0, 0], ("", "Ada Perez (PERSON)", "Ada Perez")),
        ([(0, 9, "ORG")], [3, 3, 0, 0, 0], ("Ada Perez (ORG)", "Ada Perez (PERSON)", "Ada Perez")),
        ([(0, 12, "PERSON")], [3, 3, 0, 0, 0], ("Ada Perez of (PERSON)", "Ada Perez (PERSON)", "Ada Perez of")),
        ([(0, 3, "PERSON")], [3, 3, 0, 0, 0], ("Ada (PERSON)", "Ada Perez (PERSON)", "Ada Perez")),
        (
            [(0, 17, "ORG")],
            [3, 3, 0, 1, 0],
            ("Ada Perez of Oslo (ORG)", "Ada Perez (PERSON); Oslo (GPE)", "Ada Perez of Oslo"),
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
    assert (found["row"], found["text"], found["entities"], found["suggested"]) == (4, text, there, suggested)
    assert text[found["start"] : found["end"]] == place
    assert 0 < found["probability"] < 0.3


def test_suspects_are_counted_by_what_they_are_and_what_is_likelier():
    rows = [
        ("Ada (ORG)", ""),
        ("Ada (ORG)", ""),
        ("", "Oslo (GPE)"),
        ("Ada (ORG)", "Ada Perez (ORG)"),
        ("x (ORG)", "x (GPE)"),
    ]
    table = describe_suspects([{"entities": there, "suggested": found} for there, found in rows])
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]] == [
        ["ORG", "no entity", "2"],
        ["no entity", "GPE", "1"],
        ["ORG", "other borders", "1"],
        ["ORG", "GPE", "1"],
    ]


# Planting


def test_one_mistake_of_each_kind_is_planted_and_nothing_else_touched():
    text, spans = TEXTS[0], ENTITIES[0]
    given = LabelledEntities(np.arange(100), [text] * 100, [spans] * 100, TYPES)
    wrong, planted = plant(given, 0.4)
    assert planted.sum() == 40
    assert [row for row in range(100) if wrong.entities[row] != spans] == np.flatnonzero(planted).tolist()
    kinds = {"without": 0, "type": 0, "border": 0, "another": 0}
    for row in np.flatnonzero(planted):
        changed = wrong.entities[row]
        assert changed == sorted(changed, key=lambda span: span["start"])
        assert all(a["end"] <= b["start"] for a, b in pairwise(changed))
        places = [(span["start"], span["end"]) for span in changed]
        if len(changed) != 3:
            kinds["without" if len(changed) == 2 else "another"] += 1
        else:
            kinds["type" if places == [(s["start"], s["end"]) for s in spans] else "border"] += 1
    assert kinds["type"] == kinds["another"] == 10
    assert 5 <= kinds["border"] <= 10  # the last word of the text cannot be widened
    assert kinds["without"] + kinds["border"] == 20
    assert given.entities[0] == spans


def test_planting_follows_from_the_seed_and_needs_entities(given):
    assert plant(given, 0.5, seed=1)[0].entities == plant(given, 0.5, seed=1)[0].entities
    assert plant(given, 0.5, seed=1)[0].entities != plant(given, 0.5, seed=2)[0].entities
    with pytest.raises(ValueError, match="8 rows should get a wrong entity, and 7 have one"):
        plant(given, 0.99)


@pytest.mark.weights
@pytest.mark.real_data
@pytest.mark.slow
def test_mistakes_planted_in_tweets_are_found(minilm, real_data):
    given = read_entities(real_data / "ner_gold" / "wnut17" / "dev.bio", "tokens", "tags", num_folds=5)
    given = LabelledEntities(given.rows[:400], given.texts[:400], given.entities[:400], given.types)
    tokens = read_tokens(load_encoder(minilm), given.texts, precision="fp32")
    wrong, planted = plant(given, 0.05)
    tags = wrong.tags(tokens)
    doubts = doubts_of(judge(tokens, tags, given.texts, num_types=6), tags, tokens.of_texts(len(given.texts)))
    assert planted[rank(doubts)[: planted.sum()]].mean() > 0.25  # by chance 0.05
