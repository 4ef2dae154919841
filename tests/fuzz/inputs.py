"""Hypothesis strategies for files of all formats: valid ones, and ones with a few changed bytes."""

import csv
import io
import json
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import strategies as st


@dataclass(frozen=True)
class Written:
    """Bytes that were written from rows by the standard writer of their format."""

    data: bytes
    rows: list[dict]


# Letters, what formats give a meaning to, what only looks like a blank or a line end, and all of Unicode.
AWKWARD = "Oa \",\t\n\r'\\#-\0\x1c\x85\xa0\u2028\ufeffé👩"
texts = st.text(st.one_of(st.sampled_from(AWKWARD), st.characters(exclude_categories=["Cs"])), max_size=6)
names = st.sampled_from(["text", "topic", "entities", "id", "text_pair"])
TYPES = ["GPE", "ORG"]


@st.composite
def csv_files(draw) -> Written:
    header = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    cells = draw(st.lists(st.lists(texts, min_size=len(header), max_size=len(header)), max_size=4))
    lines = io.StringIO()
    quoting, end = draw(  # where lines end by one of \r and \n, the writer leaves cells with the other unquoted
        st.sampled_from([(csv.QUOTE_MINIMAL, "\r\n"), *((csv.QUOTE_ALL, end) for end in ("\n", "\r\n", "\r"))])
    )
    writer = csv.writer(lines, quoting=quoting, lineterminator=end)
    writer.writerows([header, *cells])
    mark = draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    rows = [{name: cell or None for name, cell in zip(header, row, strict=True)} for row in cells]
    return Written(mark + lines.getvalue().encode(), rows)


@st.composite
def tsv_files(draw) -> Written:
    """Cells as they are, without what separates them."""
    header = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    plain_texts = texts.map(lambda text: text.translate(dict.fromkeys(map(ord, "\t\r\n"), " ")))
    cells = draw(st.lists(st.lists(plain_texts, min_size=len(header), max_size=len(header)), max_size=4))
    cells = [row for row in cells if row != [""]]  # an empty line is no row
    end = draw(st.sampled_from(["\n", "\r\n"]))
    mark = draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    rows = [{name: cell or None for name, cell in zip(header, row, strict=True)} for row in cells]
    return Written(mark + "".join("\t".join(row) + end for row in [header, *cells]).encode(), rows)


spans = st.fixed_dictionaries(
    {"start": st.integers(-2, 30), "end": st.integers(-2, 30), "label": st.sampled_from([*TYPES, None])}
)
columns = {
    "text": st.one_of(st.none(), texts),
    "topic": st.one_of(st.none(), st.sampled_from(["World", "Sports"])),
    "entities": st.one_of(st.none(), st.lists(spans, max_size=2)),
    "score": st.one_of(st.none(), st.floats(), st.integers(-9, 9)),
    "tags": st.one_of(st.none(), st.lists(texts, max_size=3)),
}
rows = st.lists(st.fixed_dictionaries({}, optional=columns), max_size=4)


@st.composite
def jsonl_files(draw) -> Written:
    written = draw(rows)
    ascii_only = draw(st.booleans())
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in written]
    end = draw(st.sampled_from(["\n", "\r\n", "\n\n"]))
    return Written("".join(line + end for line in lines).encode(), written)


@st.composite
def json_files(draw) -> Written:
    written = draw(rows)
    return Written(json.dumps(written, indent=draw(st.sampled_from([None, 1]))).encode(), written)


# What a BIO file can hold: no tab, no line end, something visible.
words = st.text(st.characters(exclude_characters="\t\r\n", exclude_categories=["Cs"]), min_size=1, max_size=4).filter(
    lambda word: word.strip() and word != "-DOCSTART-" and not word.startswith("\ufeff") and not word.isdecimal()
)  # a column of numbers may count words
tags = st.sampled_from(["O", *(f"{prefix}-{entity}" for prefix in "BIES" for entity in TYPES), "X", "B-"])


@st.composite
def bio_files(draw) -> Written:
    written = draw(st.lists(st.lists(st.tuples(words, tags), min_size=1, max_size=4), max_size=3))
    between = draw(st.sampled_from(["\t", "\t_\t"]))
    blocks = ["".join(f"{word}{between}{tag}\n" for word, tag in text) for text in written]
    found = [{"tokens": [word for word, _ in text], "tags": [tag for _, tag in text]} for text in written]
    return Written("\n".join(blocks).encode(), found)


@st.composite
def parquet_files(draw) -> Written:
    written = draw(st.lists(st.fixed_dictionaries(columns | {"score": st.one_of(st.none(), st.floats())}), max_size=4))
    entity = pa.struct({"start": pa.int32(), "end": pa.int32(), "label": pa.string()})
    kinds = {
        "text": draw(st.sampled_from([pa.string(), pa.large_string()])),
        "topic": draw(st.sampled_from([pa.string(), pa.dictionary(pa.int8(), pa.string())])),
        "entities": pa.list_(entity),
        "score": draw(st.sampled_from([pa.float64(), pa.float64()])),
        "tags": pa.list_(pa.string()),
    }
    table = pa.Table.from_pylist(written, schema=pa.schema(kinds))
    file = io.BytesIO()
    pq.write_table(
        table,
        file,
        compression=draw(st.sampled_from(["none", "snappy", "zstd"])),
        row_group_size=draw(st.sampled_from([1, 100])),
    )
    return Written(file.getvalue(), written)


# The flags of a recipe whose values argparse converts in different ways.
whole = st.integers(1, 10**6)
plain = st.text("ab é1-:#'\"{}[]%&*!,~\n", max_size=5)  # the writer of YAML loses a U+0085, and the like
paths = st.text("abc/.-_ é", min_size=1, max_size=8).filter(lambda path: path != "--")
recipes = st.fixed_dictionaries(
    {
        "encoder_name_or_path": paths,
        "datasets": st.dictionaries(st.text("abc", min_size=1), st.dictionaries(st.text("abc"), plain), min_size=1),
    },
    optional={
        "tasks": st.dictionaries(
            st.text("abc", min_size=1),
            st.fixed_dictionaries(
                {"type": plain}, optional={"labels": st.lists(st.one_of(plain, whole, st.booleans()))}
            ),
        ),
        "pooling": st.sampled_from(["mean", "cls", "max", "", "no", "1"]),
        "normalize": st.booleans(),
        "head_dropout": st.floats(0, 1, allow_nan=False),
        "max_length": whole,
        "check_data": st.booleans(),
        "max_train_samples": st.one_of(st.none(), whole),
        "bad_rows": st.sampled_from(["error", "skip"]),
        "head_learning_rate": st.floats(0, 1, allow_nan=False),
        "freeze_heads": st.lists(st.text("abc123", min_size=1), max_size=3),
        "freeze_embeddings": st.booleans(),
        "feature_cache": st.one_of(st.none(), st.booleans()),
        "feature_cache_gb": st.floats(0.1, 100),
        "task_weights": st.dictionaries(st.text("abc", min_size=1), st.floats(0, 10)),
        "seed": whole,
        "output_dir": paths,
        "learning_rate": st.floats(0, 1, allow_nan=False),
        "warmup_steps": st.floats(0, 1, allow_nan=False),
    },
)


@st.composite
def recipe_files(draw) -> Written:
    recipe = draw(recipes)
    dumped = yaml.safe_dump(
        recipe, allow_unicode=draw(st.booleans()), default_flow_style=draw(st.sampled_from([None, True, False]))
    )
    return Written(dumped.encode(), [recipe])


FILES = {
    ".csv": csv_files(),
    ".tsv": tsv_files(),
    ".json": json_files(),
    ".jsonl": jsonl_files(),
    ".bio": bio_files(),
    ".parquet": parquet_files(),
    ".yaml": recipe_files(),
}
PIECES = {  # what the files of a format are made of, and what might break their readers
    ".csv": ', " "" ,, \n \r text \0 \ufeff'.split(" "),
    ".tsv": '\t " "" \t\t \n \r text \0 \ufeff'.split(" "),
    ".jsonl": '{ } [ ] " : , \n 1 - true null NaN 1e999 \\ud800 \\u0000 "a":1, {"text":[]}\n {"text":"a"}\n'.split(
        " "
    ),
    ".bio": "\t  \n \n\n \r O B-GPE -DOCSTART- \xa0 \u2028 \ufeff".split(" "),
    ".parquet": "PAR1 \0 \0\0\0\0 text huggingface".split(" "),
    ".yaml": ": - [ ] { } , ' \" # % | ? & * &a *a << !! !!int !!python/name:os ~ yes 0x 1:30 .nan 1e999".split(" "),
}
PIECES[".json"] = PIECES[".jsonl"]
PIECES[".jsonl"] += ["9" * 30, "9" * 5000, "[" * 3000]
PIECES[".yaml"] += [
    "\n",
    "  ",
    ": ",
    "- ",
    "&a ",
    "2024-13-45",
    "9" * 5000,
    "[" * 2000,
    "\0",
    "pooling: a\n",
    "seed: -1\n",
]


@st.composite
def changed(draw, suffix: str) -> bytes:
    """A file of which a few stretches were replaced, put in or taken out."""
    data = draw(FILES[suffix]).data
    stretch = st.one_of(st.sampled_from(PIECES[suffix]).map(str.encode), st.binary(max_size=2))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(stretch) + data[at + draw(st.integers(0, 8)) :]
    return data
