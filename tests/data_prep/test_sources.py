"""Tests that CSV files of news are read as they were written, or rejected with a clear error."""

import pytest

from data_prep.dataset_card import BuildSummary, dataset_card
from data_prep.sources import open_source


def rows_of(path) -> list[list]:
    return [[row["label"], *row["parts"]] for row in open_source(str(path)).splits["train"]()]


def test_a_byte_order_mark_is_no_part_of_the_first_class(tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes('\ufeff"1","Oslo","wins"\r\n2,Lima,"says ""no"""\r\n'.encode())
    assert rows_of(path) == [[0, "Oslo", "wins"], [1, "Lima", 'says "no"']]


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n\r\n"])
def test_empty_lines_at_the_end_are_no_rows_and_others_are_refused(tmp_path, end):
    (tmp_path / "train.csv").write_bytes(f"1,Oslo,wins{end}".encode())
    assert rows_of(tmp_path / "train.csv") == [[0, "Oslo", "wins"]]
    (tmp_path / "train.csv").write_bytes(f"1,Oslo,wins\n\n\n2,Lima,loses{end}".encode())
    with pytest.raises(ValueError, match=r"Row 2 of .*train.csv is empty; it needs class, title and description"):
        rows_of(tmp_path / "train.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('1,a,b\n1,"a"x,b\n', "Line 2 of .*train.csv cannot be read: .*Is a quotation mark open before it"),
        ('1,a,"b\n2,c,d\n', "Line 2 of .*train.csv cannot be read: unexpected end of data"),
    ],
)
def test_a_quotation_mark_that_is_open_does_not_swallow_rows(tmp_path, content, message):
    (tmp_path / "train.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        rows_of(tmp_path / "train.csv")


def test_a_card_says_whether_titles_were_labelled_apart():
    def card(has_parts: bool) -> str:
        return dataset_card(BuildSummary("a source", "other", ["en_core_web_sm"], "3.8", has_parts=has_parts))

    assert "Title and description were labelled apart" in card(True)
    assert "title and description, joined by a space" in card(True)
    assert "Title and description were labelled apart" not in card(False)
    assert "`text`: the text of the source" in card(False)
    assert "they were labelled together" in card(False)


@pytest.mark.parametrize("name", ["news.csv", "news.xlsx", "owner/news.txt", "./news", "../news-1.5"])
def test_a_path_that_is_not_there_is_no_hub_id(name):
    with pytest.raises(ValueError, match="is neither a file nor a folder, and no Hub id looks like that"):
        open_source(name)


@pytest.mark.parametrize("name", ["nobody/news-1.5", "nobody/news.v2"])
def test_a_hub_id_may_end_in_a_version(name):
    with pytest.raises(ValueError, match=f"{name}.*could not be loaded as a Hub dataset"):
        open_source(name)
