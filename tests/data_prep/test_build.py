"""Tests building a dataset: sources, labels, files and errors."""

import multiprocessing
import re
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import spacy
from datasets import ClassLabel, load_dataset
from thinc.api import get_current_ops
from threadpoolctl import threadpool_info

from data_prep import blocks, build, labelling
from data_prep.__main__ import main
from data_prep.blocks import BlockLabeller
from data_prep.build import build_dataset
from data_prep.labelling import EntityLabeller
from data_prep.sources import open_source
from entities_mtsbert import check_spans, tags_to_spans


pytestmark = pytest.mark.spacy_model

CSV = (
    '"1","Talks in Geneva","Reuters - Kofi Annan met envoys\\of the United Nations in Geneva on Monday."\n'
    '"3","Oil at \\$49","Exxon #39;s shares rose 4 percent in New York."\n'
    '"2","",""\n'
    '"4","Probe nears Mars","NASA said on Tuesday."\n'
)


@pytest.fixture
def csv_file(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(CSV, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def labeller() -> EntityLabeller:
    return EntityLabeller("en_core_web_sm")


def test_made_up_links_end_a_share_of_the_training_texts(csv_file, tmp_path):
    sources = tmp_path / "source"
    sources.mkdir()
    for name in ("train.csv", "test.csv"):
        (sources / name).write_text(CSV, encoding="utf-8")
    built = {share: tmp_path / f"out{share}" for share in (0.0, 0.5, 1.0)}
    for share, output in built.items():
        build_dataset(source=str(sources), output=output, link_share=share)
    texts = {share: load_dataset(str(output))["train"]["text"][:] for share, output in built.items()}
    linked = [re.fullmatch(r"(.*) http://t\.co/\w{10}", text) for text in texts[1.0]]
    assert [match[1] for match in linked] == texts[0.0]  # and the row without text has become none
    assert 0 < sum("http" in text for text in texts[0.5]) < 3
    rows = {share: load_dataset(str(output)) for share, output in built.items()}
    assert rows[1.0]["train"]["entities"][:] == rows[0.0]["train"]["entities"][:]
    assert rows[1.0]["train"]["tokens"][0][-1].startswith("http")
    assert rows[1.0]["test"]["text"][:] == rows[0.0]["test"]["text"][:]
    assert "About 50% of the training texts end with a link" in (built[0.5] / "README.md").read_text()
    assert "link" not in (built[0.0] / "README.md").read_text()
    with pytest.raises(ValueError, match=r"`link_share` is 1\.5; it must lie in"):
        build_dataset(source=str(sources), output=tmp_path / "wrong", link_share=1.5)


def test_a_csv_becomes_a_dataset_that_load_dataset_reads(csv_file, tmp_path):
    provenance = build_dataset(source=str(csv_file), output=tmp_path / "out")
    dataset = load_dataset(str(tmp_path / "out"))
    assert provenance.num_rows == {"train": 3}
    assert provenance.num_empty == 1
    rows = dataset["train"]
    assert rows.column_names == ["text", "label", "entities", "tokens", "ner_tags"]
    assert rows["text"][0] == (
        "Talks in Geneva Reuters - Kofi Annan met envoys of the United Nations in Geneva on Monday."
    )
    assert rows["text"][1] == "Oil at $49 Exxon's shares rose 4 percent in New York."
    assert rows.features["label"] == ClassLabel(names=["World", "Sports", "Business", "Sci/Tech"])
    assert rows["label"][:] == [0, 2, 3]
    found = {rows["text"][1][span["start"] : span["end"]]: span["label"] for span in rows["entities"][1]}
    assert found["4 percent"] == "PERCENT"
    assert found["New York"] == "GPE"


def test_rows_hold_what_the_schema_promises(tmp_path, monkeypatch):
    build_dataset(source="sample", output=tmp_path / "out", max_rows=40)
    dataset = load_dataset(str(tmp_path / "out"))
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 40, "validation": 40, "test": 40}
    names = dataset["train"].features["ner_tags"].feature.names
    assert names[0] == "O"
    assert len(names) == 37
    assert dataset["train"].features["sentiment"].names == ["negative", "neutral", "positive"]
    for row in dataset["train"]:
        check_spans(row["entities"], row["text"])
        offsets, position = [], 0
        for token in row["tokens"]:
            start = row["text"].index(token, position)
            position = start + len(token)
            offsets.append((start, position))
        spans = tags_to_spans([names[tag] for tag in row["ner_tags"]], offsets)
        assert [{key: span[key] for key in ("start", "end", "label")} for span in spans] == row["entities"]


def test_no_entity_crosses_the_seam_between_title_and_description(tmp_path, labeller):
    path = tmp_path / "train.csv"
    path.write_text(
        '"1","Talks go on in New","York awaits the delegates, said Kofi"\n"1","Meeting of Kofi","Annan left."\n'
    )
    build_dataset(source=str(path), output=tmp_path / "out")
    for row, seam in zip(load_dataset(str(tmp_path / "out"))["train"], (18, 15), strict=True):
        assert row["text"][seam] == " "
        assert not [span for span in row["entities"] if span["start"] < seam < span["end"]]


def test_an_entity_has_no_article_and_no_possessive(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text('"3","Talks","They talk in the United States about Germany\'s debts to the United Nations."\n')
    build_dataset(source=str(path), output=tmp_path / "out")
    (row,) = load_dataset(str(tmp_path / "out"))["train"]
    found = [row["text"][span["start"] : span["end"]] for span in row["entities"]]
    assert found == ["United States", "Germany", "United Nations"]


def test_headlines_are_labelled_like_sentences_where_that_is_asked_for(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(
        '"3","Ericsson Gets New Deals","Ericsson gets new orders. It gets new ones."\n"3","x","Many deals by it."\n'
    )
    found = {}
    for asked in (False, True):
        folder = tmp_path / str(asked)
        build_dataset(source=str(path), output=folder, truecase_headlines=asked)
        row = load_dataset(str(folder))["train"][0]
        found[asked] = [row["text"][span["start"] : span["end"]] for span in row["entities"]]
        assert row["text"].startswith("Ericsson Gets New Deals Ericsson gets")
        assert row["tokens"][:4] == ["Ericsson", "Gets", "New", "Deals"]
        assert ("as if written like a sentence" in (folder / "README.md").read_text()) is asked
    assert found[True] != found[False]
    assert "Ericsson Gets New Deals" not in found[True]


def test_several_pipelines_vote_and_leave_open_what_they_disagree_on(csv_file, tmp_path):
    rules = spacy.blank("en")
    rules.add_pipe("entity_ruler").add_patterns([{"label": "GPE", "pattern": name} for name in ("New York", "Oil")])
    rules.to_disk(tmp_path / "rules")
    provenance = build_dataset(
        source=str(csv_file), spacy_model=["en_core_web_sm", str(tmp_path / "rules")], output=tmp_path / "out"
    )
    rows = load_dataset(str(tmp_path / "out"))["train"]
    labels = [span["label"] for spans in rows["entities"][:] for span in spans]
    text, entities = rows[1]["text"], rows[1]["entities"]
    found = {text[span["start"] : span["end"]]: span["label"] for span in entities}
    assert (found["New York"], found["4 percent"], found["Oil"]) == ("GPE", None, None)
    assert rows[1]["ner_tags"][rows[1]["tokens"].index("percent")] == -100
    assert provenance.type_counts["left open"] == labels.count(None)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "a vote of the spaCy pipelines en_core_web_sm 3.8.0, rules 0.0.0" in card


def test_voters_agree_on_an_entity_that_one_gives_an_article(csv_file, tmp_path):
    rules = {"with": "the New York", "without": "New York"}
    for name, pattern in rules.items():
        nlp = spacy.blank("en")
        nlp.add_pipe("entity_ruler").add_patterns([{"label": "GPE", "pattern": pattern}])
        nlp.to_disk(tmp_path / name)
    path = tmp_path / "articles.csv"
    path.write_text('"1","News","Rain in the New York area"\n')
    build_dataset(source=str(path), spacy_model=[str(tmp_path / name) for name in rules], output=tmp_path / "out")
    (row,) = load_dataset(str(tmp_path / "out"))["train"]
    assert [(row["text"][span["start"] : span["end"]], span["label"]) for span in row["entities"]] == [
        ("New York", "GPE")
    ]


def test_a_link_to_a_folder_is_followed(csv_file, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "old.txt").write_text("old")
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    build_dataset(source=str(csv_file), output=tmp_path / "out", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["README.md", "train.parquet"]
    assert (tmp_path / "out").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_no_pipeline_is_refused(csv_file, tmp_path):
    with pytest.raises(ValueError, match="`spacy_model` is empty; name a spaCy pipeline"):
        build_dataset(source=str(csv_file), spacy_model=[], output=tmp_path / "out")


def test_several_blocks_are_the_rows_in_order_and_the_same_bytes_by_any_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "ROWS_PER_BLOCK", 3)
    monkeypatch.setattr(build, "ROWS_PER_GROUP", 7)
    path = tmp_path / "train.csv"
    path.write_text(CSV + "".join(f'"1","Item {number}",""\n"1","",""\n' for number in range(20)))
    for name, num_proc in (("one", 1), ("two", 2)):
        provenance = build_dataset(source=str(path), output=tmp_path / name, num_proc=num_proc)
    assert (provenance.num_rows, provenance.num_empty) == ({"train": 23}, 21)
    table = pq.read_table(tmp_path / "two" / "train.parquet")
    assert table["text"].to_pylist()[3:] == [f"Item {number}" for number in range(20)]
    counted = Counter(span["label"] for spans in table["entities"].to_pylist() for span in spans)
    assert counted == provenance.type_counts
    one, two = (sorted((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert [path.name for path in one] == ["README.md", "train.parquet"]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_a_killed_process_is_an_error_and_leaves_nothing_behind(csv_file, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "ROWS_PER_BLOCK", 1)
    csv_file.write_text(CSV * 20)
    blocks_of = build.blocks_of

    def deadly(rows):
        for number, block in enumerate(blocks_of(rows)):
            if number == 40:
                multiprocessing.active_children()[0].kill()
            yield block

    monkeypatch.setattr(build, "blocks_of", deadly)
    with pytest.raises(ValueError, match=r"A labelling process died.*use fewer with --num_proc, or --engine ray"):
        build_dataset(source=str(csv_file), output=tmp_path / "out", num_proc=2)
    assert [path.name for path in tmp_path.iterdir()] == ["train.csv"]
    assert multiprocessing.active_children() == []


def test_another_version_of_the_pipeline_on_another_machine_is_refused(labeller):
    with pytest.raises(ValueError, match=r"has en_core_web_sm 3.8.0 \(spaCy .*\), and where .* there is sm 3.7"):
        BlockLabeller.load(["en_core_web_sm"], ["sm 3.7"], pa.schema([]))


def test_labels_are_computed_by_the_fast_blas_on_one_thread(monkeypatch):
    ops = get_current_ops()
    labeller = EntityLabeller("en_core_web_sm")
    assert get_current_ops() is ops
    assert not labeller.nlp.get_pipe("ner").model.ops.use_blis
    threads = []

    def pipe(texts, **options):
        threads.extend(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
        return []

    monkeypatch.setattr(labeller.nlp, "pipe", pipe)
    labeller.label(["Lima"])
    assert set(threads) == {1}


def test_spacy_remembers_the_words_of_the_first_texts_alone(monkeypatch):
    monkeypatch.setattr(labelling, "TEXTS_REMEMBERED", 2)
    labeller = EntityLabeller("en_core_web_sm")
    vocab = labeller.nlp.vocab
    labeller.label(["Abcdton flies.", "Abcdton stays."])
    (labelled,) = labeller.label(["The zyxes flew to Abcdton."])
    assert labelled.words == [(0, 3), (4, 9), (10, 14), (15, 17), (18, 25), (25, 26)]
    assert ("Abcdton" in vocab.strings, "zyxes" in vocab.strings) == (True, False)
    assert ("Abcdton" in vocab, "zyxes" in vocab) == (True, False)


def test_a_folder_of_csv_files_gives_a_split_each(csv_file, tmp_path):
    (tmp_path / "dev.csv").write_text(CSV)
    (tmp_path / "test.csv").write_text(CSV)
    assert list(open_source(str(tmp_path)).splits) == ["train", "validation", "test"]


def test_a_share_of_the_training_rows_can_become_the_validation_split(tmp_path):
    path = tmp_path / "news.csv"
    path.write_text("".join(f'"1","Item {number}","Something happened."\n' for number in range(200)))
    settings = {"source": str(path), "validation_share": 0.25}
    num_rows = build_dataset(output=tmp_path / "out", **settings).num_rows
    assert list(num_rows) == ["train", "validation"]
    assert sum(num_rows.values()) == 200
    assert 30 <= num_rows["validation"] <= 70
    dataset = load_dataset(str(tmp_path / "out"))
    assert not set(dataset["train"]["text"]) & set(dataset["validation"]["text"])


def test_the_card_names_source_labeller_and_what_the_labels_are(csv_file, tmp_path):
    build_dataset(source=str(csv_file), output=tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "en_core_web_sm 3.8.0" in card
    assert "agreement with their maker,\nnot accuracy" in card
    assert str(tmp_path) not in card


def test_only_the_component_that_finds_entities_runs(labeller):
    assert labeller.nlp.pipe_names == ["ner"]
    assert labeller.name == "en_core_web_sm 3.8.0"
    assert len(labeller.types) == 18


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('"1","a"\n', r"Row 1 of .*train.csv has 2 fields; it needs class, title and description"),
        ('"1","a","b"\n"5","a","b"\n', r"Row 2 of .*train.csv has class '5'; classes are 1 World"),
        ("class,title,description\n", r"has class 'class'.*there is no header line"),
        (b'"1","\xff","b"\n', "is not UTF-8"),
        ('"1","a","b\n' + "1,a,b\n" * 30_000, r"of .*train.csv .*Is a quotation mark open"),
        ("", r"Split 'train' of source .* has no row with text in it"),
        ('"1"," ",""\n', r"Split 'train' of source .* has no row with text in it"),
    ],
)
def test_a_wrong_csv_is_named_and_leaves_nothing_behind(tmp_path, content, message):
    path = tmp_path / "in" / "train.csv"
    path.parent.mkdir()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        build_dataset(source=str(path), output=tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "no/such/file.csv"}, "neither a file nor a folder"),
        ({"source": "nobody/nothing-here"}, "could not be loaded as a Hub dataset"),
        ({"spacy_model": "xx_no_model"}, r"'xx_no_model' is not installed. Install it with `python -m spacy download"),
        ({"num_proc": 0}, "`num_proc` is 0"),
        ({"max_rows": 0}, "`max_rows` is 0"),
        ({"validation_share": 1.0}, "`validation_share` is 1.0"),
        ({"output": "/dev/null/out"}, "cannot be written"),
        ({"output": "/dev/null"}, "is a file; name a folder"),
    ],
)
def test_options_that_cannot_be_are_refused(csv_file, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        build_dataset(**{"source": str(csv_file), "output": tmp_path / "out", **options})


def test_folders_without_usable_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"has no .csv file in it"):
        open_source(str(tmp_path))
    (tmp_path / "dev.csv").write_text(CSV)
    (tmp_path / "validation.csv").write_text(CSV)
    with pytest.raises(ValueError, match=r"dev.csv is the validation split already"):
        open_source(str(tmp_path))
    (tmp_path / "validation.csv").rename(tmp_path / "others.csv")
    with pytest.raises(ValueError, match=r"a file of a CSV folder is called train.csv"):
        open_source(str(tmp_path))


def test_an_existing_folder_is_replaced_only_on_request(csv_file, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("x")
    with pytest.raises(ValueError, match=r"Output folder .* is not empty. Pass --overwrite"):
        build_dataset(source=str(csv_file), output=out)
    assert (out / "precious.txt").exists()
    build_dataset(source=str(csv_file), output=out, overwrite=True)
    assert not (out / "precious.txt").exists()


def test_the_command_says_what_it_wrote_and_what_went_wrong(csv_file, tmp_path, capsys):
    main(["--source", str(csv_file), "--output", str(tmp_path / "out")])
    assert "3 train; 1" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"data_prep: .* is not empty"):
        main(["--source", str(csv_file), "--output", str(tmp_path / "out")])


def test_spacy_is_not_imported_before_texts_are_labelled(root, warm_python):
    script = "import sys, data_prep.build; print('spacy' in sys.modules)"
    assert warm_python.run("-c", script, cwd=root).stdout == "False\n"


def test_the_module_runs_from_the_clone(root, csv_file, tmp_path, warm_python):
    done = warm_python.run("-m", "data_prep", "--source", csv_file, "--output", tmp_path / "out", cwd=root)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
