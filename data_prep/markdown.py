"""Escapes texts for Markdown and formats Markdown tables."""

import re
from collections.abc import Sequence


# Characters that Markdown (on GitHub and the Hub) or HTML could interpret as markup anywhere in a line.
_MARKUP = re.compile(r"([\\`*_\[\]|~$])")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def plain(text: str) -> str:
    """Turns a text into a single line. Line breaks and other non-printable characters become spaces."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def shorten(text: str, num_letters: int) -> str:
    """Shortens a text to a maximum number of characters, ending with "…" if it is cut."""
    return text if len(text) <= num_letters else text[: num_letters - 1].rstrip() + "…"


def escape(text: str) -> str:
    """
    Escapes a text so that nothing in it works as markup. The result is meant for a table cell, between HTML tags, or
    after other words: a `#` or `-` at the beginning of a line is not escaped.
    """
    escaped = _MARKUP.sub(r"\\\1", "".join(_HTML.get(letter, letter) for letter in plain(text)))
    return escaped.replace("://", "&#58;//")  # otherwise URLs would become links


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int = 0) -> str:
    """Formats a table of escaped cells. The last `numbers` columns are right-aligned."""
    rules = ["---"] * (len(header) - numbers) + ["---:"] * numbers
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rules, *rows))


def share(part: int, whole: int) -> str:
    """Formats a percentage, which is 0 % or 100 % only if it is exactly that."""
    if part in (0, whole) or not whole:
        return "100 %" if part else "0 %"
    return f"{min(max(100 * part / whole, 0.1), 99.9):.1f} %"
