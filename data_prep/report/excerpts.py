"""Formats names, mentions and texts of a dataset in Markdown."""

from ..markdown import escape, plain, shorten
from .agreement import Place
from .prepared import Row


NAME_LETTERS, CONTEXT_LETTERS, TEXT_LETTERS = 60, 55, 240


def cell(text: str) -> str:
    """Formats a name, a type or a label."""
    return escape(shorten(plain(text), NAME_LETTERS))


def beginning(row: Row) -> str:
    return escape(shorten(plain(row.text), TEXT_LETTERS))


def mention_of(rows: dict[int, Row], place: Place) -> str:
    """Formats a mention in bold, with its context."""
    text = rows[place.row].text
    before, mention, after = text[: place.start], text[place.start : place.end], text[place.end :]
    before = ("…" if len(before) > CONTEXT_LETTERS else "") + before[-CONTEXT_LETTERS:]
    after = after[:CONTEXT_LETTERS] + ("…" if len(after) > CONTEXT_LETTERS else "")
    return f"{_blank_kept(before)}<b>{escape(mention)}</b>{_blank_kept(after)}"


def with_entities(row: Row) -> str:
    """Formats a whole text, with entities in bold and their types as subscripts."""
    parts, end = [], 0
    for span in row.entities:
        parts.append(_blank_kept(row.text[end : span["start"]]))
        label = "?" if span["label"] is None else cell(span["label"])
        parts.append(f"<b>{escape(row.text[span['start'] : span['end']])}</b> <sub>{label}</sub>")
        end = span["end"]
    parts.append(_blank_kept(row.text[end:]))
    return "".join(parts).strip()


def _blank_kept(text: str) -> str:
    """Escapes a text and collapses whitespace at either end to a single space."""
    if not (words := escape(text)):
        return " " if text else ""
    return f"{' ' * (plain(text[0]) == '')}{words}{' ' * (plain(text[-1]) == '')}"
