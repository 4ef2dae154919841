"""Reads texts with a pretrained encoder, without fine-tuning."""

import logging
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from configuration_mtsbert import MTSBertConfig
from mtsbert.machine import autocast
from mtsbert.network.adapters import base_of
from mtsbert.network.embedders import plain_encoder
from mtsbert.network.starting_point import pipeline_of_checkpoint, resolve_name
from pipeline_mtsbert import MTSBertPipeline


TEXTS_PER_CALL = 1_000
WINDOWS_PER_BATCH = 32
# Scripts without spaces between words: Thai and Lao, Burmese, Khmer, kana and Chinese characters.
UNSPACED = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF))
UNSPACED += ((0x20000, 0x3FFFF),)

logger = logging.getLogger(__name__)


def load_encoder(name_or_path: str) -> MTSBertPipeline:
    """
    Loads a pretrained encoder with mean pooling, or an mtsbert checkpoint, which may be an adapter.

    Raises:
        `ValueError`: if there is none.
    """
    path = resolve_name(name_or_path)
    if base_of(path) is None:  # an adapter has no config of its own
        try:
            settings, _ = MTSBertConfig.get_config_dict(path)
        except OSError as error:
            raise ValueError(f"No encoder found under {name_or_path!r}: {error}") from error
        if settings.get("model_type") != MTSBertConfig.model_type:
            return plain_encoder(name_or_path)
    logger.warning(f"If {name_or_path} was trained on these rows, it knows their labels, and finds fewer mistakes.")
    return pipeline_of_checkpoint(path)


def embed(pipeline: MTSBertPipeline, texts: list[str], *, precision: str = "auto") -> np.ndarray:
    """Returns the normalized sentence embeddings, `(N, H)`. `precision` is `"auto"`, `"fp32"` or `"bf16"`."""
    rows: list[np.ndarray] = []
    with autocast(pipeline.device, precision), tqdm(total=len(texts), desc="Embedding", unit="text") as progress:
        for first in range(0, len(texts), TEXTS_PER_CALL):
            answers = pipeline(texts[first : first + TEXTS_PER_CALL], tasks=[], return_embeddings="numpy")
            rows += [answer["embedding"] for answer in answers]
            progress.update(len(answers))
    embeddings = np.stack(rows)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


@dataclass(frozen=True)
class Tokens:
    """The tokens of several texts, one text after another."""

    text: np.ndarray
    """`(T,)`: the index of the text."""
    spans: np.ndarray
    """`(T, 2)`: start and end in characters of the text."""
    words: np.ndarray
    """`(T,)`: the same number for neighbouring tokens that are parts of one word."""
    features: np.ndarray
    """`(T, F)`, float16: states of the first, the middle and the last layer, then how words are written."""

    def of_texts(self, num_texts: int) -> list[slice]:
        """Where the tokens of each text are."""
        ends = np.searchsorted(self.text, np.arange(num_texts), side="right")
        return [slice(*pair) for pair in zip([0, *ends[:-1]], ends, strict=True)]


def read_tokens(pipeline: MTSBertPipeline, texts: list[str], *, precision: str = "auto") -> Tokens:
    """Reads all tokens of the texts; longer ones in windows, as the pipeline does. `precision` as in [`embed`]."""
    parts: list[tuple[np.ndarray, ...]] = []
    with autocast(pipeline.device, precision), tqdm(total=len(texts), desc="Reading", unit="text") as progress:
        for first in range(0, len(texts), TEXTS_PER_CALL):
            some = texts[first : first + TEXTS_PER_CALL]
            windows = pipeline.preprocess(some)
            states, words = dict(_states(pipeline, windows)), list(map(words_of, some))
            for number, window in enumerate(windows):
                spans = np.array([window["offsets"][place] for place in window["own"]], dtype=np.int64).reshape(-1, 2)
                starts, written = writing(some[window["text"]], words[window["text"]], spans)
                of_text = np.full(len(spans), first + window["text"])
                parts.append((of_text, spans, starts, np.concatenate([states[number], written], axis=1)))
            progress.update(len(some))
    of_text, spans, starts, features = map(np.concatenate, zip(*parts, strict=True))
    begins = (np.diff(of_text, prepend=-1) != 0) | (np.diff(starts, prepend=-1) != 0)
    return Tokens(of_text, spans, np.cumsum(begins), features)


@torch.inference_mode()
def _states(pipeline: MTSBertPipeline, windows: list[dict]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the number of each window and the states of its own tokens, `(T, 3 H)`."""
    order = sorted(range(len(windows)), key=lambda number: len(windows[number]["inputs"]["input_ids"]))
    for first in range(0, len(order), WINDOWS_PER_BATCH):
        numbers = order[first : first + WINDOWS_PER_BATCH]
        inputs = pipeline.tokenizer.pad(
            [windows[number]["inputs"] for number in numbers], padding_side="right", return_tensors="pt"
        )
        output = pipeline.model.encoder(**inputs.to(pipeline.device), output_hidden_states=True, return_dict=True)
        layers = output.hidden_states
        states = torch.cat([layers[1], layers[len(layers) // 2], layers[-1]], dim=-1).half().cpu()
        for place, number in enumerate(numbers):
            yield number, states[place, windows[number]["own"]].numpy()


def words_of(text: str) -> list[tuple[int, int]]:
    """Start and end of the words: letters, digits and marks in a row; in a script without spaces, each by itself."""
    words, start = [], None
    for place, character in enumerate(text + " "):
        is_part = character.isalnum() or unicodedata.category(character).startswith("M")
        is_word = is_part and any(first <= ord(character) <= last for first, last in UNSPACED)
        if start is not None and (is_word or not is_part):
            words.append((start, place))
            start = None
        if is_word:
            words.append((place, place + 1))
        elif is_part and start is None:
            start = place
    return words


def writing(text: str, words: list[tuple[int, int]], spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Looks at the word that each token begins in.

    Args:
        text (`str`): The text.
        words (`list[tuple[int, int]]`): Its words, see [`words_of`].
        spans (`np.ndarray`): `(T, 2)`: start and end of the tokens.

    Returns:
        Where the word starts `(T,)`; and how it is written, which an encoder of lower-case words does not see, as
        zeros and ones `(T, 15)` in float16: with a capital, in capitals, with a digit, in lower case, or not a word
        at all; for the token, the one before and the one after it.
    """
    begins = np.array([start for start, _ in words], dtype=np.int64)
    nearest = np.searchsorted(begins, spans[:, 0], side="right") - 1
    starts, own = spans[:, 0].copy(), np.zeros((len(spans) + 2, 5), dtype=np.float16)
    for number, place in enumerate(nearest):
        word = ""
        if place >= 0 and spans[number, 0] < words[place][1]:
            word, starts[number] = text[slice(*words[place])], words[place][0]
        digit = any(character.isdigit() for character in word)
        own[number + 1] = (word[:1].isupper(), word.isupper(), digit, word.islower(), not word)
    return starts, np.concatenate([own[1:-1], own[:-2], own[2:]], axis=1)
