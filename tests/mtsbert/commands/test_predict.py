"""Tests bulk prediction: the results of the pipeline for all file formats, also after an interruption."""

import csv
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from mtsbert.commands import predict as predicting
from mtsbert.commands.predict import main
from mtsbert.exports.pipeline import load_pipeline, on_openvino
from mtsbert.results import answers as answering
from mtsbert.results.unfinished import DESCRIPTION_FILE, LINES_FILE, Unfinished


TEXTS = ["Ada Perez joins Nimbus Labs in Oslo", "Lima", "", 'She said "no",\tthen left 🏃', "Oslo beat Lima. " * 40]


def write(path, texts) -> None:
    """A file with the texts in the column `text`, and numbers in `id`."""
    if path.suffix == ".txt":
        path.write_bytes(b"".join(text.encode() + b"\r\n" for text in texts))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"id": id, "text": text}) + "\n" for id, text in enumerate(texts)))
    elif path.suffix == ".parquet":
        pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([("id", "text"), *enumerate(texts)])


def read(path) -> list[dict]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def answer(checkpoint, tmp_path):
    """Runs the command and returns the rows of the file that it made."""

    def run(input_path, *flags: str, output: str = "answers.jsonl") -> list[dict]:
        paths = ["--input", str(input_path), "--output", str(tmp_path / output)]
        main(["--model", str(checkpoint), *paths, "--precision", "fp32", *flags])
        return read(tmp_path / output)

    return run


@pytest.fixture(scope="module")
def expected(checkpoint):
    answers = load_pipeline(str(checkpoint))(TEXTS)
    return [
        {"text": text} | {key: value for key, value in answer.items() if key != "embedding"}
        for text, answer in zip(TEXTS, answers, strict=True)
    ]


@pytest.mark.parametrize("output", ["answers.jsonl", "answers.parquet"])
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_format_gets_the_answers_of_the_pipeline(suffix, output, answer, expected, close, tmp_path):
    write(tmp_path / f"texts{suffix}", TEXTS)
    flags = ["--quoting"] if suffix == ".tsv" else []
    assert close(answer(tmp_path / f"texts{suffix}", *flags, output=output), expected, 1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {f"texts{suffix}", output}


def test_a_folder_is_read_file_by_file_in_the_order_of_their_names(answer, tmp_path):
    folder = tmp_path / "texts"
    (folder / "b").mkdir(parents=True)
    write(folder / "b" / "one.csv", TEXTS[:2])
    write(folder / "a.txt", TEXTS[2:])
    (folder / "notes.md").write_text("not a file of texts")
    assert [row["text"] for row in answer(folder)] == [*TEXTS[2:], *TEXTS[:2]]


def test_what_is_hidden_is_not_read_and_files_that_cannot_be_read_are_told(answer, tmp_path, caplog):
    for folder in ("texts", "texts/.ipynb_checkpoints", "texts/.git/b"):
        (tmp_path / folder).mkdir(parents=True)
        write(tmp_path / folder / "one.csv", TEXTS[:2])
    write(tmp_path / "texts" / "._one.csv", TEXTS[:2])
    (tmp_path / "texts" / "notes.md").write_text("not a file of texts")
    assert [row["text"] for row in answer(tmp_path / "texts")] == TEXTS[:2]
    assert "are not read" not in caplog.text
    for name in ("a.CSV", "b.csv.gz", "c.json"):
        (tmp_path / "texts" / name).write_text("text")
    assert len(answer(tmp_path / "texts", output="others.jsonl")) == 2
    assert f"3 files of {tmp_path / 'texts'} are not read, {tmp_path / 'texts' / 'a.CSV'} among them" in caplog.text


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_answers_of_an_earlier_call_are_not_read_beside_their_texts(answer, tmp_path, suffix):
    write(tmp_path / "texts.csv", TEXTS[:2])
    answer(tmp_path, output=f"one{suffix}")
    with pytest.raises(ValueError, match=rf"one{suffix} has answers of this command.* another folder"):
        answer(tmp_path, output=f"two{suffix}")
    (tmp_path / "texts.csv").unlink()
    assert [row["text"] for row in answer(tmp_path, output="two.jsonl")] == TEXTS[:2], "they are what was named"


@pytest.mark.parametrize("output", ["answers.jsonl", "answers.parquet"])
def test_pairs_are_compared_and_columns_kept(answer, checkpoint, close, tmp_path, output):
    (tmp_path / "pairs.jsonl").write_text('{"id": "x7", "one": "Lima", "two": "Oslo"}\n{"one": "Lima", "two": ""}\n')
    flags = ["--text_column", "one", "--pair_column", "two", "--keep", "id", "--embeddings"]
    rows = answer(tmp_path / "pairs.jsonl", *flags, output=output)
    asked = [("Lima", "Oslo"), ("Lima", "")]
    found = load_pipeline(str(checkpoint))(asked)
    assert [row["id"] for row in rows] == ["x7", None]
    for row, (text, pair), answers in zip(rows, asked, found, strict=True):
        assert close(row, {"id": row["id"], "text": text, "text_pair": pair} | answers, 1e-5)


PAIRS = [("Lima", "Oslo"), ("Lima", None), (None, "Oslo"), ("Lima", ""), (None, None)]


@pytest.mark.parametrize("output", ["answers.jsonl", "answers.parquet"])
@pytest.mark.parametrize("of", ["checkpoint", "onnx_export", "openvino_export"])
def test_a_row_without_a_second_text_is_answered_alone(of, output, close, tmp_path, request):
    rows = [{"text": text, "text_pair": pair} for text, pair in PAIRS]
    del rows[1]["text_pair"]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model, paths = request.getfixturevalue(of), ["--input", str(tmp_path / "pairs.jsonl"), "--output"]
    flags = ["--pair_column", "text_pair", "--embeddings", "--precision", "fp32"]
    main(["--model", str(model), *paths, str(tmp_path / output), *flags])
    asked = [text or "" if pair is None else (text or "", pair) for text, pair in PAIRS]
    alone = {"pair_embedding": None, "near": None, "follows": None, "fits": None}
    for row, (text, pair), answer in zip(read(tmp_path / output), PAIRS, load_pipeline(model)(asked), strict=True):
        assert close(row, {"text": text or "", "text_pair": pair} | (alone if pair is None else {}) | answer, 1e-4)


def test_a_task_whose_name_ends_like_the_embedding_is_answered(model, tokenizer, tmp_path, close):
    model.rename_task("topic", "about_embedding")
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("Lima")
    paths = ["--input", str(tmp_path / "texts.txt"), "--output", str(tmp_path / "answers.jsonl")]
    main(["--model", str(tmp_path / "model"), *paths, "--precision", "fp32"])
    (row,) = read(tmp_path / "answers.jsonl")
    assert list(row) == ["text", "about_embedding", "ner"]
    assert close(row["about_embedding"], load_pipeline(tmp_path / "model")("Lima")["about_embedding"], 1e-5)


def test_an_empty_cell_is_no_second_text(answer, tmp_path):
    (tmp_path / "pairs.csv").write_text("text,text_pair\nLima,\nLima,Oslo\n")
    rows = answer(tmp_path / "pairs.csv", "--pair_column", "text_pair")
    assert [(row["text_pair"], row["near"] is None) for row in rows] == [(None, True), ("Oslo", False)]


@pytest.mark.parametrize("stop_after", [0, 2, 4])
def test_an_interrupted_command_goes_on_where_it_was(answer, expected, close, tmp_path, monkeypatch, stop_after):
    write(tmp_path / "texts.csv", TEXTS)
    monkeypatch.setattr(answering, "ROWS_PER_CALL", 2)
    answers, asked = answering.answers, []

    def interrupted(pipeline, rows, **options):
        if rows[0]["text"] == TEXTS[stop_after]:
            raise KeyboardInterrupt
        return answers(pipeline, rows, **options)

    def counted(pipeline, rows, **options):
        asked.extend(row["text"] for row in rows)
        return answers(pipeline, rows, **options)

    monkeypatch.setattr(answering, "answers", interrupted)
    with pytest.raises(SystemExit, match="130"):
        answer(tmp_path / "texts.csv")
    lines = tmp_path / "answers.jsonl.partial" / LINES_FILE
    lines.write_bytes(lines.read_bytes() + b'{"text": "half')  # as a killed process may leave it
    monkeypatch.setattr(answering, "answers", counted)
    assert close(answer(tmp_path / "texts.csv"), expected, 1e-5)
    assert asked == TEXTS[stop_after:]


def test_bf16_answers_nearly_the_same(answer, expected, close, tmp_path):
    write(tmp_path / "texts.txt", TEXTS)
    found = answer(tmp_path / "texts.txt", "--precision", "bf16")
    assert not close(found, expected, 1e-6)
    for row, right in zip(found, expected, strict=True):
        assert close(row["topic"]["scores"], right["topic"]["scores"], 2e-2)


def test_unfinished_answers_to_another_question_are_not_gone_on_with(answer, tmp_path):
    write(tmp_path / "texts.csv", TEXTS)
    (tmp_path / "answers.jsonl.partial").mkdir()
    (tmp_path / "answers.jsonl.partial" / DESCRIPTION_FILE).write_text('{"model": "another"}')
    (tmp_path / "answers.jsonl.partial" / LINES_FILE).touch()
    with pytest.raises(ValueError, match=r"unfinished answers of another model.*Remove it"):
        answer(tmp_path / "texts.csv")


@pytest.mark.parametrize(
    ("name", "content", "flags", "message"),
    [
        ("texts.csv", "title\nLima\n", [], r"Row 1 of .* no column 'text', only \['title'\].*--text_column"),
        ("texts.csv", "text\nLima\nOslo,x\n", [], r"Row 2 of .* has 2 cells; the header has 1"),
        ("texts.jsonl", '{"text": "Lima"}\n{"text": 7}\n', [], r"Row 2 of .*'text' holds 7, which is no text"),
        ("texts.jsonl", '{"text": "Lima"}\n{"text"\n', [], r"Line 2 of .* is not JSON"),
        ("texts.jsonl", '{"text": "Lima", "b": 7}\n', ["--pair_column", "b"], r"'b' holds 7, which is no text"),
        ("texts.csv", "text,b\nLima,7\n", ["--pair_column", "c"], r"--pair_column c: no row of .*are \['b', 'text'\]"),
        ("texts.txt", b"\xff\xfe", [], r"is not UTF-8"),
        ("texts.parquet", "no", [], r"is not a Parquet file"),
        ("texts.jsonl", '{"text": "Lima \\ud800"}\n', [], r"Row 1 of .* holds half a character"),
        ("texts.csv", "text,id\nLima,7\n", ["--keep", "idd"], r"--keep \['idd'\]: no row has such a column; .*'id'"),
        ("texts.txt", "Lima", ["--batch_size", "0"], r"--batch_size is 0; it must be at least 1"),
        ("texts.txt", "Lima", ["--num_workers", "0"], r"--num_workers is 0; it must be at least 1"),
        ("texts.txt", "Lima", ["--num_workers", "2"], r"--num_workers 2 needs --engine ray"),
        ("texts.docx", "no", [], r"files are read as .*not '.docx'"),
        ("texts.txt", "Lima", ["--keep", "ner"], r"--keep \['ner'\]: the answers have columns of these names"),
        ("texts.txt", "Lima", ["--output", "answers.xlsx"], r"answers are written as .jsonl or .parquet"),
        ("texts.txt", "Lima", ["--input", "nowhere"], r"nowhere: no such file"),
        ("texts.txt", "Lima", ["--model", "nowhere"], r"No checkpoint found under 'nowhere'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(answer, tmp_path, name, content, flags, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        answer(tmp_path / name, *flags)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_output_below_a_file_is_refused(answer, tmp_path):
    write(tmp_path / "texts.txt", TEXTS)
    with pytest.raises(ValueError, match="cannot be written"):
        answer(tmp_path / "texts.txt", output="texts.txt/answers.jsonl")


def test_a_file_that_is_there_is_not_written_over(answer, tmp_path):
    write(tmp_path / "texts.txt", TEXTS)
    (tmp_path / "answers.jsonl").write_text("mine")
    with pytest.raises(ValueError, match="exists already"):
        answer(tmp_path / "texts.txt")
    assert (tmp_path / "answers.jsonl").read_text() == "mine"


@pytest.mark.parametrize("output", ["answers.jsonl", "answers.parquet"])
def test_kept_columns_that_are_no_text(answer, tmp_path, output):
    (tmp_path / "texts.jsonl").write_text('{"text": "Lima", "id": 5, "of": ["a"]}\n{"text": "Oslo", "id": null}\n')
    kept = [(row["id"], row["of"]) for row in answer(tmp_path / "texts.jsonl", "--keep", "id", "of", output=output)]
    assert kept == ([(5, ["a"]), (None, None)] if output == "answers.jsonl" else [("5", '["a"]'), (None, None)])


@pytest.mark.parametrize("output", ["answers.jsonl", "answers.parquet"])
def test_kept_ids_of_classes_are_names_and_a_column_is_kept_once(answer, tmp_path, output):
    names = ClassLabel(names=["World", "Sports"])
    features = Features({"text": Value("string"), "label": names, "of": List(names)})
    rows = {"text": ["Lima", "Oslo"], "label": [1, -1], "of": [[1, 0], None]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "texts.parquet")
    rows = answer(tmp_path / "texts.parquet", "--keep", "label", "of", "label", output=output)
    kinds = ["Sports", "World"] if output == "answers.jsonl" else '["Sports", "World"]'
    assert [(row["label"], row["of"]) for row in rows] == [("Sports", kinds), (None, None)]


def test_kept_numbers_that_json_does_not_have_are_missing(answer, tmp_path):
    table = pa.table({"text": ["Lima", "Oslo"], "price": [1.5, float("nan")], "of": [[float("inf"), 2.0], None]})
    pq.write_table(table, tmp_path / "texts.parquet")
    rows = answer(tmp_path / "texts.parquet", "--keep", "price", "of")
    assert [(row["price"], row["of"]) for row in rows] == [(1.5, [None, 2.0]), (None, None)]
    assert "NaN" not in (tmp_path / "answers.jsonl").read_text()


def test_answers_within_the_folder_of_the_texts_are_no_texts(answer, tmp_path):
    write(tmp_path / "texts.csv", TEXTS)
    (tmp_path / "other.jsonl.partial").mkdir()
    write(tmp_path / "other.jsonl.partial" / "answers.jsonl", TEXTS)
    assert [row["text"] for row in answer(tmp_path)] == TEXTS


def test_one_process_at_a_time_writes_an_output(answer, tmp_path):
    write(tmp_path / "texts.csv", TEXTS)
    with pytest.raises(ValueError, match=r"Another process is writing .*answers.jsonl"):
        with Unfinished(tmp_path / "answers.jsonl", {}).opened():
            answer(tmp_path / "texts.csv")


@pytest.mark.parametrize("left", [{}, {DESCRIPTION_FILE: ""}, {DESCRIPTION_FILE: '{"model"'}, {LINES_FILE: "x"}])
def test_a_folder_that_was_never_whole_begins_anew(answer, expected, close, tmp_path, left):
    write(tmp_path / "texts.csv", TEXTS)
    (tmp_path / "answers.jsonl.partial").mkdir()
    for name, content in left.items():
        (tmp_path / "answers.jsonl.partial" / name).write_text(content)
    assert close(answer(tmp_path / "texts.csv"), expected, 1e-5)


def test_a_cell_longer_than_the_csv_module_expects_is_read(answer, tmp_path):
    write(tmp_path / "texts.csv", ["Lima, " * 30 + "Lima" * 37_455])  # a word that long is one token
    assert len(answer(tmp_path / "texts.csv")[0]["text"]) == 150_000


def test_a_checkpoint_without_its_vocabulary_is_refused(checkpoint, answer, tmp_path):
    write(tmp_path / "texts.txt", TEXTS)
    shutil.copytree(checkpoint, tmp_path / "bare")
    for name in ("tokenizer.json", "vocab.txt"):
        (tmp_path / "bare" / name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match="no vocabulary"):
        answer(tmp_path / "texts.txt", "--model", str(tmp_path / "bare"))


def test_an_export_answers_like_its_checkpoint(exported, expected, close, tmp_path):
    write(tmp_path / "texts.csv", TEXTS)
    paths = ["--input", str(tmp_path / "texts.csv"), "--output", str(tmp_path / "answers.jsonl")]
    main(["--model", str(exported), *paths, "--precision", "fp32"])
    assert close(read(tmp_path / "answers.jsonl"), expected, 1e-4)


def test_a_checkpoint_that_is_converted_to_openvino_answers_as_before(
    shallow_model, tokenizer, close, tmp_path, monkeypatch
):
    for part in (shallow_model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    write(tmp_path / "texts.csv", TEXTS)
    converted = []

    def answer(output: str, *flags: str) -> list[dict]:
        paths = ["--model", tmp_path / "model", "--input", tmp_path / "texts.csv", "--output", tmp_path / output]
        main([*map(str, paths), "--precision", "fp32", *flags])
        return read(tmp_path / output)

    def counted(pipeline, **options):
        converted.append(pipeline)
        return on_openvino(pipeline, **options)

    monkeypatch.setattr(predicting, "on_openvino", counted)
    expected = answer("few.jsonl")
    assert len(converted) == 0, "five texts are too few to convert a model for"
    assert close(answer("asked.jsonl", "--backend", "openvino"), expected, 1e-4)
    assert len(converted) == 1
    monkeypatch.setattr(predicting, "WORTH_CONVERTING", len(TEXTS))
    for has_only_avx2, num_converted in ((False, 2), (True, 2)):
        monkeypatch.setattr(predicting, "has_only_avx2", lambda value=has_only_avx2: value)
        assert close(answer(f"many_{has_only_avx2}.jsonl"), expected, 1e-4)
        assert len(converted) == num_converted, "with AVX2 alone, torch is as fast"


def test_a_model_that_cannot_be_converted_runs_on_torch_unless_openvino_is_asked_for(
    untraceable, tmp_path, close, monkeypatch, caplog
):
    write(tmp_path / "texts.csv", TEXTS)
    monkeypatch.setattr(predicting, "WORTH_CONVERTING", len(TEXTS))
    monkeypatch.setattr(predicting, "has_only_avx2", lambda: False)
    paths = ["--model", str(untraceable), "--input", str(tmp_path / "texts.csv"), "--precision", "fp32", "--output"]
    main([*paths, str(tmp_path / "answers.jsonl")])
    assert "cannot be converted to OpenVINO" in caplog.text
    expected = load_pipeline(untraceable)(TEXTS, return_embeddings=False)
    assert close(
        read(tmp_path / "answers.jsonl"), [{"text": t} | a for t, a in zip(TEXTS, expected, strict=True)], 1e-5
    )
    with pytest.raises(ValueError, match="cannot be converted to OpenVINO"):
        main([*paths, str(tmp_path / "others.jsonl"), "--backend", "openvino"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--engine", "ray"], "--engine ray sends a checkpoint to its workers; name one instead of an export"),
        (["--backend", "torch"], "--backend torch is for checkpoints; an export runs on its own runtime"),
    ],
)
def test_what_an_export_cannot_do_is_refused(exported, tmp_path, flags, message):
    write(tmp_path / "texts.csv", TEXTS)
    paths = ["--input", str(tmp_path / "texts.csv"), "--output", str(tmp_path / "answers.jsonl")]
    with pytest.raises(ValueError, match=message):
        main(["--model", str(exported), *paths, *flags])


def test_openvino_does_not_run_on_ray(answer, tmp_path):
    write(tmp_path / "texts.csv", TEXTS)
    with pytest.raises(ValueError, match="--backend openvino runs in this process; drop --engine ray"):
        answer(tmp_path / "texts.csv", "--backend", "openvino", "--engine", "ray")
