"""Removes the debris of news feeds from texts, without changing clean texts.

Texts in AG News contain backslashes instead of line breaks (`was\\declared`) or before dollar signs, HTML that was
escaped once or twice (`&lt;b&gt;`, `&amp;lt;`), and character references whose ampersand was lost or replaced by a
space (`India #39;s`, ` quot;`).
"""

import html
import re


_REFERENCE = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# References without their ampersand. Other numbers are kept ("ranked #12; she ..."): only the codes of punctuation
# that HTML escapes, and of non-ASCII characters, count as debris.
_BARE_REFERENCE = re.compile(
    r" ?(?<![&;\w])(#0{0,2}(?:34|36|37|38|39|60|62|1[3-9]\d|2\d\d|8[012]\d\d)|#[xX]20[0-9a-fA-F]{2}"
    r"|quot|amp|lt|gt|nbsp|apos|[lr][sd]quo|[mn]dash|hellip);"
)
_ATTRIBUTES = r"(?:\s+[\w:-]+\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s\"'<>]+))*"
_INLINE_TAG = re.compile(
    rf"</?(?:a|b|i|u|em|strong|font|cite|span|small|sub|sup|tt|code|q|nobr){_ATTRIBUTES}\s*/?>", re.IGNORECASE
)
_BLOCK_TAG = re.compile(
    rf"</?(?:br|p|div|img|hr|table|tbody|tr|td|th|ul|ol|li|h[1-6]|blockquote|center|pre){_ATTRIBUTES}\s*/?>",
    re.IGNORECASE,
)
MAX_PASSES = 20  # more layers are no accident, and each pass reads the whole text
_MARKS = str.maketrans("", "", "<>&;\\")
_BLANKS = re.compile(r"\s{2,}")


def clean(text: str) -> str:
    r"""
    Removes feed debris until none is left, so that cleaning is idempotent. Text that is escaped more than `MAX_PASSES`
    times loses all characters that debris consists of.

        >>> clean(r"Reuters - India #39;s bank\paid \$5m to AT amp;T &lt;b&gt;...&lt;/b&gt;")
        "Reuters - India's bank paid $5m to AT&T ..."
    """
    for _ in range(MAX_PASSES):
        if (cleaned := _clean_once(text)) == text:
            return text
        text = cleaned
    return _clean_once(text.translate(_MARKS))


def _clean_once(text: str) -> str:
    text = text.replace("\\$", "$").replace("\\", " ")
    text = _BARE_REFERENCE.sub(lambda match: _character(f"&{match[1]};"), text)
    text = _REFERENCE.sub(lambda match: _character(match[0]), text)
    text = _INLINE_TAG.sub("", text)
    text = _BLOCK_TAG.sub(" ", text)
    return _BLANKS.sub(" ", text).strip()


def _character(reference: str) -> str:
    return html.unescape(reference).replace("\N{NO-BREAK SPACE}", " ")
