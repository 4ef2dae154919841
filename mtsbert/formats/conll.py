"""Reads words and their tags: one word per line, and an empty line between sentences."""

import re
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset

from mtsbert.formats.options import TAGS, WORDS, FileOptions, Refuse


DOCUMENT = "-DOCSTART-"
COMMENT = "#"
ENOUGH_NUMBERS, ENOUGH_NAMES = 3, 20  # words of a file, to tell that a column is none

Line = tuple[int, list[str]]  # its number, from 1, and its columns


def read_conll(path: Path, options: FileOptions, refuse: Refuse) -> Dataset:
    """
    Reads a CoNLL file as the columns `tokens` and `tags`, by default its first and its last column.

    Raises:
        `ValueError`: if the first column is taken for words, and holds their numbers or the name of the document.
    """
    sentences = list(_sentences(path, options.conll_comments))
    word, tag = (0, -1) if options.conll_columns is None else (options.conll_columns[name] for name in (WORDS, TAGS))
    if options.conll_columns is None:
        _check_first_column(path, sentences)
    columns: dict[str, list[list[str]]] = {WORDS: [], TAGS: []}
    for row, lines in enumerate(sentences):
        for number, fields in lines:
            has = [-len(fields) <= column < len(fields) for column in (word, tag)]
            if len(fields) < 2 or not all(has) or not fields[word]:
                missing = "tag" if len(fields) < 2 or not has[1] else "word"
                line = " ".join(fields).strip()[:80]
                refuse(row, f"Line {number} of {path} has no {missing}: {line!r}. It needs a word and its tag.")
        cells = [[fields[column] if -len(fields) <= column < len(fields) else "" for _, fields in lines]
                 for column in (word, tag)]  # fmt: skip
        columns[WORDS].append(cells[0])
        columns[TAGS].append([cell.strip() for cell in cells[1]])
    return Dataset.from_dict(columns)


def _sentences(path: Path, has_comments: bool) -> Iterator[list[Line]]:
    lines: list[Line] = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            # Only tabs and spaces separate columns: a word may contain a no-break space.
            fields = line.rstrip("\r\n").split("\t") if "\t" in line else re.split(" +", line.strip(" \r\n"))
            if not line.strip() or fields[0] == DOCUMENT:
                if lines:
                    yield lines
                lines = []
            elif lines or not has_comments or not line.startswith(COMMENT):
                lines.append((number, fields))
    if lines:
        yield lines


def _check_first_column(path: Path, sentences: list[list[Line]]) -> None:
    first = [[fields[0] for _, fields in lines] for lines in sentences]
    num_words, longest = sum(map(len, first)), max(map(len, first), default=0)
    if num_words >= ENOUGH_NUMBERS and longest > 1 and all(_are_numbers(column) for column in first):
        kind = "the numbers of the words"
    elif num_words >= ENOUGH_NAMES and longest > 2 and all(len(set(column)) == 1 for column in first):
        kind = "the same for all words of a sentence, as the name of a document"
    else:
        return
    raise ValueError(
        f"{path}: the first column is {kind}, and not the words ({' '.join(first[0][:4])} …). Say which columns to "
        f"read, counted from 0, such as `conll_columns: {{{WORDS}: 1, {TAGS}: -1}}`, and `conll_comments: true` if "
        "lines that begin with # are comments."
    )


def _are_numbers(column: list[str]) -> bool:
    """Whether a column counts the words of its sentence from 0 or 1; CoNLL-U also has ranges (`3-4`, `3.1`)."""
    words = [cell for cell in column if not cell.startswith(COMMENT) and not re.fullmatch(r"\d+[-.]\d+", cell)]
    return bool(words) and any(words == [str(start + place) for place in range(len(words))] for start in (0, 1))
