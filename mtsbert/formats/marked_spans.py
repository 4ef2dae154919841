"""Compares spans with what the tool that wrote them says of them: the words that were marked, and their column."""

from itertools import accumulate


BORDERS = ("start", "end")


def in_characters(spans: list[dict], text: str, column: str) -> list[dict]:
    """
    Returns spans with offsets in characters. If the words that spans have as their own `"text"` stand only at their
    offsets in UTF-16 code units, in which tools in JavaScript count, all offsets are read as these.

    Args:
        spans (`list[dict]`): Spans with `start` and `end`.
        text (`str`): The text.
        column (`str`): Its column, which is the `"to_name"` of spans that have one.

    Raises:
        `ValueError`: for spans of another column, and for words that stand at neither place. Whitespace is not
            compared: tools trim it, and Label Studio writes a line break as the two characters `\\n`.
    """
    if any(type(span[border]) is not int for span in spans for border in BORDERS):
        return spans  # `check_spans` refuses them
    for span in spans:
        if span.get("to_name") not in (None, column):
            raise ValueError(f"entity {span} was marked in {span['to_name']!r}; the texts are those of {column!r}.")
    wrong = next((span for span in spans if not _fits(span, text)), None)
    if wrong is None:
        return spans
    characters = _places_in_utf16(text)
    converted = [span | {border: characters.get(span[border], -1) for border in BORDERS} for span in spans]
    if all(span["start"] >= 0 <= span["end"] and _fits(span, text) for span in converted):
        return converted
    found = text[wrong["start"] : wrong["end"]]
    raise ValueError(
        f"entity {wrong} marks {wrong['text']!r}, and {found!r} stands there. Offsets count characters of this text; "
        "those of tools in JavaScript often count UTF-16 code units, of which an emoji has two."
    )


def _fits(span: dict, text: str) -> bool:
    words = span.get("text")
    if not isinstance(words, str) or not words.strip():
        return True  # nothing to compare
    return _words_of(text[span["start"] : span["end"]]) == _words_of(words)


def _words_of(text: str) -> list[str]:
    return text.replace("\\n", "\n").split()


def _places_in_utf16(text: str) -> dict[int, int]:
    """Maps the UTF-16 code units at which characters begin, or the text ends, to the numbers of these characters."""
    units = accumulate((2 if character > "\uffff" else 1 for character in text), initial=0)
    return {unit: number for number, unit in enumerate(units)}
