"""How the files of a dataset are written, where their format leaves that open."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


WORDS, TAGS = "tokens", "tags"  # the columns of a CoNLL file
TABLES, CONLL = (".csv", ".tsv"), (".bio", ".conll")

Refuse = Callable[[int, str], None]
"""Called with the number of a row (from 0) that cannot be read and the reason. If it returns, the row is empty."""


def raise_error(row: int, reason: str) -> None:
    raise ValueError(reason)


@dataclass(frozen=True)
class FileOptions:
    """
    Args:
        quoting (`bool`, *optional*, defaults to `True` for CSV and `False` for TSV):
            Whether cells that begin with a quotation mark end with one, and may contain delimiters and line breaks.
        conll_columns (`dict`, *optional*, defaults to the first and the last):
            `"tokens"` and `"tags"` → number of the column, from 0; negative numbers count from the last one.
        conll_comments (`bool`, *optional*, defaults to `False`):
            Whether lines in front of a sentence that begin with `#` are comments.
    """

    quoting: bool | None = None
    conll_columns: Mapping[str, int] | None = None
    conll_comments: bool = False

    def __post_init__(self):
        for name in ("quoting", "conll_comments"):
            value = getattr(self, name)
            if not isinstance(value, bool | None):
                raise ValueError(f"'{name}' is {value!r}; it must be true or false.")
        columns = self.conll_columns
        if columns is not None and (
            not isinstance(columns, Mapping)
            or set(columns) != {WORDS, TAGS}
            or not all(type(number) is int for number in columns.values())
        ):
            raise ValueError(
                f"'conll_columns' is {columns!r}; it gives the numbers of two columns, from 0, as "
                f"{{{WORDS}: 1, {TAGS}: -1}}."
            )

    def check(self, path: Path) -> None:
        """Raises `ValueError` for an option that the format of a file does not have."""
        of_formats = {"quoting": TABLES, "conll_columns": CONLL, "conll_comments": CONLL}
        for name, suffixes in of_formats.items():
            if getattr(self, name) not in (None, False) and path.suffix not in suffixes:
                raise ValueError(f"'{name}' is for {' and '.join(suffixes)} files, and {path} is none.")


AS_USUAL = FileOptions()
OPTION_KEYS = ("quoting", "conll_columns", "conll_comments")


def options_of(spec: Mapping[str, Any]) -> FileOptions:
    """The options in the settings of a dataset. Raises `ValueError` for wrong ones."""
    return FileOptions(**{key: spec[key] for key in OPTION_KEYS if key in spec})
