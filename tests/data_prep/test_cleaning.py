"""Tests that feed debris is removed and clean text is not changed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.cleaning import clean
from data_prep.sources import SAMPLE_FILE


@pytest.mark.parametrize(
    ("debris", "cleaned"),
    [
        ("the campaign was\\declared over", "the campaign was declared over"),
        ("sales\\\\of oil", "sales of oil"),
        ("a \\$60,000 prize", "a $60,000 prize"),
        ("bids  #36;29 bn", "bids $29 bn"),
        ("euros ( #36;32.8 million)", "euros ($32.8 million)"),
        ("India #39;s bank", "India's bank"),
        ("#39;Simple as that #39;", "'Simple as that'"),
        ("was  quot;highly favourable quot; and", 'was "highly favourable" and'),
        ("quot;No quot;, he said", '"No", he said'),
        ("S amp;P and AT amp;T, Tiffany  amp; Co.", "S&P and AT&T, Tiffany & Co."),
        ("the telescope  #151; or what is left", "the telescope — or what is left"),
        ("you #146;ve", "you’ve"),
        ("Google rsquo;s founders hellip;", "Google’s founders…"),
        ("a mystery #x2014;what", "a mystery—what"),
        ("Sept. 8  #0151; A capsule", "Sept. 8 — A capsule"),
        ("goes &lt;b&gt;...&lt;/b&gt;", "goes ..."),
        ("&amp;lt;b&amp;gt;bold&amp;lt;/b&amp;gt;", "bold"),
        ("M&amp;amp;A, R&amp;D", "M&A, R&D"),
        ('Corp. &lt;A HREF="http://a.example/q?t=E target=/x"&gt;E.N&lt;/A&gt; said', "Corp. E.N said"),
        ('end. &lt;FONT face="a,b" size="-2"\\ color="#6"&gt;&lt;B&gt;-Post&lt;/B&gt;&lt;/FONT&gt;', "end. -Post"),
        ("one<br>two<br />three<p>four", "one two three four"),
        ("<nobr>Factor Network</nobr>", "Factor Network"),
        ("two  blanks \t here ", "two blanks here"),
        ("a&nbsp;b #160;c", "a b c"),
    ],
)  # fmt: skip
def test_debris_is_removed(debris, cleaned):
    assert clean(debris) == cleaned


@pytest.mark.parametrize(
    "text",
    [
        "The U.S. failed to persuade the agency's board.",
        "AT&T and R&D cost $5; nobody knew (#1).",
        "Ranked #12; she moved up to #4; then he won.",
        "2 < 3 and 5 > 4, x<b and y>z",
        "Kmart Corp. <KMRT.O> said on Monday",
        "Line one\nline two",
        "Zoë paid €30 – “too much”, said Łukasz… 50% off!",
        "Salt & pepper; the amplifier; an example.",
        "price;quote;lt. Smith",
    ],
)
def test_clean_text_is_not_touched(text):
    assert clean(text) == text


def test_no_item_of_the_news_sample_is_changed():
    with SAMPLE_FILE.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            assert [clean(row["title"]), clean(row["description"])] == [row["title"], row["description"]]


debris = st.sampled_from(
    [
        *["&amp;", "&lt;", "&gt;", " #39;", "#36;", " quot;", "amp;", "lt;", "&#", "; "],
        *["\\", "\\$", "<b>", "</b>", "<br/>", "  ", "x"],
    ]
)


@given(st.lists(st.one_of(debris, st.text(max_size=4)), max_size=20).map("".join))
def test_cleaning_twice_is_cleaning_once(text):
    assert clean(clean(text)) == clean(text)


@given(st.text(alphabet="abcdefghijklmnop XYZ0123456789.,:'\"()%$-é–", max_size=80))
def test_ordinary_text_only_loses_doubled_and_outer_blanks(text):
    assert clean(text) == " ".join(text.split())


def test_a_long_run_of_debris_takes_no_long_time():
    assert clean("<a " * 20_000 + "&amp;" * 20_000) != ""


@pytest.mark.parametrize("debris", ["&" + "amp;" * 30, "<" * 30 + "b>" * 30, "&#38;" + "#38;" * 30])
def test_debris_in_debris_takes_no_long_time(debris):
    cleaned = clean(f"Oil {debris} falls")
    assert cleaned.startswith("Oil ")
    assert cleaned.endswith(" falls")
    assert not set(cleaned) & set("<>&;")  # without an end after MAX_PASSES, they would all be gone, but late
    assert clean(cleaned) == cleaned


@pytest.mark.real_data
def test_almost_no_debris_is_left_in_ag_news(real_data):
    import csv
    import re

    leftover = re.compile(
        r"\\|&(?:lt|gt|amp|quot|#\d+);|#(?:36|39|151|146);|\bquot;|</?(?:b|a|font|p|br)\b[^>]*>", re.I
    )
    with (real_data / "ag_news" / "train.csv").open(encoding="utf-8", newline="") as lines:
        texts = [text for row in csv.reader(lines) for text in row[1:]]
    assert sum(bool(leftover.search(text)) for text in texts) > 5_000
    assert sum(bool(leftover.search(clean(text))) for text in texts) == 0
