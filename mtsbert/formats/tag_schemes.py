"""Tags of words in other schemes than BIO, and the text that words make."""

from collections.abc import Sequence

from entities_mtsbert import OUTSIDE


TAG_SCHEMES = ("bio", "iob1", "bioes", "bilou")
IN_BIOES = {"L": "E", "U": "S"}  # the letters of BILOU


def to_bio(tags: Sequence[str], scheme: str) -> list[str]:
    """
    Converts tags of another scheme to BIO. Raises `ValueError` if a tag does not belong to the scheme.

    Args:
        scheme (`str`): `"bio"` (returned unchanged); `"iob1"`, where an entity begins with `I-X`, and with `B-X` only
            directly after another entity of its type; `"bioes"`, where `E-X` is the last position of an entity and
            `S-X` an entity of one position; or `"bilou"`, which calls these `L-X` and `U-X`.
    """
    converted: list[str] = []
    previous = OUTSIDE
    has_ends = scheme in ("bioes", "bilou")
    for position, tag in enumerate(tags):
        prefix, _, entity_type = tag.partition("-")
        if scheme == "bilou":
            prefix = IN_BIOES.get(prefix, prefix if prefix in ("B", "I", OUTSIDE) else "")
        continues = previous[:1] in ("B", "I") and previous[2:] == entity_type
        if scheme == "iob1" and prefix == "I":
            converted.append(f"{'I' if continues else 'B'}-{entity_type}")
        elif has_ends and prefix in ("E", "S"):
            if continues != (prefix == "E"):
                raise ValueError(
                    f"tag {tag!r} at position {position} follows {previous!r}, which is not {scheme.upper()}."
                )
            converted.append(f"{'I' if prefix == 'E' else 'B'}-{entity_type}")
        else:
            if has_ends and previous[:1] in ("B", "I") and not (continues and prefix == "I"):
                raise ValueError(
                    f"tag {tag!r} at position {position} leaves {previous!r} open, which is not {scheme.upper()}."
                )
            converted.append(tag)
        previous = tag
    if has_ends and previous[:1] in ("B", "I"):
        raise ValueError(f"the last tag {previous!r} leaves an entity open, which is not {scheme.upper()}.")
    return converted


def join_words(words: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Joins words with spaces and returns the offsets of each: `["A", "bc"]` → `("A bc", [(0, 1), (2, 4)])`."""
    offsets, position = [], 0
    for word in words:
        offsets.append((position, position + len(word)))
        position += len(word) + 1
    return " ".join(words), offsets
