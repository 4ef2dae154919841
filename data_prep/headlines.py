"""Headlines That Capitalise Their Words, written like sentences: a labeller takes capitals for names."""

import re
from collections import Counter
from collections.abc import Iterable


LONG_WORD = 4  # letters; shorter words are written small in many headlines
HEADLINE_SHARE = 0.8  # of the long words behind the first that are capitalised, at least

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_SENTENCE_START = re.compile(r"(?:^|[.:!?\"“(-])\W*$")


class Truecaser:
    """
    Writes headlines as their words are written within sentences.

    Args:
        texts: Where the words' spelling is learned from; headlines among them do not count.
    """

    def __init__(self, texts: Iterable[str]):
        small: Counter[str] = Counter()  # how much more often small than capitalised
        for text in texts:
            if is_headline(text):
                continue
            for match in _WORD.finditer(text):
                word = match[0]
                if not _SENTENCE_START.search(text, max(0, match.start() - 3), match.start()):
                    small[word.lower()] += 1 if word.islower() else -word[0].isupper()
        self._small = frozenset(word for word, number in small.items() if number > 0)

    def __call__(self, text: str) -> str:
        """A text of the same length; only headlines change."""
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
