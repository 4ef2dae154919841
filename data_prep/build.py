"""From a source of news to a folder of Parquet files with topics and entities."""

import inspect
import itertools
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, List, Value
from tqdm import tqdm

from .cleaning import clean
from .dataset_card import Provenance, dataset_card
from .labelling import EntityLabeller, LabelledText
from .sources import Source, open_source


try:  # installed: this is `mtsbert.data_prep`
    from ..entities_mtsbert import bio_labels, spans_to_tags
except ImportError:  # run from a clone, with the repository root on `sys.path`
    from entities_mtsbert import bio_labels, spans_to_tags


DEFAULT_SOURCE = "fancyzhx/ag_news"
DEFAULT_SPACY_MODEL = "en_core_web_sm"
ROWS_PER_GROUP = 1_000  # rows held in memory, and in one Parquet row group


def check_options(options: dict) -> None:
    """Raises `ValueError` unless `options` are named like the parameters of `build_dataset`, `output` among them."""
    known = list(inspect.signature(build_dataset).parameters)
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"`prepare` has unknown keys {unknown}; allowed are {known}.")
    if "output" not in options:
        raise ValueError("`prepare` needs an 'output' folder.")


def build_dataset(
    *,
    source: str = DEFAULT_SOURCE,
    spacy_model: str = DEFAULT_SPACY_MODEL,
    output: str | Path,
    num_proc: int = 1,
    max_rows: int | None = None,
    validation_share: float = 0.0,
    overwrite: bool = False,
) -> Provenance:
    """
    Builds a dataset folder: `train.parquet` and so on, and a card. It appears under its name only when it is whole.

    Args:
        source (`str`): See [`~data_prep.sources.open_source`].
        spacy_model (`str`): The spaCy pipeline that labels entities.
        output (`str` or `Path`): The folder to write.
        num_proc (`int`): Processes that spaCy labels with.
        max_rows (`int`, *optional*): At most so many rows of each split.
        validation_share (`float`): Where the source has no validation split, this share of its training rows becomes
            one, chosen by a checksum of the text.
        overwrite (`bool`): Whether a non-empty `output` may be replaced.

    Raises:
        `ValueError`: for bad input; nothing is left behind then.
    """
    output = Path(output)
    if num_proc < 1:
        raise ValueError(f"`num_proc` is {num_proc}; it must be at least 1.")
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"`max_rows` is {max_rows}; it must be at least 1.")
    if not 0.0 <= validation_share < 1.0:
        raise ValueError(f"`validation_share` is {validation_share}; it must lie in [0, 1).")
    if output.exists() and not output.is_dir():
        raise ValueError(f"Output {output} is a file; name a folder.")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise ValueError(f"Output folder {output} is not empty. Pass --overwrite to replace it, or name another.")

    opened = open_source(source)
    labeller = EntityLabeller(spacy_model)
    provenance = Provenance(
        source=opened.description,
        license=opened.license,
        labeller=labeller.name,
        spacy_version=labeller.spacy_version,
    )
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise ValueError(f"Output folder {output} cannot be written: {error}.") from None
    try:
        features = _features(opened, labeller)
        for split, rows in _splits(opened, validation_share).items():
            rows = itertools.islice(rows, max_rows)
            labelled = _label_rows(tqdm(rows, desc=split, unit=" texts"), labeller, features, provenance, num_proc)
            provenance.num_rows[split] = _write_parquet(labelled, partial / f"{split}.parquet", features)
            if not provenance.num_rows[split]:
                raise ValueError(f"Split {split!r} of source {source!r} has no row with text in it.")
        (partial / "README.md").write_text(dataset_card(provenance), encoding="utf-8")
        if output.exists():
            shutil.rmtree(output)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return provenance


def _features(source: Source, labeller: EntityLabeller) -> Features:
    return Features(
        {
            "text": Value("string"),
            "label": ClassLabel(names=source.label_names),
            **{name: ClassLabel(names=names) for name, names in source.extra_labels.items()},
            "entities": List({"start": Value("int32"), "end": Value("int32"), "label": Value("string")}),
            "tokens": List(Value("string")),
            "ner_tags": List(ClassLabel(names=bio_labels(labeller.types))),
        }
    )


def _splits(source: Source, validation_share: float) -> dict[str, Iterator[dict]]:
    """The splits to write, in order; a missing validation split is cut from the training rows."""
    splits = {split: rows() for split, rows in source.splits.items()}
    if not validation_share or "train" not in splits or "validation" in splits:
        return splits

    def held_out(row: dict) -> bool:
        return zlib.crc32("\n".join(row["parts"]).encode()) / 2**32 < validation_share

    train = source.splits["train"]
    return {
        "train": (row for row in train() if not held_out(row)),
        "validation": (row for row in train() if held_out(row)),
        **{split: rows for split, rows in splits.items() if split != "train"},
    }


def _label_rows(
    rows: Iterator[dict], labeller: EntityLabeller, features: Features, provenance: Provenance, num_proc: int
) -> Iterator[dict]:
    """Cleaned and labelled rows of the dataset's schema, in order; rows without text are counted and left out."""
    label2id = {tag: index for index, tag in enumerate(features["ner_tags"].feature.names)}

    def parts() -> Iterator[tuple[str, tuple[int, dict]]]:
        for number, row in enumerate(rows):
            given = [part.strip() for part in row["parts"] if part.strip()]
            cleaned = [part for part in map(clean, given) if part]
            provenance.num_empty += not cleaned
            provenance.num_cleaned += cleaned != given
            yield from ((part, (number, row)) for part in cleaned)

    labelled = labeller.label(parts(), num_proc=num_proc)
    for _, parts_of_row in itertools.groupby(labelled, key=lambda part: part.context[0]):
        yield _join_parts(list(parts_of_row), label2id, provenance)


def _join_parts(parts: list[LabelledText], label2id: dict[str, int], provenance: Provenance) -> dict:
    """One row of the dataset from its parts, each labelled for itself."""
    _, row = parts[0].context
    text, entities, words = "", [], []
    for part in parts:
        shift = len(text) + 1 if text else 0
        text = f"{text} {part.text}" if text else part.text
        entities += [{**span, "start": span["start"] + shift, "end": span["end"] + shift} for span in part.entities]
        words += [(start + shift, end + shift) for start, end in part.words]
    provenance.type_counts.update(span["label"] for span in entities)
    return {
        "text": text,
        **{name: value for name, value in row.items() if name != "parts"},
        "entities": entities,
        "tokens": [text[start:end] for start, end in words],
        "ner_tags": spans_to_tags(entities, words, label2id).tags,
    }


def _write_parquet(rows: Iterator[dict], path: Path, features: Features) -> int:
    """Writes rows in groups and returns how many there were."""
    schema = features.arrow_schema
    num_rows = 0
    with pq.ParquetWriter(path, schema) as writer:
        while group := list(itertools.islice(rows, ROWS_PER_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            num_rows += len(group)
    return num_rows
