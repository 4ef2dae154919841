"""Adds made-up links to texts, as people add real ones to what they share."""

import base64
import hashlib
from collections.abc import Iterable, Iterator


LINK = "link"  # key of a row's link, which stands after its parts and is not labelled
PREFIX = "http://t.co/"
LETTERS = 10


def with_links(rows: Iterable[dict], share: float) -> Iterator[dict]:
    """
    Yields rows, of which a share has a link. Which rows, and which links, depends on their texts alone.

    Args:
        rows (`Iterable[dict]`): Rows with `parts`.
        share (`float`): The share of rows that get a link, in [0, 1].
    """
    for row in rows:
        digest = hashlib.sha256("\n".join(row["parts"]).encode("utf-8", "surrogatepass")).digest()
        if int.from_bytes(digest[:4], "big") / 2**32 < share:
            row = row | {LINK: PREFIX + _letters(digest[4:])}
        yield row


def _letters(digest: bytes) -> str:
    return "".join(filter(str.isalnum, base64.b64encode(digest).decode()))[:LETTERS]
