"""Any text as Markdown that shows just that text."""

import re
from collections.abc import Sequence


# What Markdown (as GitHub and the Hub read it) or HTML could take for more than text, wherever it stands in a line.
_MARKUP = re.compile(r"([\\`*_\[\]|~$])")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def plain(text: str) -> str:
    """One line that can be shown anywhere: what cannot be seen (line breaks, controls, bidi marks) is a blank."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def shorten(text: str, num_letters: int) -> str:
    """The beginning of `text`, so long."""
    return text if len(text) <= num_letters else text[: num_letters - 1].rstrip() + "…"


def escape(text: str) -> str:
    """
    Text for the cell of a table, between HTML tags, or for a line behind other words, so that a `#` or `-` is not the
    first thing there: nothing in it works as markup.
    """
    escaped = _MARKUP.sub(r"\\\1", "".join(_HTML.get(letter, letter) for letter in plain(text)))
    return escaped.replace("://", "&#58;//")  # which would become a link by itself


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int = 0) -> str:
    """A table of escaped cells, of which the last `numbers` of each line stand at the right."""
    rules = ["---"] * (len(header) - numbers) + ["---:"] * numbers
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rules, *rows))


def share(part: int, whole: int) -> str:
    """A percentage that is 0 % or 100 % only where it is exactly that."""
    if part in (0, whole) or not whole:
        return "100 %" if part else "0 %"
    return f"{min(max(100 * part / whole, 0.1), 99.9):.1f} %"
