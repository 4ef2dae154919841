"""Tests reading CoNLL files whose first column is not the words, and their comments."""

import pytest

from mtsbert.formats.files import read_file
from mtsbert.formats.options import FileOptions


CONLLU = (
    "# sent_id = 1\n# text = Oslo wins\n1\tOslo\tPROPN\tB-GPE\n2\twins\tVERB\tO\n\n1\tWe\tPRON\tO\n2\tdo\tVERB\tO\n"
)
WITHIN = FileOptions(conll_columns={"tokens": 1, "tags": -1}, conll_comments=True)


@pytest.fixture
def write(tmp_path):
    def _write(content: str, name: str = "a.conll"):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        return path

    return _write


def test_columns_and_comments_may_be_chosen(write):
    assert read_file(write(CONLLU), options=WITHIN).to_list() == [
        {"tokens": ["Oslo", "wins"], "tags": ["B-GPE", "O"]},
        {"tokens": ["We", "do"], "tags": ["O", "O"]},
    ]


@pytest.mark.parametrize(
    "content",
    [
        CONLLU,
        CONLLU.replace("# sent_id = 1\n# text = Oslo wins\n", ""),
        "0 Oslo B-GPE\n1 wins O\n\n0 We O\n",
        "1\tOslo\tB-GPE\n1.1\t_\tO\n2-3\twins\tO\n2\two\tO\n",
        "1 O\n2 O\n3 O\n",
    ],
)
def test_numbers_of_words_are_not_taken_for_words(write, content):
    with pytest.raises(
        ValueError, match=r"the first column is the numbers of the words, .*`conll_columns: {tokens: 1"
    ):
        read_file(write(content))


def test_the_name_of_a_document_is_not_taken_for_words(write):
    with pytest.raises(ValueError, match="the first column is the same for all words of a sentence"):
        read_file(
            write("doc/1 0 Oslo B-GPE\ndoc/1 1 wins O\ndoc/1 2 . O\n\ndoc/1 0 We O\ndoc/1 1 do O\n\n" * 4, "a.bio")
        )
    assert len(read_file(write("ha O\nha O\nha O\n"))) == 1


def test_numbers_among_words_are_words(write):
    rows = read_file(write("1 B-CARDINAL\n2 B-CARDINAL\nOslo B-GPE\n\n1 O\n2 O\n"))
    assert rows["tokens"][:] == [["1", "2", "Oslo"], ["1", "2"]]
    assert read_file(write("1 O\n\n2 O\n"))["tokens"][:] == [["1"], ["2"]]


def test_a_word_that_begins_with_a_hash_is_a_word(write):
    rows = read_file(write("#oslo O\nwins O\n"))
    assert rows["tokens"][:] == [["#oslo", "wins"]]
    within = read_file(write("# a comment\nIn O\n#oslo O\n"), options=FileOptions(conll_comments=True))
    assert within["tokens"][:] == [["In", "#oslo"]]


def test_a_line_without_the_chosen_column_is_named(write):
    with pytest.raises(ValueError, match=r"Line 2 of .* has no tag: 'wins'"):
        read_file(write("Oslo NNP B-GPE\nwins\n"), options=FileOptions(conll_columns={"tokens": 1, "tags": 0}))
    broken: dict[int, str] = {}
    content = "1 Oslo B-GPE\n2 wins\n\n1 We O\n"
    rows = read_file(write(content), broken, FileOptions(conll_columns={"tokens": 1, "tags": 2}))
    assert list(broken) == [0]
    assert rows["tokens"][1] == ["We"]
