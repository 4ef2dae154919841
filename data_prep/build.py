"""Builds a folder of Parquet files with topics and entities from a source of news."""

import inspect
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, List, Value
from tqdm import tqdm

from entities_mtsbert import bio_labels

from .blocks import BlockLabeller, LabelledBlock, blocks_of, types_of
from .cleaning import clean
from .dataset_card import BuildSummary, dataset_card
from .headlines import Truecaser
from .labelling import EntityLabeller
from .links import with_links
from .output import check_output, unfinished_output
from .pairs import build_pairs
from .processes import processes
from .ray_workers import LOCAL, RAY, check_engine, ray_workers
from .sources import Source, open_source
from .triplets import build_triplets


DEFAULT_SOURCE = "fancyzhx/ag_news"
DEFAULT_SPACY_MODEL = "en_core_web_sm"
ROWS_TO_LEARN_SPELLING = 20_000
ROWS_PER_GROUP = 1_000  # minimum size of a Parquet row group, which is kept in memory until it is written


OTHER_BUILDS = {"nli": (build_triplets, "triplets"), "pairs_of": (build_pairs, "pairs")}  # option → what it makes


def check_options(options: dict) -> Callable:
    """
    Returns the function that builds a dataset with these options: that of `OTHER_BUILDS`, or `build_dataset`. Raises
    `ValueError` unless all of them are parameters of it, and `output` is among them.
    """
    build = next((build for option, (build, _) in OTHER_BUILDS.items() if option in options), build_dataset)
    known = list(inspect.signature(build).parameters)
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"`prepare` has unknown keys {unknown}; allowed are {known}.")
    if "output" not in options:
        raise ValueError("`prepare` needs an 'output' folder.")
    return build


def build_dataset(
    *,
    source: str = DEFAULT_SOURCE,
    spacy_model: str | Sequence[str] = DEFAULT_SPACY_MODEL,
    output: str | Path,
    engine: str = LOCAL,
    num_proc: int = 1,
    max_rows: int | None = None,
    validation_share: float = 0.0,
    truecase_headlines: bool = False,
    link_share: float = 0.0,
    overwrite: bool = False,
) -> BuildSummary:
    """
    Builds a dataset folder with a Parquet file per split and a dataset card. The folder is created only when it is
    complete.

    Args:
        source (`str`, *optional*, defaults to `"fancyzhx/ag_news"`): See [`~data_prep.sources.open_source`].
        spacy_model (`str` or list of `str`, *optional*, defaults to `"en_core_web_sm"`): The spaCy pipeline that
            labels entities. If there are several, they vote (see [`~data_prep.spans.vote`]); where they do not
            agree, the entity has no label.
        output (`str` or `Path`): The folder to write.
        engine (`str`, *optional*, defaults to `"local"`): `"local"`, or `"ray"` for a Ray cluster (see
            `ray_workers.py`). Both write exactly the same files.
        num_proc (`int`, *optional*, defaults to 1): The number of processes or Ray workers. A script that uses several
            processes needs to guard the call with `if __name__ == "__main__"`.
        max_rows (`int`, *optional*): The maximum number of rows per split.
        validation_share (`float`, *optional*, defaults to 0.0): If the source has no validation split, the share of
            its training rows to use for validation, chosen by a checksum of the text.
        truecase_headlines (`bool`, *optional*, defaults to `False`): Whether to label Headlines That Capitalise Their
            Words as if they were written in sentence case. The column `text` does not change.
        link_share (`float`, *optional*, defaults to 0.0): The share of the training texts that get a made-up link at
            their end, chosen by a checksum of the text. A model of news without links takes them for names.
        overwrite (`bool`, *optional*, defaults to `False`): Whether a non-empty `output` may be replaced.

    Raises:
        `ValueError`: for invalid input. Nothing is left behind in that case.
    """
    output = Path(output)
    check_engine(engine, num_proc, "`num_proc`")
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"`max_rows` is {max_rows}; it must be at least 1.")
    if not 0.0 <= validation_share < 1.0:
        raise ValueError(f"`validation_share` is {validation_share}; it must lie in [0, 1).")
    if not 0.0 <= link_share <= 1.0:
        raise ValueError(f"`link_share` is {link_share}; it must lie in [0, 1].")
    check_output(output, overwrite=overwrite)

    opened = open_source(source)
    spacy_models = [spacy_model] if isinstance(spacy_model, str) else list(dict.fromkeys(spacy_model))
    if not spacy_models:
        raise ValueError("`spacy_model` is empty; name a spaCy pipeline.")
    labellers = [EntityLabeller(name) for name in spacy_models]
    summary = BuildSummary(
        source=opened.description,
        license=opened.license,
        labellers=[labeller.name for labeller in labellers],
        spacy_version=labellers[0].spacy_version,
        has_parts=opened.has_parts,
        truecases_headlines=truecase_headlines,
        link_share=link_share,
    )
    with unfinished_output(output) as unfinished:
        schema = _features(opened, types_of(labellers)).arrow_schema
        truecaser = Truecaser(_first_texts(opened)) if truecase_headlines else None
        with _labelling(engine, num_proc, spacy_models, labellers, schema, truecaser) as label:
            for split, rows in _splits(opened, validation_share).items():
                if split == "train" and link_share:
                    rows = with_links(rows, link_share)
                labelled = label(blocks_of(itertools.islice(rows, max_rows)))
                path = unfinished / f"{split}.parquet"
                summary.num_rows[split] = _write_parquet(_counted(labelled, summary, split), path, schema)
                if not summary.num_rows[split]:
                    raise ValueError(f"Split {split!r} of source {source!r} has no row with text in it.")
        (unfinished / "README.md").write_text(dataset_card(summary), encoding="utf-8")
    return summary


def _first_texts(source: Source) -> Iterator[str]:
    """Yields the first texts of the first split, which is the training split if there is one."""
    rows = next(iter(source.splits.values()))()
    for row in itertools.islice(rows, ROWS_TO_LEARN_SPELLING):
        yield from map(clean, row["parts"])


def _features(source: Source, types: list[str]) -> Features:
    return Features(
        {
            "text": Value("string"),
            "label": ClassLabel(names=source.label_names),
            **{name: ClassLabel(names=names) for name, names in source.extra_labels.items()},
            "entities": List({"start": Value("int32"), "end": Value("int32"), "label": Value("string")}),
            "tokens": List(Value("string")),
            "ner_tags": List(ClassLabel(names=bio_labels(types))),
        }
    )


def _splits(source: Source, validation_share: float) -> dict[str, Iterator[dict]]:
    """Returns the splits to write, in order. A missing validation split is held out from the training rows."""
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


@contextmanager
def _labelling(
    engine: str,
    num_proc: int,
    spacy_models: list[str],
    labellers: list[EntityLabeller],
    schema: pa.Schema,
    truecaser: Truecaser | None,
) -> Iterator[Callable[[Iterable[list[dict]]], Iterator[LabelledBlock]]]:
    """Yields a function that labels blocks of rows in order, in this process, in several, or on a Ray cluster."""
    versions = [labeller.version for labeller in labellers]
    load = partial(BlockLabeller.load, spacy_models, versions, schema, truecaser)
    if engine == RAY:
        with ray_workers(load, num_proc) as label:
            yield label
    elif num_proc > 1:
        with processes(load, num_proc) as label:
            yield label
    else:
        yield partial(map, BlockLabeller(labellers, schema, truecaser))


def _counted(blocks: Iterable[LabelledBlock], summary: BuildSummary, split: str) -> Iterator[pa.RecordBatch]:
    """Yields the rows of each block and adds its counts to the summary."""
    with tqdm(desc=split, unit=" texts") as progress:
        for block in blocks:
            summary.num_empty += block.num_empty
            summary.num_cleaned += block.num_cleaned
            summary.type_counts.update(block.type_counts)
            progress.update(block.num_read)
            yield block.rows


def _write_parquet(batches: Iterable[pa.RecordBatch], path: Path, schema: pa.Schema) -> int:
    """Writes rows in row groups and returns their number."""
    num_rows = 0
    group: list[pa.RecordBatch] = []
    with pq.ParquetWriter(path, schema) as writer:
        for batch in batches:
            group.append(batch)
            num_rows += batch.num_rows
            if sum(batch.num_rows for batch in group) >= ROWS_PER_GROUP:
                writer.write_table(pa.Table.from_batches(group))
                group = []
        if group:
            writer.write_table(pa.Table.from_batches(group))
    return num_rows
