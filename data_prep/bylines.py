"""Who sent a piece of news, and from where: `AP - Oil ...` below `Oil Climbs (AP)`, and `LONDON (Reuters) - Oil ...`.

A labeller of entities takes such a line for part of the sentence behind it ("AP - Oil" becomes an organisation), so
both are labelled apart; that the sender is an organisation is known without it.
"""

import re
from typing import NamedTuple


_NAME = r"[^()\n]{2,30}"
_SIGNATURE = re.compile(rf" \(({_NAME})\)$")  # behind a title
_DATELINE = re.compile(rf"[^()\n]{{2,40}} \(({_NAME})\) ?--? ?")  # before a description


class Segment(NamedTuple):
    """A stretch of a text that is labelled for itself."""

    start: int
    """Characters of the text before it."""
    text: str
    sender: tuple[int, int] | None = None
    """Where it names the sender, in characters of `text`."""


def segments_of(parts: list[str]) -> list[list[Segment]]:
    """
    The segments of a row's title and description, blanks between them left out.

        >>> segments_of(["Oil Up (AP)", "AP - Oil rose."])
        [[Segment(0, "Oil Up"), Segment(7, "(AP)", (1, 3))], [Segment(0, "AP -", (0, 2)), Segment(5, "Oil rose.")]]
    """
    sender = None
    if len(parts) > 1 and (signature := _SIGNATURE.search(parts[0])):
        if parts[1].startswith(f"{signature[1]} - "):
            sender = signature[1]
    segments = []
    for number, part in enumerate(parts):
        if sender is not None and number == 0:
            at = len(part) - len(sender) - 2
            found = [Segment(0, part[: at - 1]), Segment(at, part[at:], (1, 1 + len(sender)))]
        elif sender is not None and number == 1:
            end = len(sender) + 2
            found = [Segment(0, part[:end], (0, len(sender))), Segment(end + 1, part[end + 1 :])]
        elif dateline := _DATELINE.match(part):
            end = dateline.end()
            found = [Segment(0, part[:end].rstrip(), dateline.span(1)), Segment(end, part[end:])]
        else:
            found = [Segment(0, part)]
        segments.append([segment for segment in found if segment.text.strip()])
    return segments
