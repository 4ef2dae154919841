"""Opens sources of news: the embedded sample, CSV files in the format of AG News, or a dataset on the Hub."""

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path


SAMPLE = "sample"
SAMPLE_FILE = Path(__file__).parent / "sample" / "news.jsonl"
TOPICS = ["World", "Sports", "Business", "Sci/Tech"]
SENTIMENTS = ["negative", "neutral", "positive"]
SPLITS = ("train", "validation", "test")
MAX_CHARACTERS = 131_072  # per field; the default limit of the csv module, which other code in the process may raise
_SPLIT_OF_STEM = {"dev": "validation", "valid": "validation", "val": "validation"}


@dataclass
class Source:
    """News by split. A row is `{"parts": [title, description], "label": int, …}`; parts are labelled separately."""

    description: str
    license: str
    splits: dict[str, Callable[[], Iterator[dict]]]
    label_names: list[str] = field(default_factory=lambda: list(TOPICS))
    has_parts: bool = True
    """Whether title and description are told apart."""
    extra_labels: dict[str, list[str]] = field(default_factory=dict)
    """Further label columns: name → label names."""


def open_source(source: str) -> Source:
    """
    Opens a source of news.

    Args:
        source (`str`): `"sample"`, a CSV file or a folder of them (`class,title,description` without a header, classes
            1 to 4), or the id of a Hub dataset with the columns `text` and `label`.

    Raises:
        `ValueError`: if nothing is found under this name.
    """
    if source == SAMPLE:
        return _open_sample()
    path = Path(source)
    if path.is_dir():
        return _open_csv_files(sorted(path.glob("*.csv")), source)
    if path.is_file():
        return _open_csv_files([path], source)
    is_file = re.fullmatch(r"\.(?!v\d)[A-Za-z]\w*", path.suffix)  # and not the version of a dataset, as in `news-1.5`
    if is_file or path.is_absolute() or source.startswith("."):
        raise ValueError(f"Source {source!r} is neither a file nor a folder, and no Hub id looks like that.")
    return _open_hub_dataset(source)


def _open_sample() -> Source:
    def rows(split: str) -> Iterator[dict]:
        with SAMPLE_FILE.open(encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                if row["split"] == split:
                    yield {
                        "parts": [row["title"], row["description"]],
                        "label": TOPICS.index(row["topic"]),
                        "sentiment": SENTIMENTS.index(row["sentiment"]),
                    }

    return Source(
        description="the news sample of mtsbert: short invented news items written for that project",
        license="apache-2.0",
        splits={split: lambda split=split: rows(split) for split in SPLITS},
        extra_labels={"sentiment": SENTIMENTS},
    )


def _open_csv_files(paths: list[Path], source: str) -> Source:
    splits: dict[str, Path] = {}
    for path in paths:
        split = _SPLIT_OF_STEM.get(path.stem, path.stem)
        if len(paths) == 1 and split not in SPLITS:
            split = "train"
        if split not in SPLITS:
            raise ValueError(
                f"{path}: a file of a CSV folder is called train.csv, validation.csv (dev.csv) or test.csv."
            )
        if split in splits:
            raise ValueError(f"{path}: {splits[split].name} is the {split} split already; keep one of the two.")
        splits[split] = path
    if not splits:
        raise ValueError(f"Source {source!r} has no .csv file in it.")
    return Source(
        description=f"CSV files in AG News' format ({', '.join(path.name for path in splits.values())})",
        license="other",
        splits={split: lambda path=splits[split]: _read_csv(path) for split in SPLITS if split in splits},
    )


def _read_csv(path: Path) -> Iterator[dict]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            first_empty = None  # an empty line is an error, unless all that follow are empty
            for row, fields in enumerate(reader, start=1):
                if not fields:
                    first_empty = first_empty or row
                    continue
                if first_empty is not None:
                    raise ValueError(f"Row {first_empty} of {path} is empty; it needs class, title and description.")
                if len(fields) != 3:
                    raise ValueError(
                        f"Row {row} of {path} has {len(fields)} fields; it needs class, title and description."
                    )
                if fields[0] not in ("1", "2", "3", "4"):
                    raise ValueError(
                        f"Row {row} of {path} has class {fields[0]!r}; classes are 1 World, 2 Sports, 3 Business, "
                        "4 Sci/Tech, and there is no header line."
                    )
                if (longest := max(map(len, fields))) > MAX_CHARACTERS:
                    raise ValueError(
                        f"Row {row} of {path} has {longest:,} characters in a field. Is a quotation mark open there?"
                    )
                yield {"parts": fields[1:], "label": int(fields[0]) - 1}
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); convert it first.") from None
    except csv.Error as error:
        raise ValueError(
            f"Line {reader.line_num} of {path} cannot be read: {error}. Is a quotation mark open before it?"
        ) from None


def _open_hub_dataset(source: str) -> Source:
    from datasets import ClassLabel, load_dataset

    try:
        dataset = load_dataset(source)
    except Exception as error:  # the Hub's errors share no base class; the remedy is the same for all
        raise ValueError(
            f"Source {source!r} is no local file or folder, and could not be loaded as a Hub dataset "
            f"({type(error).__name__}: {error}). Name a CSV file in AG News' format, or 'sample'."
        ) from error
    splits = {split: rows for split, rows in dataset.items() if split in SPLITS}
    for split, rows in splits.items():
        if "text" not in rows.column_names or not isinstance(rows.features.get("label"), ClassLabel):
            raise ValueError(
                f"{source!r}, split {split!r}: needs a column 'text' and a ClassLabel column 'label'; "
                f"it has {rows.features}."
            )
    if not splits:
        raise ValueError(f"{source!r} has none of the splits {list(SPLITS)}; it has {list(dataset)}.")
    return Source(
        description=f"the Hub dataset [{source}](https://huggingface.co/datasets/{source})",
        license="other",
        has_parts=False,
        splits={
            split: lambda rows=splits[split]: ({"parts": [row["text"] or ""], "label": row["label"]} for row in rows)
            for split in SPLITS
            if split in splits
        },
        label_names=next(iter(splits.values())).features["label"].names,
    )
