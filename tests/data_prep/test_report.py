"""Tests the report of a prepared dataset: its numbers, hostile texts, and that the folder remains a dataset."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value, load_dataset
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from data_prep.figures import MOST_SHOWN
from data_prep.markdown import escape, plain, share, table
from data_prep.report.agreement import (
    LEFT_OPEN,
    NOT_LABELLED,
    agreement_by_type,
    collect_verdicts,
    is_name,
    spelling_conflicts,
)
from data_prep.report.document import main, write_report
from data_prep.report.plots import AGREEMENT, TYPES, draw_types
from data_prep.report.prepared import PreparedDataset, Row
from data_prep.report.stability import ONE_NOT_LABELLED, OTHER_BORDERS, OTHER_TYPE, SAME, compare_copies
from data_prep.report.survey import survey


FEATURES = Features(
    {
        "text": Value("string"),
        "label": ClassLabel(names=["World", "Sports"]),
        "entities": List({"start": Value("int32"), "end": Value("int32"), "label": Value("string")}),
    }
)
HOSTILE = [
    "a | b || c",
    "line\none\r\n\r\n# two\u2028three\u202e\x00",
    "`code` ``` ```js ~~~ ~~gone~~",
    "<script>alert(1)</script> <b> </td></table> &lt;i&gt; &amp; <!-- comment",
    "[link](javascript:alert(1)) ![image](x.png) <https://a.b> [x]: y",
    "**bold** _it_ __it__ \\| \\ $x^2$ \\(y\\)",
    "- item",
    "# heading",
    "1. one",
    "=====",
    "> quote",
]
RENDER = MarkdownIt("commonmark").enable("table").enable("strikethrough")


def mark(text: str, **labels: str | None) -> list[dict]:
    """Entities by their first place in the text, blanks for underscores: `mark("Ada wins", Ada="PERSON")`."""
    spans = []
    for name, label in labels.items():
        start = text.index(name.replace("_", " "))
        spans.append({"start": start, "end": start + len(name), "label": label})
    return sorted(spans, key=lambda span: span["start"])


def write(folder: Path, splits: dict[str, list[tuple]], features: Features = FEATURES) -> Path:
    """Rows are (text, label, entities)."""
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items():
        rows = [dict(zip(features, row, strict=True)) for row in rows]
        columns = {name: [row[name] for row in rows] for name in features}
        Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}.parquet")
    (folder / "README.md").write_text("# News\n")
    return folder


SENTENCES = [
    ("Nimbus opens an office in Lima", {"Nimbus": "ORG", "Lima": "GPE"}),
    ("Shares of Nimbus rise in Oslo", {"Nimbus": "ORG", "Oslo": "GPE"}),
    ("Ada Perez leaves Nimbus for good", {"Ada_Perez": "PERSON", "Nimbus": "PERSON"}),
    ("The lawyers of Nimbus meet in Lima today", {"Lima": "GPE"}),
    ("Nobody has seen the final in Oslo", {"Oslo": None}),
]
NEAR = "The lawyers of Nimbus meet in Lima again"
NEWS = [(text, number % 2, mark(text, **labels)) for number, (text, labels) in enumerate(SENTENCES)]


@pytest.fixture
def prepared(tmp_path) -> Path:
    """Three splits. The sentences stand three times in train; test has one of them and a near copy of another."""
    test = [NEWS[0], (NEAR, 0, mark(NEAR, Nimbus="ORG"))]
    return write(tmp_path / "news", {"train": NEWS * 3, "validation": NEWS[4:], "test": test})


def row(text: str, number: int = 0, **labels: str | None) -> Row:
    return Row(number, "train", text, {}, mark(text, **labels))


def section(report: str, title: str) -> str:
    (found,) = re.findall(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", report, re.MULTILINE | re.DOTALL)
    return found


# Files


def test_with_the_report_in_it_the_folder_loads_as_before(prepared, tmp_path):
    before = load_dataset(str(prepared), cache_dir=str(tmp_path / "before"))
    write_report(prepared)
    after = load_dataset(str(prepared), cache_dir=str(tmp_path / "after"))
    assert list(after) == ["train", "validation", "test"]
    for split, rows in before.items():
        assert after[split].features == rows.features
        assert after[split][:] == rows[:]
    written = sorted(str(path.relative_to(prepared)) for path in prepared.rglob("*") if path.is_file())
    parquet = ["test.parquet", "train.parquet", "validation.parquet"]
    assert written == sorted(["README.md", "report.md", TYPES, AGREEMENT, *parquet])


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_folder_of_one_split_loads_as_before(tmp_path, split):
    folder = write(tmp_path / "news", {split: NEWS * 3})
    write_report(folder)
    assert all((folder / name).is_file() for name in (TYPES, AGREEMENT))
    dataset = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {name: rows["text"][:] for name, rows in dataset.items()} == {split: [text for text, _, _ in NEWS] * 3}


def test_the_same_folder_gives_the_same_bytes_and_pyplot_is_left_alone(prepared, root):
    """In another process too, whose strings have other hashes."""
    files = ["report.md", TYPES, AGREEMENT]
    write_report(prepared)
    first = [(prepared / name).read_bytes() for name in files]
    program = (
        "import sys, data_prep.report.document as report; print('matplotlib' in sys.modules)\n"
        "report.main(['--data', sys.argv[1]]); print('matplotlib.pyplot' in sys.modules)\n"
        "import matplotlib; print(matplotlib.rcParams['font.size'])"
    )
    for path in map(prepared.joinpath, files):
        path.unlink()
    command = [sys.executable, "-c", program, str(prepared)]
    env = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False", str(prepared / "report.md"), "False", "10.0"]
    assert [(prepared / name).read_bytes() for name in files] == first


def test_a_new_report_takes_the_place_of_the_old_one(prepared):
    write_report(prepared)
    old = (prepared / "report.md").read_text()
    write(prepared, {"train": NEWS})
    write_report(prepared)
    assert (prepared / "report.md").read_text() != old


def test_the_pictures_show_something_and_every_one_is_in_the_report(prepared):
    from matplotlib.image import imread

    write_report(prepared)
    assert re.findall(r"!\[.*?\]\((.*?)\)", (prepared / "report.md").read_text()) == [TYPES, AGREEMENT]
    for name in (TYPES, AGREEMENT):
        image = imread(prepared / name)[..., :3]
        assert (image != image[0, 0]).any()


def test_many_types_and_strange_ones_can_be_drawn(tmp_path):
    names = [*HOSTILE, "日本語", *(f"T{number}" for number in range(MOST_SHOWN))]
    counts = [(name, 100 - place) for place, name in enumerate(names)]
    assert draw_types(tmp_path, counts, {}) == TYPES
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["types.png"]


# Figures


def test_entities_are_counted_by_split_and_open_ones_apart(prepared):
    counts = survey(prepared).counts
    assert counts.types["train"] == {"GPE": 9, "ORG": 6, "PERSON": 6, LEFT_OPEN: 3}
    assert counts.types["validation"] == {LEFT_OPEN: 1}
    assert counts.types["test"] == {"GPE": 1, "ORG": 2}
    assert counts.all_types == {"GPE": 10, "ORG": 8, "PERSON": 6}
    assert counts.names_left_open == {"Oslo": 4}
    assert counts.labels["label"]["train"] == {"World": 9, "Sports": 6}
    assert counts.without_entities == {"train": 0, "validation": 0, "test": 0}
    write_report(prepared)
    report = (prepared / "report.md").read_text()
    assert "| GPE | 10 | 41.7 % | 2 | 0.60 | 0.00 | 0.50 |" in section(report, "Entity types")
    assert "3 in train, 1 in validation, 0 in test" in section(report, "Left open")
    assert "| Oslo | 4 |" in section(report, "Left open")
    assert "| World | 9 (60.0 %) | 1 (100 %) | 2 (100 %) |" in section(report, "Rows")


def test_copies_between_splits_are_named_by_their_splits(prepared):
    write_report(prepared)
    lines = section((prepared / "report.md").read_text(), "Texts that stand in the data twice")
    assert "| train | again in train | 15 | 0 | 100 % |" in lines
    assert "| train | in validation | 3 | 0 | 20.0 % |" in lines
    assert "| train | in test | 3 | 3 | 40.0 % |" in lines
    assert "| validation | in train | 1 | 0 | 100 % |" in lines
    assert "| validation | in test | 0 | 0 | 0 % |" in lines
    assert "| test | in train | 1 | 1 | 100 % |" in lines


def test_copies_with_other_labels_are_shown(tmp_path):
    rows = [("Lima wins", 0, []), ("Lima wins", 1, []), ("Lima wins", None, []), ("Oslo loses", 0, [])]
    folder = write(tmp_path / "news", {"train": [*rows, ("Oslo loses", 0, []), NEWS[3]], "test": [(NEAR, 0, [])]})
    conflicts = survey(folder).conflicts["label"]
    assert (conflicts.copied, conflicts.copied_differently) == (2, 1)
    assert (conflicts.near, conflicts.near_differently) == (1, 1)
    assert [pair[:2] for pair in conflicts.pairs] == [(0, 1), (5, 6)]
    assert conflicts.mixed == {("Sports", "World"): 1}
    write_report(folder)
    shown = section((folder / "report.md").read_text(), "Copies with another label")
    assert "| 1.00 | train, World: Lima wins | train, Sports: Lima wins |" in shown


def test_every_verdict_on_a_name_is_counted_where_it_stands_alone():
    rows = [
        row("Nimbus rises", 0, Nimbus="ORG"),
        row("Nimbus falls, and Nimbus's shares too", 1, Nimbus="PERSON"),
        row("Nimbus Labs grows", 2, Nimbus_Labs="ORG"),
        row("Minimbus and nimbus are other words", 3),
        row("Who knows Nimbus?", 4, knows_Nimbus=None),
        row("New  York is large; York is not", 5),
    ]
    verdicts = collect_verdicts(rows, ["Nimbus", "New York", "York", "U.S."])
    assert verdicts["Nimbus"].counts == {"ORG": 1, "PERSON": 1, NOT_LABELLED: 1, LEFT_OPEN: 1}
    assert verdicts["Nimbus"].places[NOT_LABELLED] == (1, 18, 24)
    assert verdicts["Nimbus"].places[LEFT_OPEN] == (4, 10, 16)
    assert verdicts["New York"].counts == {NOT_LABELLED: 1}
    assert verdicts["York"].counts == {NOT_LABELLED: 1}
    assert verdicts["U.S."].counts == {}


def test_a_longer_name_wins_unless_an_entity_begins_inside():
    rows = [row("the New York Times of today", Times_of="ORG")]
    verdicts = collect_verdicts(rows, ["New", "New York", "New York Times"])
    assert {name: dict(verdict.counts) for name, verdict in verdicts.items()} == {
        "New": {},
        "New York": {NOT_LABELLED: 1},
        "New York Times": {},
    }


def test_types_are_ranked_by_how_often_a_name_keeps_them():
    rows = [row("Nimbus", number, Nimbus="ORG" if number < 3 else "PERSON") for number in range(5)]
    rows += [row("Ada", number, Ada="PERSON") for number in range(5, 9)] + [row("Nimbus, Ada, Ada", 9, Ada="PERSON")]
    agreement = agreement_by_type(collect_verdicts(rows, ["Nimbus", "Ada"]))
    assert list(agreement) == ["PERSON", "ORG"]
    assert (agreement["PERSON"].mentions, agreement["PERSON"].usual) == (7, 5)
    assert agreement["PERSON"].instead == [("ORG", 2)]
    assert (agreement["ORG"].mentions, agreement["ORG"].usual, agreement["ORG"].instead) == (3, 3, [])
    assert (agreement["ORG"].not_labelled, agreement["PERSON"].not_labelled) == (1, 1)


def test_names_have_a_capital_or_letters_without_any():
    assert all(map(is_name, ["Oslo", "iPod", "the Alps", "東京", "القاهرة"]))
    assert not any(map(is_name, ["50", "the season", "$5m", "--"]))


def test_spellings_that_differ_in_capitals_and_type_are_found():
    rows = [row("Lima", number, Lima="GPE") for number in range(3)] + [row("LIMA", 3, LIMA="ORG")]
    rows += [row("Oslo", number, Oslo="GPE") for number in range(3)] + [row("OSLO", 3, OSLO="GPE")]
    rows += [row("ROME", number, ROME="ORG") for number in range(5)]
    rows += [row("Rome", number, Rome="GPE") for number in range(4)]
    verdicts = collect_verdicts(rows, ["Lima", "LIMA", "Oslo", "OSLO", "ROME", "Rome"])
    assert spelling_conflicts(verdicts) == [["ROME", "Rome"], ["Lima", "LIMA"]]


def test_names_of_copies_are_compared():
    text = "Ada met Bob in New Lima on Monday with Eve"
    one = row(text, Ada="PERSON", Bob="PERSON", Lima="GPE", Monday="DATE", Eve="PERSON")
    other = row(f"{text} again", 1, Ada="PERSON", Bob="ORG", New_Lima="GPE", Eve=None)
    gone = row("Ada met Zoe", Ada="PERSON", Zoe="PERSON")
    found = compare_copies([(one, other)])
    assert found.counts == {SAME: 1, OTHER_TYPE: 1, ONE_NOT_LABELLED: 1, OTHER_BORDERS: 1}
    assert found.contradictions == {
        OTHER_TYPE: [("Bob", (("PERSON", (0, 8, 11)), ("ORG", (1, 8, 11))))],
        ONE_NOT_LABELLED: [("Monday", (("DATE", (0, 27, 33)), (NOT_LABELLED, (1, 27, 33))))],
    }
    assert compare_copies([(one, gone), (gone, one)]).counts == {SAME: 2}
    assert compare_copies([]).counts == {}


def test_the_least_agreed_names_are_shown_with_a_place_of_each_verdict(prepared):
    found = survey(prepared)
    assert set(found.verdicts) == {"Nimbus", "Lima"}
    assert (found.several_types, found.sometimes_labelled) == (["Nimbus"], ["Lima"])
    assert found.verdicts["Nimbus"].counts == {"ORG": 8, "PERSON": 3, NOT_LABELLED: 3}
    write_report(prepared)
    shown = section((prepared / "report.md").read_text(), "Names of several types")
    assert re.search(
        r"\| Nimbus \| ORG 8: .*<b>Nimbus</b>.*"
        r"<br>\(not labelled\) 3: The lawyers of <b>Nimbus</b> meet in Lima today"
        r"<br>PERSON 3: Ada Perez leaves <b>Nimbus</b> for good \|",
        shown,
    )


def test_names_that_are_found_in_some_places_only_are_shown(tmp_path):
    found = [(f"Lima and Oslo {number}", 0, mark("Lima and Oslo", Lima="GPE", Oslo="GPE")) for number in range(5)]
    missed = [(f"In Lima {number}", 0, []) for number in range(3)]
    folder = write(tmp_path / "news", {"train": found + missed})
    assert survey(folder).sometimes_labelled == ["Lima"]
    write_report(folder)
    report = (folder / "report.md").read_text()
    assert "(not labelled) 3: In <b>Lima</b> " in section(report, "Names that are labelled in some places only")
    assert "| 76.9 % of 13 places where such a name stands |" in report
    assert "| GPE |  | 10 | 100 % | 23.1 % |" in section(report, "Least agreed labels")


def test_where_no_name_is_frequent_nothing_is_compared(tmp_path):
    folder = write(tmp_path / "news", {"train": NEWS[:2]})
    write_report(folder)
    report = (folder / "report.md").read_text()
    assert "is labelled 5 times, so none can be compared" in section(report, "Least agreed labels")
    assert [path.name for path in (folder / "report").iterdir()] == ["types.png"]


def test_texts_without_entities_or_labels_have_a_report_too(tmp_path):
    features = Features({name: FEATURES[name] for name in ("text", "entities")})
    folder = write(tmp_path / "news", {"test": [("Lima wins", []), ("", [])]}, features)
    write_report(folder)
    report = (folder / "report.md").read_text()
    assert "| test | 2 | 4 | 9 | 0.0 | 100 % |" in report
    assert "## Entity types" not in report
    assert not (folder / "report").exists()


# Markdown


@given(st.text() | st.text("|`\\<>&*_[]()#-+=~$!:1. \n\tab"))
def test_an_escaped_text_shows_itself_and_nothing_else(text):
    for markdown in (table(["a", "b"], [[escape(text), "x"]]), f"- x: {escape(text)}", f"x {escape(text)}"):
        tokens = [child for token in RENDER.parse(markdown) if token.type == "inline" for child in token.children]
        assert {token.type for token in tokens} <= {"text", "text_special"}
        shown = "".join(token.content for token in tokens)
        assert plain(text) in shown
    (cells,) = re.findall(
        r"<tbody>\n<tr>(.*?)</tr>", RENDER.render(table(["a", "b"], [[escape(text), "x"]])), re.DOTALL
    )
    assert cells.count("<td>") == 2


def test_hostile_texts_names_and_labels_leave_the_report_whole(tmp_path):
    types = [*HOSTILE, "日本語"]
    features = Features({**FEATURES, "label": ClassLabel(names=HOSTILE), "we|ird `column`": ClassLabel(names=["|"])})
    rows = []
    for number, text in enumerate([text.upper() for text in HOSTILE] * 6):
        start = len(text) - len(text.lstrip())
        name = text.split()[0]
        span = {"start": start, "end": start + len(name), "label": types[number % len(types)]}
        rows.append((f"{text} {number % 12}", number % 7, [span], 0))
    test = [(f"{text} again", *rest) for text, *rest in rows[:9]]
    folder = write(tmp_path / "news", {"train": rows, "test": test}, features)
    write_report(folder)
    report = (folder / "report.md").read_text(encoding="utf-8")
    tables = [block for block in report.split("\n\n") if block.startswith("| ")]
    assert len(tables) > 8
    for title in ("Names of several types", "Copies with another label", "Between splits", "Largest groups"):
        assert section(report, title)
    for block in tables:
        lines = block.split("\n")
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    html = RENDER.render(report)
    assert html.count("<table>") == len(tables)
    assert set(re.findall(r"</?(\w+)", html)) <= {
        *("h1", "h2", "h3", "p", "a", "code", "em", "img", "b", "sub", "br", "ul", "li"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    assert set(re.findall(r'(?:href|src)="([^"]*)"', html)) <= {
        *("#least-agreed-labels", "#the-same-name-in-nearly-the-same-text", TYPES, AGREEMENT),
        "#texts-that-stand-in-the-data-twice",
    }


# Errors


def test_what_is_no_prepared_dataset_is_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"has none of the files train\.parquet, .*; `python -m data_prep` makes such"
    ):
        write_report(tmp_path)
    (tmp_path / "train.parquet").write_text("text")
    with pytest.raises(ValueError, match=r"train\.parquet is not a Parquet file"):
        write_report(tmp_path)
    Dataset.from_dict({"text": ["Oslo"]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"train\.parquet has no columns \['entities'\]; it has \['text'\]"):
        write_report(tmp_path)
    write(tmp_path, {"train": []})
    with pytest.raises(ValueError, match=r"has no rows"):
        write_report(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "train.parquet"]


def test_splits_with_different_labels_are_an_error(prepared):
    write(prepared, {"test": NEWS}, Features({**FEATURES, "label": ClassLabel(names=["World", "Sport"])}))
    with pytest.raises(ValueError, match=r"test\.parquet has the labels .*'Sport'.*Splits of a dataset have the same"):
        PreparedDataset(prepared)


def test_entities_that_do_not_fit_their_text_are_named_by_file_and_row(tmp_path):
    bad = ("Oslo", 0, [{"start": 0, "end": 9, "label": "GPE"}])
    folder = write(tmp_path / "news", {"train": NEWS, "test": [NEWS[0], bad]})
    with pytest.raises(ValueError, match=r"Row 1 of .*test\.parquet: entity .* lies outside the text"):
        write_report(folder)
    assert not (folder / "report.md").exists()


def test_the_command_ends_with_one_line_where_there_is_nothing_to_report(tmp_path, root, warm_python):
    with pytest.raises(ValueError, match=r"has none of the files"):
        main(["--data", str(tmp_path)])
    done = warm_python.run("-m", "data_prep.report", "--data", tmp_path, cwd=root)
    assert done.returncode == 1
    assert re.fullmatch(r"Error: .* has none of the files .*\n", done.stderr)


def test_a_share_of_the_rows_is_a_round_number_only_where_it_is_exact():
    assert [share(0, 9), share(9, 9), share(0, 0)] == ["0 %", "100 %", "0 %"]
    assert [share(1, 100_000), share(99_999, 100_000), share(1, 3)] == ["0.1 %", "99.9 %", "33.3 %"]
