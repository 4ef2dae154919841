"""A tokenizer that keeps capital letters, made from one that does not."""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import PreTrainedTokenizerBase


LOWER, CAPITALISED, CAPITALS = range(3)  # how a word is written

TOKENIZER_FILE, CONFIG_FILE, WORDS_FILE = "tokenizer.json", "tokenizer_config.json", "vocab.txt"


def with_letter_case(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """
    Returns a tokenizer that knows every word of another one also capitalised and in capitals, after the ids that it
    has. It cuts a text where the other one does, but for words like "McDonald" and "eBay".

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            A fast tokenizer of word pieces, as BERT's, that lowers its text; or one of this function, which is
            returned as it is.

    Raises:
        `ValueError`: for any other tokenizer.
    """
    if keeps_letter_case(tokenizer):
        return tokenizer
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    _check(parts, tokenizer)
    first = max(tokenizer.get_vocab().values()) + 1
    missing = [form for _, form, _ in _cased_forms(parts) if form not in parts["model"]["vocab"]]
    parts["model"]["vocab"] |= {form: first + index for index, form in enumerate(missing)}
    parts["normalizer"] |= {"lowercase": False, "strip_accents": strips_accents(parts["normalizer"])}
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        _write(Path(folder), parts)
        wide = type(tokenizer).from_pretrained(folder)
    wide.name_or_path = tokenizer.name_or_path
    return wide


def keeps_letter_case(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer is one of [`with_letter_case`]: it leaves letters as they are, and has all words thrice."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    if not _is_of_word_pieces(parts) or parts["normalizer"]["lowercase"]:
        return False
    return all(form in parts["model"]["vocab"] for _, form, _ in _cased_forms(parts))


def lowers_letters(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether [`with_letter_case`] takes a tokenizer."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    return _is_of_word_pieces(parts) and parts["normalizer"]["lowercase"]


def cased_words(tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, int, int]]:
    """
    Lists the words that [`with_letter_case`] has added to a tokenizer: their id, that of the word in lower case, and
    how they are written.
    """
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = parts["model"]["vocab"]
    found = ((vocabulary.get(form), vocabulary[word], way) for word, form, way in _cased_forms(parts))
    return [(id_, *others) for id_, *others in found if id_ is not None]


def _cased_forms(parts: dict) -> Iterator[tuple[str, str, int]]:
    """Yields the words in lower case, in the order of their ids, with another form that they have, and which it is."""
    vocabulary, prefix = parts["model"]["vocab"], parts["model"]["continuing_subword_prefix"]
    left_alone = {token["content"] for token in parts["added_tokens"]}
    for word in sorted(vocabulary, key=vocabulary.get):
        if word in left_alone:
            continue
        inner = word.removeprefix(prefix)
        before = word[: len(word) - len(inner)]
        forms = [inner[:1].upper() + inner[1:], inner.upper()]
        if any(form == inner or form.lower() != inner or len(form) != len(inner) for form in forms):
            continue  # it has capital letters already, or no letter that has a capital
        for form, way in zip(dict.fromkeys(forms), (CAPITALISED, CAPITALS), strict=False):
            yield word, before + form, way


def strips_accents(normalizer: dict) -> bool:
    """Whether BERT's normalizer strips accents. If it does not say, it does so where it lowers letters."""
    return normalizer["lowercase"] if normalizer["strip_accents"] is None else normalizer["strip_accents"]


def _is_of_word_pieces(parts: dict) -> bool:
    return _kinds(parts) == ["BertNormalizer", "WordPiece"]


def _kinds(parts: dict) -> list[str | None]:
    return [(parts[name] or {}).get("type") for name in ("normalizer", "model")]


def _check(parts: dict, tokenizer: PreTrainedTokenizerBase) -> None:
    if not _is_of_word_pieces(parts):
        normalizer, model = _kinds(parts)
        raise ValueError(
            f"`letter_case` needs a tokenizer of word pieces, as BERT's; {type(tokenizer).__name__} is made of "
            f"{normalizer} and {model}."
        )
    if not parts["normalizer"]["lowercase"]:
        raise ValueError(
            f"`letter_case`: {tokenizer.name_or_path!r} reads capital letters already; leave the setting out."
        )


def _write(folder: Path, parts: dict) -> None:
    """Changes the files of a tokenizer."""
    (folder / TOKENIZER_FILE).write_text(json.dumps(parts, ensure_ascii=False), encoding="utf-8")
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    config |= {"do_lower_case": False, "strip_accents": parts["normalizer"]["strip_accents"]}
    (folder / CONFIG_FILE).write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
    if (folder / WORDS_FILE).exists():
        vocabulary = parts["model"]["vocab"]
        (folder / WORDS_FILE).write_text("\n".join(sorted(vocabulary, key=vocabulary.get)) + "\n", encoding="utf-8")
