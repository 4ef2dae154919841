"""Tests scoring entities against gold: what counts as right, what is left out, and the intervals."""

import json

import numpy as np
import pytest
import torch

from mtsbert.commands.evaluate import entities as module
from mtsbert.commands.evaluate.entities import (
    AGREEMENT,
    GOLD,
    MODEL,
    TEACHER,
    Finder,
    evaluate,
    in_words,
    load_finder,
    main,
)
from mtsbert.data.gold import COMMON_TYPES, GoldFile, marks_of, parse_map, read_gold
from mtsbert.exports.pipeline import load_pipeline
from mtsbert.results.entity_scores import Scores, count_marks, draw_sentences, f1_difference


GOLD_BIO = """Ada\tB-PER
Perez\tI-PER
joins\tO
Nimbus\tB-ORG
Labs\tI-ORG
in\tO
Oslo\tB-LOC

Rain\tO
again\tO

The\tB-LOC
Alps\tI-LOC
's\tI-LOC
peak\tO
#\tO
Orion\tB-MISC
"""
TEXTS = ["Ada Perez joins Nimbus Labs in Oslo", "Rain again", "The Alps 's peak # Orion"]
FOUND = {
    MODEL: [
        [(0, 9, "PERSON"), (16, 22, "ORG"), (31, 35, "ORG")],
        [(0, 4, "PERSON")],
        [(4, 8, "LOC"), (19, 24, "PRODUCT")],
    ],
    TEACHER: [[(0, 9, "PERSON"), (16, 27, "ORG"), (31, 35, "GPE")], [], [(0, 8, "LOC")]],
}
FOUND_TYPES = ["GPE", "LOC", "ORG", "PERSON", "PRODUCT"]


@pytest.fixture
def gold_file(tmp_path):
    path = tmp_path / "gold.bio"
    path.write_text(GOLD_BIO, encoding="utf-8")
    return path


@pytest.fixture
def sides() -> dict[str, Finder]:
    """A teacher and a model that find what stands in `FOUND`."""

    def finder(side: str) -> Finder:
        found = {
            text: [{"start": start, "end": end, "label": label} for start, end, label in spans]
            for text, spans in zip(TEXTS, FOUND[side], strict=True)
        }
        return Finder(side, FOUND_TYPES, lambda texts: [found[text] for text in texts])

    return {side: finder(side) for side in (TEACHER, MODEL)}


@pytest.fixture
def command(gold_file, sides, monkeypatch):
    """Runs the command with these two."""
    monkeypatch.setattr(module, "load_finder", lambda name, **settings: sides[name])

    def run(*flags: str) -> None:
        main(["--model", MODEL, "--teacher", TEACHER, "--gold", str(gold_file), "--num_resamples", "50", *flags])

    return run


def test_words_are_joined_by_blanks_and_entities_are_where_they_were(gold_file):
    gold = read_gold(gold_file)
    assert gold.texts == TEXTS
    assert gold.types == ["LOC", "MISC", "ORG", "PER"]
    assert [
        [text[span["start"] : span["end"]] for span in spans] for text, spans in zip(TEXTS, gold.entities, strict=True)
    ] == [
        ["Ada Perez", "Nimbus Labs", "Oslo"],
        [],
        ["The Alps 's", "Orion"],
    ]


@pytest.mark.parametrize(("rows", "chosen"), [("even", [0, 2]), ("odd", [1])])
def test_rows_are_counted_from_0_and_the_types_are_those_of_the_whole_file(gold_file, rows, chosen):
    gold = read_gold(gold_file, rows=rows)
    assert gold.texts == [TEXTS[row] for row in chosen]
    assert (gold.num_rows, gold.types) == (3, ["LOC", "MISC", "ORG", "PER"])


def test_texts_with_spans_are_gold_too_and_unmarked_rows_are_left_out(tmp_path):
    path = tmp_path / "gold.jsonl"
    rows = [
        {"text": "Oslo's rain", "entities": [{"start": 0, "end": 4, "label": "LOC"}]},
        {"text": "Lima", "entities": None},
        {"text": "Rain", "entities": []},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    gold = read_gold(path)
    assert gold.texts == ["Oslo's rain", "Rain"]
    assert gold.entities == [[{"start": 0, "end": 4, "label": "LOC"}], []]


def test_another_tag_scheme(tmp_path):
    path = tmp_path / "gold.bio"
    path.write_text("Ada\tI-PER\nPerez\tI-PER\nsleeps\tO\n")
    assert read_gold(path, tag_scheme="iob1").entities == [[{"start": 0, "end": 9, "label": "PER"}]]


@pytest.mark.parametrize(
    ("name", "content", "rows", "message"),
    [
        ("x.bio", "Ada\tI-PER\n", None, r"Row 0 of dataset '.*x.bio', .*tag 'I-PER' at position 0 follows 'O'"),
        ("x.bio", "Rain\tO\n", None, r"x.bio has no entity in any of its 1 rows"),
        ("x.bio", "Ada\tB-PER\n", "odd", r"x.bio has no odd rows"),
        ("x.csv", "text,label\nLima,World\n", None, r"x.csv has the columns \['text', 'label'\]; gold entities are"),
    ],
)
def test_gold_that_cannot_be_read(tmp_path, name, content, rows, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_gold(tmp_path / name, rows=rows)


def test_a_map_is_read_from_pairs():
    assert parse_map(["GPE=LOC", "creative-work=ART", "GPE=LOC"]) == {"GPE": "LOC", "creative-work": "ART"}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["GPE"], r"--map 'GPE': write TYPE=COMMON, such as GPE=LOC"),
        (["=LOC"], r"--map '=LOC': write"),
        (["GPE="], r"--map 'GPE=': write"),
        (["GPE=LOC", "GPE=ORG"], r"--map says both GPE=LOC and GPE=ORG"),
    ],
)
def test_a_map_that_says_nothing_or_two_things(pairs, message):
    with pytest.raises(ValueError, match=message):
        parse_map(pairs)


def test_marks_have_common_types_and_other_types_are_no_marks():
    entities = [
        {"start": 0, "end": 8, "label": "FAC"},
        {"start": 9, "end": 12, "label": "DATE"},
        {"start": 13, "end": 16, "label": "ORG"},
    ]
    text = "The Alps May the"
    mapping = {"FAC": "LOC", "ORG": "ORG"}
    assert marks_of(entities, text, mapping) == {(0, 8, "LOC"), (13, 16, "ORG")}
    assert marks_of(entities, text, mapping, normalize=True) == {(4, 8, "LOC")}


def test_right_ones_and_kinds_of_errors_are_counted_by_type():
    true = {(0, 9, "PER"), (16, 27, "ORG"), (31, 35, "LOC")}
    found = {
        (0, 3, "PER"),  # overlaps Ada Perez: boundary only
        (4, 9, "ORG"),  # overlaps a PER: neither
        (10, 15, "ORG"),  # nothing there
        (16, 27, "LOC"),  # type only
        (31, 35, "LOC"),  # right
    }
    counts = count_marks(found, true, ["LOC", "ORG", "PER"])
    assert counts.tolist() == [  # right, found, true, type only, boundary only
        [1, 5, 3, 1, 1],
        [1, 2, 1, 1, 0],
        [0, 2, 1, 0, 0],
        [0, 1, 1, 0, 1],
    ]


@pytest.mark.parametrize(
    ("start", "end", "is_boundary_only"), [(0, 5, False), (4, 6, True), (8, 12, True), (9, 12, False), (3, 20, True)]
)
def test_an_entity_that_only_touches_another_one_does_not_overlap(start, end, is_boundary_only):
    counts = count_marks({(start, end, "LOC")}, {(5, 9, "LOC")}, ["LOC"])
    assert counts[1].tolist() == [0, 1, 1, 0, int(is_boundary_only)]


def test_rates_of_samples_are_those_of_the_sentences_drawn():
    true = [{(0, 1, "LOC")}, {(0, 1, "LOC"), (2, 3, "LOC")}]
    found = [{(0, 1, "LOC"), (2, 3, "LOC")}, {(0, 1, "LOC")}]
    draws = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]])
    scores = Scores.of(found, true, ["LOC"], draws)
    assert scores.counts.tolist() == [[2, 3, 3, 0, 0]] * 2
    assert scores.rates.tolist() == [pytest.approx([2 / 3, 2 / 3, 2 / 3])] * 2
    assert scores.resampled[:, 1].tolist() == [
        pytest.approx([2 / 3, 2 / 3, 2 / 3]),
        pytest.approx([0.5, 1.0, 2 / 3]),
        pytest.approx([1.0, 0.5, 2 / 3]),
    ]


def test_intervals_are_the_middle_95_percent_of_the_samples():
    draws = np.stack([np.arange(0.0, 101.0), np.arange(100.0, -1.0, -1.0)], axis=1)  # 101 samples of 100 sentences
    scores = Scores.of([{(0, 1, "LOC")}, set()], [{(0, 1, "LOC")}, {(0, 1, "LOC")}], ["LOC"], draws)
    assert scores.intervals[1, 1].tolist() == pytest.approx([0.025, 0.975])  # recall is 0 %, 1 % ... 100 %


def test_nothing_found_and_nothing_there_is_0():
    scores = Scores.of([set()], [set()], ["LOC"], np.ones((3, 1)))
    assert scores.rates.tolist() == [[0.0, 0.0, 0.0]] * 2
    assert scores.intervals.tolist() == [[[0.0, 0.0]] * 3] * 2


def test_draws_follow_the_seed_and_are_as_many_as_the_sentences():
    draws = draw_sentences(30, num_resamples=20, seed=1)
    assert draws.shape == (20, 30)
    assert draws.sum(axis=1).tolist() == [30.0] * 20
    assert (draws == draw_sentences(30, num_resamples=20, seed=1)).all()
    assert (draws != draw_sentences(30, num_resamples=20, seed=2)).any()


def test_a_difference_is_paired():
    """The two are right on every second sentence, the same ones: no sample tells them apart."""
    true = [{(0, 1, "LOC")}] * 40
    found = [{(0, 1, "LOC")} if row % 2 else set() for row in range(40)]
    draws = draw_sentences(40, num_resamples=100, seed=0)
    scores = Scores.of(found, true, ["LOC"], draws)
    assert np.ptp(scores.intervals[0, 2]) > 0.1
    values, ends = f1_difference(scores, Scores.of(found, true, ["LOC"], draws))
    assert (values.tolist(), ends.tolist()) == ([0.0, 0.0], [[0.0, 0.0]] * 2)
    values, _ = f1_difference(scores, Scores.of(true, true, ["LOC"], draws))
    assert values.tolist() == pytest.approx([2 / 3 - 1] * 2)


def test_an_evaluation_by_hand(gold_file, sides):
    evaluation = evaluate(read_gold(gold_file), sides, COMMON_TYPES)
    assert evaluation.types == ("all", "LOC", "ORG", "PER")
    assert evaluation.maps[GOLD] == {"LOC": "LOC", "ORG": "ORG", "PER": "PER"}
    assert evaluation.maps[MODEL] == {"GPE": "LOC", "LOC": "LOC", "ORG": "ORG", "PERSON": "PER"}
    assert evaluation.left_out == {GOLD: ["MISC"], TEACHER: ["PRODUCT"], MODEL: ["PRODUCT"]}
    # right, found, true, type only, boundary only
    assert evaluation.scores[MODEL].counts.tolist() == [
        [1, 5, 4, 1, 2],
        [0, 1, 2, 0, 1],
        [0, 2, 1, 1, 1],
        [1, 2, 1, 0, 0],
    ]
    assert evaluation.scores[TEACHER].counts[0].tolist() == [3, 4, 4, 0, 1]
    assert evaluation.scores[AGREEMENT].counts[0].tolist() == [1, 5, 4, 1, 2]


def test_what_the_gold_file_leaves_open_is_not_scored(sides, tmp_path):
    opened, marked = {"start": 20, "end": 27, "label": None}, {"start": 31, "end": 35, "label": "LOC"}
    path = tmp_path / "gold.jsonl"
    path.write_text(json.dumps({"text": TEXTS[0], "entities": [opened, marked]}))
    gold = read_gold(path)
    assert gold.types == ["LOC"]
    mapping = {**COMMON_TYPES, "ORG": "LOC"}
    evaluation = evaluate(gold, sides, mapping)  # both have an ORG that touches what is open
    assert evaluation.scores[MODEL].counts[0].tolist() == [1, 1, 1, 0, 0]
    assert evaluation.scores[TEACHER].counts[0].tolist() == [1, 1, 1, 0, 0]


def test_normalizing_changes_all_sides(gold_file, sides):
    evaluation = evaluate(read_gold(gold_file), sides, COMMON_TYPES, normalize=True)
    assert evaluation.scores[MODEL].counts[0].tolist() == [2, 5, 4, 1, 1]
    assert evaluation.scores[TEACHER].counts[0].tolist() == [4, 4, 4, 0, 0]
    assert evaluation.scores[AGREEMENT].counts[0].tolist() == [2, 5, 4, 1, 1]


def test_types_that_the_gold_file_never_marks_are_left_out_on_all_sides(sides):
    entities = [[{"start": 0, "end": 9, "label": "PER"}], [], []]
    gold = GoldFile("people.bio", 3, ["PER"], TEXTS, entities)
    evaluation = evaluate(gold, sides, COMMON_TYPES)
    assert evaluation.types == ("all", "PER")
    assert evaluation.maps[MODEL] == {"PERSON": "PER"}
    assert evaluation.left_out[MODEL] == ["GPE", "LOC", "ORG", "PRODUCT"]
    assert evaluation.scores[MODEL].counts[0].tolist() == [1, 2, 1, 0, 0]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"PERSON": "PER"}, r"No type of gold.bio \(LOC\) is mapped\. Say what they are with --map"),
        ({"LOC": "place", "GPE": "town"}, r"No type of it \(GPE\) is mapped to place, as those of gold.bio are"),
    ],
)
def test_sides_that_have_nothing_in_common_are_refused(mapping, message):
    gold = GoldFile("gold.bio", 1, ["LOC"], ["Oslo"], [[{"start": 0, "end": 4, "label": "LOC"}]])
    with pytest.raises(ValueError, match=message):
        evaluate(gold, {MODEL: Finder("it", ["GPE"], lambda texts: [[]])}, mapping)


def test_the_command_prints_both_sides_their_difference_and_their_agreement(command, capsys):
    command()
    printed = capsys.readouterr().out
    assert "gold.bio: 3 sentences, 4 entities" in printed
    assert "gold: LOC = LOC, ORG = ORG, PER = PER; left out: MISC" in printed
    assert "model: GPE = LOC, LOC = LOC, ORG = ORG, PERSON = PER; left out: PRODUCT" in printed
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if "|" in line]
    assert table[0] == ["F1", "entities", "teacher", "model", "difference", "model against teacher"]
    name, entities, *cells = table[2]
    assert (name, entities) == ("all", "4")
    assert [cell.partition(" ")[0] for cell in cells] == ["75.0", "22.2", "-52.8", "22.2"]
    assert table[6][-4:] == ["found", "right", "boundary only", "type only"]
    assert [row[:2] + row[-4:] for row in table[8:10]] == [
        ["all", "teacher", "4", "3", "1", "0"],
        ["all", "model", "5", "1", "2", "1"],
    ]


def test_a_half_and_a_map_of_ones_own(command, capsys):
    command("--rows", "even", "--map", "PER=human", "PERSON=human", "MISC=thing", "PRODUCT=thing")
    printed = capsys.readouterr().out
    assert "gold.bio: 2 of 3 sentences, 2 entities" in printed
    assert "gold: MISC = thing, PER = human; left out: LOC, ORG" in printed
    assert "| all   | model   | 100.0 (" in printed


def test_the_figures_in_a_file_follow_from_the_seed(command, tmp_path):
    for name, seed in {"one.json": "1", "again.json": "1", "other.json": "2"}.items():
        command("--json", str(tmp_path / name), "--seed", seed)
    one, again, other = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "again", "other"))
    assert one == again
    assert one["seed"] == 1
    (figures,) = one["gold"]
    assert figures["maps"]["gold"] == {"LOC": "LOC", "ORG": "ORG", "PER": "PER"}
    assert figures["left_out"]["model"] == ["PRODUCT"]
    assert figures["scores"]["model"]["all"]["f1"] == pytest.approx(2 / 9)
    assert figures["scores"]["model"]["types"]["ORG"] | {"f1_interval": None} == {
        **{"right": 0, "found": 2, "true": 1, "type_only": 1, "boundary_only": 1},
        **{"precision": 0.0, "recall": 0.0, "f1": 0.0},
        **{"precision_interval": [0.0, 0.0], "recall_interval": [0.0, 0.0], "f1_interval": None},
    }
    assert figures["scores"]["difference"]["all"]["f1"] == pytest.approx(2 / 9 - 3 / 4)
    assert set(figures["scores"]) == {"teacher", "model", "model_against_teacher", "difference"}
    assert figures["scores"]["model"]["all"] != other["gold"][0]["scores"]["model"]["all"]
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".bio"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--map", "PERSN=PER"], r"--map names the types \['PERSN'\], which nobody has; there are \['GPE', 'LOC'"),
        (["--num_resamples", "0"], r"--num_resamples is 0; it must be at least 1"),
        (["--min_score", "2"], r"--min_score is 2.0; it must lie in \[0, 1\]"),
        (["--model", "spacy:any", "--min_score", "0.5"], r"--min_score is for checkpoints; spacy:.* gives no scores"),
        (["--json", __file__], "exists already; remove it or name another file"),
        (["--json", f"{'x' * 300}.json"], "cannot be written"),
        (["--json", f"{'x' * 250}.json"], "cannot be written: .*too long"),
        (["--json", "nowhere/x.json"], "nowhere/x.json cannot be written: there is no folder nowhere"),
    ],
)
def test_what_is_wrong_with_the_flags_is_said(command, flags, message):
    with pytest.raises(ValueError, match=message):
        command(*flags)


def test_a_checkpoint_finds_what_its_pipeline_finds(checkpoint, gold_file, capsys):
    finder = load_finder(str(checkpoint), precision="fp32")
    assert finder.types == ["GPE"]
    assert finder.find(TEXTS) == [answer["ner"] for answer in load_pipeline(str(checkpoint))(TEXTS)]
    main(["--model", str(checkpoint), "--gold", str(gold_file), "--precision", "fp32", "--task", "ner"])
    printed = capsys.readouterr().out
    assert "| all  | model |" in printed
    assert "teacher" not in printed


def test_the_least_score_is_that_of_the_flag(checkpoint, gold_file, capsys, tmp_path):
    scores = [entity["score"] for answer in load_pipeline(str(checkpoint))(TEXTS) for entity in answer["ner"]]
    assert len(scores) > 1
    least = sorted(scores)[-1]
    found = load_finder(str(checkpoint), precision="fp32", min_score=least - 1e-6).find(TEXTS)
    assert sum(map(len, found)) == sum(score >= least - 1e-6 for score in scores) < len(scores)
    path = tmp_path / "scores.json"
    main(["--model", str(checkpoint), "--gold", str(gold_file), "--min_score", "1", "--json", str(path)])
    assert json.loads(path.read_text())["min_score"] == 1.0
    assert "| 0     | 0     |" in capsys.readouterr().out


def test_bf16_is_asked_of_the_checkpoint(checkpoint, monkeypatch):
    asked = []
    autocast = torch.autocast

    def watched(*args, **options):
        if "dtype" in options:  # a head that computes in float32 asks for none
            asked.append(options["enabled"])
        return autocast(*args, **options)

    monkeypatch.setattr(torch, "autocast", watched)
    for precision in ("bf16", "fp32"):
        load_finder(str(checkpoint), precision=precision).find(TEXTS)
    assert asked == [True, False]


@pytest.mark.parametrize("task", ["topic", "nor"])
def test_a_task_that_finds_no_entities_is_refused(checkpoint, task):
    with pytest.raises(ValueError, match=rf"that find entities are \['ner'\]; --task is '{task}'"):
        load_finder(str(checkpoint), task=task)


@pytest.mark.spacy_model
def test_a_spacy_pipeline_finds_what_it_labels_texts_with():
    finder = load_finder("spacy:en_core_web_sm")
    assert {"GPE", "PERSON", "ORG"} < set(finder.types)
    found = finder.find(["Rain again", "Angela Merkel visited Paris"])
    assert found == [[], [{"start": 0, "end": 13, "label": "PERSON"}, {"start": 22, "end": 27, "label": "GPE"}]]


@pytest.mark.spacy_model
@pytest.mark.real_data
@pytest.mark.slow
def test_articles_and_possessives_cost_spacy_seven_points_on_wikigold(real_data):
    gold = read_gold(real_data / "ner_gold" / "wikigold.bio")
    finder = load_finder("spacy:en_core_web_sm")
    found = finder.find(gold.texts)
    once = {MODEL: Finder(finder.name, finder.types, lambda texts: found)}
    plain, normalized = (evaluate(gold, once, COMMON_TYPES, normalize=on, num_resamples=10) for on in (False, True))
    assert 100 * plain.scores[MODEL].rates[0, 2] == pytest.approx(53.1, abs=0.5)
    assert 100 * normalized.scores[MODEL].rates[0, 2] == pytest.approx(60.6, abs=0.5)
    assert "left out: MISC" in in_words(plain)
