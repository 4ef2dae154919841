"""Tests what is read of tokens: their states, their words, and how these are written."""

import shutil

import numpy as np
import pytest
import torch

from modeling_mtsbert import MTSBertModel
from mtsbert.adapters.lora import add_adapters
from mtsbert.adapters.saved import save_alone
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.auditing import encoder
from mtsbert.auditing.encoder import Tokens, load_encoder, read_tokens, words_of, writing
from tests.conftest import ROWS


TEXTS = [text for text, _, _ in ROWS]


@pytest.fixture(scope="module")
def pipeline(encoder_folder):
    return load_encoder(str(encoder_folder))


@pytest.fixture(scope="module")
def tokens(pipeline) -> Tokens:
    return read_tokens(pipeline, TEXTS, precision="fp32")


def test_a_checkpoint_in_a_package_is_opened(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "weights_of_ours").mkdir()
    (tmp_path / "weights_of_ours" / "__init__.py").touch()
    shutil.copytree(checkpoint, tmp_path / "weights_of_ours" / "model")
    monkeypatch.syspath_prepend(tmp_path)
    found = read_tokens(load_encoder("package:weights_of_ours/model"), TEXTS, precision="fp32")
    expected = read_tokens(load_encoder(str(checkpoint)), TEXTS, precision="fp32")
    assert found.features == pytest.approx(expected.features, abs=2e-3)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning:transformers")  # peft's
def test_an_adapter_is_opened_on_its_checkpoint_and_warned_of(checkpoint, tokenizer, tmp_path, caplog):
    model = MTSBertModel.from_pretrained(checkpoint).eval()
    add_adapters(model, MTLTrainingArguments("unused", lora_r=4))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    save_alone(model, tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    found = read_tokens(load_encoder(str(tmp_path / "adapter")), TEXTS, precision="fp32")
    assert f"If {tmp_path / 'adapter'} was trained on these rows" in caplog.text
    expected = read_tokens(model.eval().as_pipeline(tokenizer), TEXTS, precision="fp32")
    assert found.features == pytest.approx(expected.features, abs=2e-3)
    of_checkpoint = read_tokens(load_encoder(str(checkpoint)), TEXTS, precision="fp32")
    assert not found.features == pytest.approx(of_checkpoint.features, abs=2e-1)


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


def test_many_texts_are_read_some_at_a_time(pipeline, tokens, monkeypatch):
    monkeypatch.setattr(encoder, "TEXTS_PER_CALL", 3)
    some = read_tokens(pipeline, TEXTS, precision="fp32")
    for name in ("text", "spans", "words"):
        assert (getattr(some, name) == getattr(tokens, name)).all(), name
    assert some.features == pytest.approx(tokens.features, abs=2e-3)
    assert read_tokens(pipeline, ["Lima", "Oslo"], precision="fp32").words.tolist() == [1, 2]


def test_a_text_without_tokens_has_none(pipeline):
    tokens = read_tokens(pipeline, ["Lima", "\u200b", "Oslo"], precision="fp32")
    assert [place.stop - place.start for place in tokens.of_texts(3)] == [1, 0, 1]
    assert np.issubdtype(tokens.spans.dtype, np.integer)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Nokia's 5G, e_f", ["Nokia", "s", "5G", "e", "f"]),
        ("Việt Nam, Ἀθῆναι 한국", ["Việt", "Nam", "Ἀθῆναι", "한국"]),
        ("Vie\u0323\u0302t हिन्दी", ["Vie\u0323\u0302t", "हिन्दी"]),  # marks are parts of words
        ("東京のAB ไทย", ["東", "京", "の", "AB", "ไ", "ท", "ย"]),
        ("", []),
    ],
)
def test_words_are_runs_of_letters_or_characters_of_a_script_without_spaces(text, words):
    assert [text[start:end] for start, end in words_of(text)] == words


@pytest.mark.parametrize(
    ("text", "spans", "starts"),
    [
        ("Nokia 5", [(0, 2), (2, 5), (6, 7)], [0, 0, 6]),
        ("don't", [(0, 3), (3, 4), (4, 5)], [0, 3, 4]),
        ("東京都", [(0, 1), (1, 2), (2, 3)], [0, 1, 2]),  # written without spaces: each character is a word
    ],
)
def test_tokens_of_one_word_start_where_it_does(text, spans, starts):
    assert writing(text, words_of(text), np.array(spans))[0].tolist() == starts


def test_how_words_are_written_is_seen_beside_each_token():
    text, spans = "NATO and Oslo, 5G", np.array([(0, 2), (2, 4), (5, 8), (9, 13), (13, 14), (15, 17)])
    _, written = writing(text, words_of(text), spans)
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
