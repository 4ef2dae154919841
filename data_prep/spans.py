"""Merges the spans that several annotators found in the same text, and moves borders that conventions differ on."""

import re
from collections import Counter
from collections.abc import Sequence


_ARTICLE = re.compile(r"(?:the|an|a)(?:\s+|$)", re.IGNORECASE)
_POSSESSIVE = re.compile(r"\s*['’]\s?s$", re.IGNORECASE)


def without_article_and_possessive(text: str, start: int, end: int) -> tuple[int, int]:
    """Moves the borders of a span past a leading article and a final `'s`: `("In the Alps's", 3, 13)` → `(7, 11)`."""
    if article := _ARTICLE.match(text, start, end):
        start = article.end()
    if possessive := _POSSESSIVE.search(text, start, end):
        end = possessive.start()
    return start, end


def vote(opinions: Sequence[Sequence[dict]]) -> list[dict]:
    """
    Merges several annotations of the same text: keeps the spans that more than half of them contain. Where at least
    half of them have a span, but not the same one, a span with the label None marks that the annotators disagree.
    """
    votes = Counter((span["start"], span["end"], span["label"]) for spans in opinions for span in spans)
    kept = {mark for mark, number in votes.items() if 2 * number > len(opinions)}
    stretches: list[list] = []  # start, end, who has a span in it
    others = [
        (span["start"], span["end"], who)
        for who, spans in enumerate(opinions)
        for span in spans
        if not any(span["start"] < end and start < span["end"] for start, end, _ in kept)
    ]
    for start, end, who in sorted(others):
        if stretches and start < stretches[-1][1]:
            stretches[-1][1] = max(stretches[-1][1], end)
            stretches[-1][2].add(who)
        else:
            stretches.append([start, end, {who}])
    kept |= {(start, end, None) for start, end, voters in stretches if 2 * len(voters) >= len(opinions)}
    return [{"start": start, "end": end, "label": label} for start, end, label in sorted(kept, key=lambda m: m[:2])]
