"""Tests the conversion between spans and tags, with examples and with random Unicode and a real fast tokenizer."""

import itertools
import unicodedata

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.spans import vote, without_article_and_possessive
from entities_mtsbert import (
    IGNORE_INDEX,
    bio_labels,
    check_bio_labels,
    check_spans,
    decode_tags,
    entities_of,
    entity_scores,
    entity_types,
    spans_to_tags,
    tags_of_characters,
    tags_to_spans,
    visible_offsets,
    without_doubtful,
)
from mtsbert.formats.tag_schemes import join_words


LABELS = bio_labels(["GPE", "ORG"])  # O, B-GPE, I-GPE, B-ORG, I-ORG
X = IGNORE_INDEX
LABEL2ID = {label: index for index, label in enumerate(LABELS)}


def span(start: int, end: int, label: str = "GPE") -> dict:
    return {"start": start, "end": end, "label": label}


def plain(spans: list[dict]) -> list[dict]:
    return [{key: found[key] for key in ("start", "end", "label")} for found in spans]


def test_tags_of_types_and_back():
    assert bio_labels(["GPE", "ORG"]) == ["O", "B-GPE", "I-GPE", "B-ORG", "I-ORG"]
    assert entity_types(LABELS) == ["GPE", "ORG"]


@pytest.mark.parametrize(
    "labels", [[], ["B-X", "I-X"], ["O", "B-X"], ["O", "I-X"], ["O", "B-X", "I-X", "B-X"], ["O", "B-X", "I-X", "Y"]]
)
def test_labels_that_are_not_bio_are_refused(labels):
    with pytest.raises(ValueError, match="'O' first, then 'B-X' and 'I-X'"):
        check_bio_labels(labels)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([span(3, 9)], r"lies outside the text, which has 8 characters.*not bytes"),
        ([span(-1, 2)], "lies outside the text"),
        ([span(2, 2)], "is empty"),
        ([span(3, 4)], "is empty"),
        ([span(0, 3), span(2, 5)], "overlaps the one before it"),
        ([span(4, 8), span(0, 3)], "not in order"),
    ],
)
def test_impossible_spans_are_refused(spans, message):
    with pytest.raises(ValueError, match=message):
        check_spans(spans, "abc defg")


def test_spans_become_tags_and_special_tokens_are_ignored():
    #            [CLS]   New     York    and     IB      M       [SEP]
    offsets = [(0, 0), (0, 3), (4, 8), (9, 12), (13, 15), (15, 16), (0, 0)]
    tagged = spans_to_tags([span(0, 8), span(13, 16, "ORG")], offsets, LABEL2ID)
    assert tagged == ([IGNORE_INDEX, 1, 2, 0, 3, 4, IGNORE_INDEX], 0, 0)


def test_neighbouring_entities_of_one_type_stay_two():
    tagged = spans_to_tags([span(0, 3), span(4, 8)], [(0, 3), (4, 8)], LABEL2ID)
    assert tagged.tags == [1, 1]


def test_where_it_is_not_known_whether_there_is_an_entity_nothing_is_learned():
    offsets = [(0, 3), (4, 8), (9, 12), (13, 15)]
    assert spans_to_tags([span(4, 10, None), span(13, 15)], offsets, LABEL2ID) == ([0, X, X, 1], 0, 0)
    assert spans_to_tags([span(9, 99, None)], offsets, LABEL2ID, truncated=True) == ([0, 0, X, X], 0, 0)


def test_an_entity_that_ends_inside_a_piece_is_counted_and_ignored():
    tagged = spans_to_tags([span(0, 5)], [(0, 3), (4, 8), (9, 12)], LABEL2ID)
    assert tagged == ([IGNORE_INDEX, IGNORE_INDEX, 0], 1, 0)


def test_an_entity_that_begins_in_the_piece_of_an_unaligned_one_is_counted_too():
    tagged = spans_to_tags([span(0, 2), span(2, 7)], [(0, 4), (4, 7)], LABEL2ID)
    assert tagged == ([IGNORE_INDEX, IGNORE_INDEX], 2, 0)


def test_an_entity_without_any_piece_is_counted():
    assert spans_to_tags([span(2, 3)], [(0, 2), (4, 6)], LABEL2ID) == ([0, 0], 1, 0)


def test_entities_that_a_truncated_text_cuts_or_loses_are_counted_apart():
    tagged = spans_to_tags([span(0, 3), span(4, 12), span(13, 15)], [(0, 3), (4, 8)], LABEL2ID, truncated=True)
    assert tagged == ([1, IGNORE_INDEX], 0, 2)


def test_characters_that_the_tokenizer_drops_do_not_break_alignment():
    tagged = spans_to_tags([span(0, 5)], [(0, 3), (5, 8)], LABEL2ID)  # the entity ends in a zero-width joiner, say
    assert tagged == ([1, 0], 0, 0)


def test_tags_become_spans():
    tags = ["O", "B-ORG", "I-ORG", "B-ORG", "O", "B-GPE"]
    offsets = [(0, 1), (2, 4), (4, 6), (7, 9), (10, 11), (12, 15)]
    assert tags_to_spans(tags, offsets) == [
        {"start": 2, "end": 6, "label": "ORG", "first": 1, "last": 2},
        {"start": 7, "end": 9, "label": "ORG", "first": 3, "last": 3},
        {"start": 12, "end": 15, "label": "GPE", "first": 5, "last": 5},
    ]


def test_a_piece_within_an_earlier_one_makes_no_entity_shorter():
    (span,) = tags_to_spans(["B-GPE", "I-GPE"], [(0, 3), (1, 2)])
    assert (span["start"], span["end"], span["last"]) == (0, 3, 1)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (["O", "I-ORG"], "'I-ORG' at position 1 follows 'O'"),
        (["B-GPE", "I-ORG"], "follows 'B-GPE'"),
        (["B-GPE", "X"], "is not BIO"),
        (["O", "B-"], "tag 'B-' at position 1 names no entity type"),
    ],
)
def test_wrong_bio_is_refused(tags, message):
    with pytest.raises(ValueError, match=message):
        tags_to_spans(tags, [(0, 1), (2, 3)])


def test_words_are_joined_by_blanks():
    assert join_words(["A", "bc", "d"]) == ("A bc d", [(0, 1), (2, 4), (5, 6)])


# Whatever a user may paste: scripts, emoji, line ends, combining and zero-width characters, very long words.
awkward = st.sampled_from(
    [
        *["\r\n", "\n", "\t", "  ", "\u200b", "\u200d", "\ufeff", "\u0301", "\u0308", "e\u0301", "é", "ß", "İ"],
        *["👩\u200d👩\u200d👧", "🇪🇺", "שלום", "مرحبا", "中文", "ﬁ"],
    ]
)
word = st.one_of(
    st.text(alphabet="abcdefgXYZ0123456789", min_size=1, max_size=8),
    st.text(min_size=1, max_size=6).filter(lambda text: text.isprintable()),
    st.integers(90, 260).map(lambda length: "w" * length),
    awkward,
)
texts = st.lists(st.one_of(word, st.sampled_from([" ", "-", ".", "'s "])), min_size=1, max_size=30).map("".join)


def piece_aligned_spans(draw, offsets: list[tuple[int, int]]) -> list[dict]:
    """Entities that begin and end at piece borders: what the property below is about."""
    pieces = [piece for piece in offsets if piece[0] < piece[1]]
    spans, end = [], 0
    while pieces:
        first = draw(st.integers(0, len(pieces) - 1))
        last = draw(st.integers(first, min(first + 4, len(pieces) - 1)))
        start, stop = pieces[first][0], max(piece[1] for piece in pieces[first : last + 1])
        if start >= end and all(p[1] <= start or p[0] >= start for p in pieces):
            spans.append(span(start, stop, draw(st.sampled_from(["GPE", "ORG"]))))
            end = stop
        pieces = [piece for piece in pieces[last + 1 :] if piece[0] >= end]
        if draw(st.booleans()):
            break
    return spans


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), text=texts)
def test_spans_to_pieces_to_spans_is_the_identity(tokenizer, data, text):
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    spans = piece_aligned_spans(data.draw, offsets)
    tagged = spans_to_tags(spans, offsets, LABEL2ID)
    assert (tagged.num_unaligned, tagged.num_truncated) == (0, 0)
    tags = [LABELS[tag] if tag != IGNORE_INDEX else "O" for tag in tagged.tags]
    assert plain(tags_to_spans(tags, offsets)) == spans


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), text=texts)
def test_any_entity_is_learned_exactly_or_counted(tokenizer, data, text):
    """No entity ever becomes the tags of another stretch of text."""
    if len(text) < 2:
        return
    start = data.draw(st.integers(0, len(text) - 2))
    end = data.draw(st.integers(start + 1, len(text)))
    truncated_at = data.draw(st.integers(3, 12))
    encoding = tokenizer(text, return_offsets_mapping=True, truncation=True, max_length=truncated_at).encodings[0]
    tagged = spans_to_tags([span(start, end)], encoding.offsets, LABEL2ID, truncated=bool(encoding.overflowing))
    found = tags_to_spans([LABELS[max(tag, 0)] for tag in tagged.tags], encoding.offsets)
    assert len(found) + tagged.num_unaligned + tagged.num_truncated == 1
    for entity in found:
        assert start <= entity["start"] < entity["end"] <= end
        covered = {i for a, b in encoding.offsets for i in range(a, b)}
        assert not covered & (set(range(start, end)) - set(range(entity["start"], entity["end"])))


@pytest.fixture(scope="session")
def byte_level_tokenizer():
    """A tokenizer whose offsets count the blank before a word to its first piece, as RoBERTa's kind may."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["[CLS]"])
    tokenizer.train_from_iterator(["Oslo beat Lima in the final"] * 3, trainer)
    return tokenizer


def test_blanks_before_a_word_do_not_break_its_alignment(byte_level_tokenizer):
    text = "Oslo beat Lima  today"
    offsets = byte_level_tokenizer.encode(text).offsets
    assert any(text[start].isspace() for start, end in offsets)
    spans = [span(0, 4), span(10, 14, "ORG")]
    tagged = spans_to_tags(spans, visible_offsets(offsets, text), LABEL2ID)
    assert (tagged.num_unaligned, tagged.num_truncated) == (0, 0)
    tags = [LABELS[max(tag, 0)] for tag in tagged.tags]
    assert plain(tags_to_spans(tags, visible_offsets(offsets, text))) == spans


def decoded(scores: torch.Tensor, offsets: list[tuple[int, int]]) -> list[dict]:
    """The entities that a text of one character for each place gets."""
    text = "x" * max((end for _, end in offsets), default=0)
    (found,) = entities_of([text], [offsets], [scores.log_softmax(dim=-1)], {"labels": LABELS})
    return found


def of_tags(tags: list[str]) -> torch.Tensor:
    return 9.0 * torch.eye(len(LABELS))[[LABEL2ID[tag] for tag in tags]]


@pytest.mark.parametrize(
    ("tags", "offsets", "expected"),
    [
        (["B-ORG", "B-GPE", "I-GPE"], [(0, 1), (0, 1), (1, 2)], [span(0, 1, "ORG"), span(1, 2, "GPE")]),
        (["B-ORG", "B-ORG", "B-ORG"], [(0, 1), (0, 1), (0, 1)], [span(0, 1, "ORG")]),
        (["O", "B-ORG", "I-ORG"], [(0, 1), (0, 1), (1, 2)], [span(1, 2, "ORG")]),
        (["O", "B-ORG", "O"], [(0, 1), (0, 1), (1, 2)], []),
        (["B-ORG", "O", "I-ORG"], [(0, 1), (0, 1), (1, 2)], [span(0, 2, "ORG")]),
        (
            ["B-ORG", "B-GPE", "O"],
            [(0, 1), (0, 2), (2, 3)],
            [span(0, 2, "ORG")],
        ),  # a piece with parts of two characters
        (["B-ORG", "B-ORG", "I-ORG"], [(0, 1), (1, 2), (2, 3)], [span(0, 1, "ORG"), span(1, 3, "ORG")]),
    ],
)
def test_the_first_piece_of_a_character_decides_for_it(tags, offsets, expected):
    assert plain(decoded(of_tags(tags), offsets)) == expected


@st.composite
def shared_offsets(draw) -> list[tuple[int, int]]:
    """Pieces that share characters, in order, as byte-level BPE makes them."""
    offsets, start, end = [], 0, 0
    for _ in range(draw(st.integers(0, 12))):
        start = draw(st.integers(start, end))
        end = max(end, start + draw(st.integers(1, 3)))
        offsets.append((start, end))
    return offsets


@given(shared_offsets(), st.integers(0, 10_000))
def test_entities_are_in_order_and_never_share_a_character(offsets, seed):
    scores = torch.randn(len(offsets), len(LABELS), generator=torch.Generator().manual_seed(seed)) * 3
    found = decoded(scores, offsets)
    borders = [border for entity in found for border in (entity["start"], entity["end"])]
    assert borders == sorted(borders)
    assert all(entity["start"] < entity["end"] and entity["text"] for entity in found)
    assert all(start >= entity["end"] or end <= entity["end"] for entity in found for start, end in offsets)


@given(st.lists(st.sampled_from(LABELS), max_size=12), shared_offsets())
def test_pieces_of_one_character_have_one_answer(tags, offsets):
    tags = (tags + ["O"] * len(offsets))[: len(offsets)]
    decided = list(tags_of_characters(tags, offsets))
    tags_to_spans(decided, offsets)  # raises for tags that are not BIO
    assert list(tags_of_characters(decided, offsets)) == decided


@given(st.integers(0, 10_000))
def test_tags_of_pieces_that_share_no_character_stay_as_they_are(seed):
    scores = torch.randn(1, 6, len(LABELS), generator=torch.Generator().manual_seed(seed))
    names = [LABELS[tag] for tag in decode_tags(scores, torch.ones(1, 6), LABELS)[0].tolist()]
    assert list(tags_of_characters(names, [(place, place + 1) for place in range(6)])) == names


@given(shared_offsets(), st.integers(0, 10_000))
def test_an_entity_that_training_counts_as_right_is_found(offsets, seed):
    """Training compares the tags of all pieces, and right ones are those of whole characters."""
    scores = torch.randn(1, len(offsets), len(LABELS), generator=torch.Generator().manual_seed(seed)) * 3
    names = [LABELS[tag] for tag in decode_tags(scores, torch.ones(1, len(offsets)), LABELS)[0].tolist()]
    found = tags_to_spans(list(tags_of_characters(names, offsets)), offsets)
    for entity in tags_to_spans(names, offsets):
        tagged = spans_to_tags([entity], offsets, LABEL2ID)
        inside = [place for place, tag in enumerate(tagged.tags) if tag > 0]
        if inside == list(range(entity["first"], entity["last"] + 1)):
            assert entity in found


@pytest.mark.parametrize("text", ["日本語のテキスト", "😀 Oslo 👩\u200d🚀 Lima", "é\u0301 x שלום"])
def test_entities_of_a_byte_level_tokenizer_never_share_a_character(byte_level_tokenizer, text):
    visible = visible_offsets(byte_level_tokenizer.encode(text).offsets, text)
    offsets = [(start, end) for start, end in visible if start < end]
    assert any(start < end for (_, end), (start, _) in itertools.pairwise(offsets))
    for seed in range(20):
        scores = torch.randn(len(offsets), len(LABELS), generator=torch.Generator().manual_seed(seed)) * 3
        found = decoded(scores, offsets)
        assert all(after["start"] >= before["end"] for before, after in itertools.pairwise(found))


@pytest.mark.parametrize(
    ("text", "offsets", "expected"),
    [
        ("Orle\u0301, Lima", [(0, 4), (5, 6), (7, 11)], "Orle\u0301"),  # without accents, as uncased BERT reads
        ("\u092e\u0947\u0902 x", [(0, 1), (4, 5)], "\u092e\u0947\u0902"),
        ("\u1109\u1165\u110b\u116e\u11af x", [(0, 1), (2, 3), (6, 7)], "\u1109\u1165"),  # composed, as Qwen reads
        ("\u110b\u116e\u11af", [(0, 1)], "\u110b\u116e\u11af"),
        ("\uff76\uff9e", [(0, 1)], "\uff76\uff9e"),
        ("Lima\u200b\u0301", [(0, 4)], "Lima"),
        ("Lima\u0301", [(0, 4), (4, 5)], "Lima"),  # its tokenizer has a token for the mark
    ],
)
def test_an_entity_has_the_marks_of_its_characters_that_the_tokenizer_has_no_token_for(text, offsets, expected):
    scores = of_tags(["B-ORG"] + ["O"] * (len(offsets) - 1)).log_softmax(dim=-1)
    ((entity,),) = entities_of([text], [offsets], [scores], {"labels": LABELS})
    assert (entity["start"], entity["end"], entity["text"]) == (0, len(expected), expected)


def test_an_entity_that_is_written_with_marks_of_their_own_is_found_as_it_was_marked(tokenizer):
    text = unicodedata.normalize("NFD", "Lüdé á Lima")
    spans = [span(0, 6, "ORG"), span(10, 14)]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = visible_offsets(encoded["offset_mapping"], text)
    tagged = spans_to_tags(spans, offsets, LABEL2ID)
    scores = of_tags([LABELS[tag] for tag in tagged.tags]).log_softmax(dim=-1)
    (found,) = entities_of([text], [offsets], [scores], {"labels": LABELS})
    assert plain(found) == spans


def test_visible_offsets_by_hand():
    assert visible_offsets([(0, 0), (0, 2), (2, 5), (5, 7)], "ab  c \n") == [(0, 0), (0, 2), (4, 5), (7, 7)]


def brute_force(scores: torch.Tensor, labels: list[str]) -> list[int]:
    """The best legal sequence by trying all of them."""
    best, best_score = None, -float("inf")
    log_probs = scores.log_softmax(-1)
    for tags in itertools.product(range(len(labels)), repeat=len(scores)):
        names = ["O", *(labels[tag] for tag in tags)]
        if any(tag[0] == "I" and previous[1:] != tag[1:] for previous, tag in itertools.pairwise(names)):
            continue
        score = sum(log_probs[position, tag].item() for position, tag in enumerate(tags))
        if score > best_score:
            best, best_score = list(tags), score
    return best


@pytest.mark.parametrize("seed", range(20))
def test_decoding_finds_the_best_legal_sequence(seed):
    scores = torch.randn(1, 4, len(LABELS), generator=torch.Generator().manual_seed(seed)) * 3
    assert decode_tags(scores, torch.ones(1, 4), LABELS)[0].tolist() == brute_force(scores[0], LABELS)


def test_decoding_a_batch_of_legal_and_illegal_likeliest_tags_is_decoding_each():
    scores = torch.randn(30, 3, len(LABELS), generator=torch.Generator().manual_seed(0)) * 3
    together = decode_tags(scores, torch.ones(30, 3), LABELS).tolist()
    assert together == [brute_force(row, LABELS) for row in scores]
    same = [tags == row.argmax(dim=-1).tolist() for tags, row in zip(together, scores, strict=True)]
    assert 3 < sum(same) < 27  # both kinds are there


def test_decoding_keeps_special_tokens_and_padding_outside():
    scores = torch.zeros(2, 4, len(LABELS))
    scores[:, :, LABEL2ID["B-ORG"]] = 5.0
    text_mask = torch.tensor([[0, 1, 1, 0], [0, 1, 0, 0]])
    assert decode_tags(scores, text_mask, LABELS).tolist() == [[0, 3, 3, 0], [0, 3, 0, 0]]


def test_an_entity_does_not_continue_across_a_position_outside_the_text():
    scores = torch.zeros(1, 3, len(LABELS))
    scores[0, 0, LABEL2ID["B-ORG"]] = scores[0, 2, LABEL2ID["I-ORG"]] = 9.0
    tags = decode_tags(scores, torch.tensor([[1, 0, 1]]), LABELS)[0].tolist()
    assert tags[:2] == [LABEL2ID["B-ORG"], 0]
    assert tags[2] != LABEL2ID["I-ORG"]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("the Alps", "Alps"),
        ("The Alps 's", "Alps"),
        ("AN Oslo’s", "Oslo"),
        ("a  Lima ' s", "Lima"),
        ("Nimbus's", "Nimbus"),
        ("Nimbus'", "Nimbus'"),
        ("Theo", "Theo"),
        ("Lima 's rain", "Lima 's rain"),
        ("Lima of the", "Lima of the"),
        ("the a Lima", "a Lima"),
        ("the", ""),
        ("The 's", ""),
        ("’s", ""),
    ],
)
@pytest.mark.parametrize("around", ["", "the 's "])
def test_an_article_and_a_possessive_are_taken_off_the_span_alone(text, left, around):
    whole = around + text + around[::-1]
    start, end = without_article_and_possessive(whole, len(around), len(around) + len(text))
    assert whole[start:end] == left


words = st.sampled_from(["the", "The", "a", "an", "'s", "’s", "s", "'", "Lima", "Theo", " ", "  ", "\t"])


@given(st.lists(words, max_size=8).map("".join), st.data())
def test_what_is_taken_off_is_an_article_and_a_possessive_and_nothing_else(text, data):
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    first, last = without_article_and_possessive(text, start, end)
    assert start <= first <= last <= end
    assert text[start:first].strip().lower() in ("", "the", "a", "an")
    assert "".join(text[last:end].split()) in ("", "'s", "’s")


def test_entities_that_are_less_likely_than_asked_become_outside():
    likely = {0: (0.9, 0.1, 0, 0, 0), 1: (0.2, 0.8, 0, 0, 0), 2: (0.3, 0.1, 0.6, 0, 0), 3: (0.4, 0, 0, 0.6, 0)}
    order = [1, 2, 0, 3]  # a GPE of two positions, probable at 0.7 on average; nothing; an ORG, probable at 0.6
    scores = torch.tensor([[likely[key] for key in order], [likely[0]] * 4]).log()
    mask = torch.ones(2, 4)
    tags = decode_tags(scores, mask, LABELS)

    def sure(**settings):
        settings = {"labels": LABELS, **settings}
        return without_doubtful(tags, entity_scores(tags, scores, settings), settings).tolist()

    found = {score: sure(min_score=score)[0] for score in (0, 0.5, 0.65, 0.75)}
    assert found == {0: [1, 2, 0, 3], 0.5: [1, 2, 0, 3], 0.65: [1, 2, 0, 0], 0.75: [0, 0, 0, 0]}
    assert sure(min_score=0.65)[1] == [0, 0, 0, 0]
    assert sure(min_score=0.65, thresholds={"ORG": 0.5})[0] == [1, 2, 0, 3]
    assert sure(thresholds={"GPE": 0.75, "ORG": 0.5})[0] == [0, 0, 0, 3]
    # Platt scaling by hand: the logit of 0.7 is 0.847, and 2 * 0.847 - 1 the logit of 0.668
    scores_of = entity_scores(tags, scores, {"labels": LABELS, "platt": [2.0, -1.0]})
    assert scores_of[0].tolist() == pytest.approx([0.6670, 0.6670, 0.0, 0.4529], abs=1e-4)
    assert sure(min_score=0.66, platt=[2.0, -1.0])[0] == [1, 2, 0, 0]


@pytest.mark.parametrize(
    ("opinions", "together"),
    [
        ([[span(0, 4)]], [span(0, 4)]),
        ([[span(0, 4)], [span(0, 4)]], [span(0, 4)]),
        ([[span(0, 4)], []], [span(0, 4, None)]),
        ([[span(0, 4)], [span(0, 4, "ORG")]], [span(0, 4, None)]),
        ([[span(0, 4), span(4, 6)], [span(2, 5)]], [span(0, 6, None)]),
        ([[span(0, 4)], [span(4, 6)]], [span(0, 4, None), span(4, 6, None)]),
        ([[span(0, 4)], [span(0, 4)], []], [span(0, 4)]),
        ([[span(0, 4)], [span(0, 4)], [span(0, 6)]], [span(0, 4)]),
        ([[span(0, 4)], [], []], []),
        ([[span(0, 4)], [span(0, 4, "ORG")], []], [span(0, 4, None)]),
        ([[span(0, 4, None)], []], [span(0, 4, None)]),
        ([[], []], []),
        ([], []),
    ],
)
def test_spans_that_most_opinions_have_are_kept_and_the_rest_is_left_open(opinions, together):
    assert vote(opinions) == together
