"""Rewrites Headlines That Capitalise Their Words in sentence case, so that labellers do not take words for names."""

import re
from collections import Counter
from collections.abc import Iterable


LONG_WORD = 4  # characters; many headlines do not capitalise shorter words
HEADLINE_SHARE = 0.8  # minimum share of capitalised words among the long words after the first word

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_SENTENCE_START = re.compile(r"(?:^|[.:!?\"“(-])\W*$")


class Truecaser:
    """
    Rewrites headlines with the capitalisation that their words have within sentences.

    Args:
        texts (`Iterable[str]`): Texts to learn the capitalisation from. Headlines among them are ignored.

    Example:

        >>> Truecaser(["Shares fell sharply in Lima when the markets closed."])("Markets Fell Sharply In Lima")
        'Markets fell sharply in Lima'
    """

    def __init__(self, texts: Iterable[str]):
        small: Counter[str] = Counter()  # how much more often a word is lowercase than capitalised
        for text in texts:
            if is_headline(text):
                continue
            for match in _WORD.finditer(text):
                word = match[0]
                if not _SENTENCE_START.search(text, max(0, match.start() - 3), match.start()):
                    small[word.lower()] += 1 if word.islower() else -word[0].isupper()
        self._small = frozenset(word for word, number in small.items() if number > 0)

    def __call__(self, text: str) -> str:
        """Returns a text of the same length. Only headlines are changed."""
        return _WORD.sub(self._spell, text) if is_headline(text) else text

    def _spell(self, match: re.Match) -> str:
        word, small = match[0], match[0].lower()
        is_acronym = len(word) > 1 and word.isupper()
        if match.start() == 0 or is_acronym or small not in self._small or len(small) != len(word):
            return word
        return small


def is_headline(text: str) -> bool:
    words = [match[0] for match in _WORD.finditer(text)][1:]
    long_words = [word for word in words if len(word) >= LONG_WORD]
    if len(long_words) < 2:
        return False
    return sum(word[0].isupper() for word in long_words) > HEADLINE_SHARE * len(long_words)
