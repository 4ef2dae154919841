"""Makes triplets for a ranking task from natural language inference: premise, entailed and contradicting text."""

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from .output import check_output, write_splits


ENTAILMENT, NEUTRAL, CONTRADICTION = LABELS = ("entailment", "neutral", "contradiction")
COLUMNS = ("label", "premise", "hypothesis")
SPLIT_OF_STEM = {"dev": "validation", "eval": "validation", "valid": "validation", "val": "validation"}
SPLITS = ("train", "validation", "test")
SCHEMA = pa.schema([(name, pa.string()) for name in ("text", "text_pair", "text_negative")])


def build_triplets(*, nli: str | Path, output: str | Path, overwrite: bool = False) -> dict[str, int]:
    """
    Writes a dataset folder with a Parquet file per split: `text` is a premise, `text_pair` a hypothesis that follows
    from it, and `text_negative` one that contradicts it, or null if the source has none for this premise.

    Args:
        nli (`str` or `Path`): A CSV file with the columns `label` (entailment, neutral or contradiction), `premise`
            and `hypothesis`, or a folder of such files (train.csv; validation.csv, dev.csv or eval.csv; test.csv).
        output (`str` or `Path`): The folder to write.
        overwrite (`bool`, *optional*, defaults to `False`): Whether a non-empty `output` may be replaced.

    Returns:
        `dict[str, int]`: Split → number of triplets.

    Raises:
        `ValueError`: for invalid input. Nothing is left behind in that case.
    """
    output = Path(output)
    check_output(output, overwrite=overwrite)
    made: dict[str, list[dict]] = {}
    for split, path in _files_of(Path(nli)).items():
        made[split] = list(triplets_of(read_nli(path)))
        if not made[split]:
            raise ValueError(f"{path} has no pair with the label {ENTAILMENT!r}, and a ranking learns from those.")
    return write_splits(made, SCHEMA, output)


def triplets_of(rows: Iterable[tuple[str, str, str]]) -> Iterator[dict[str, str | None]]:
    """
    Yields a triplet for every entailed pair, once. The contradictions of a premise are given to its entailed pairs in
    turn.

    Args:
        rows (`Iterable[tuple[str, str, str]]`): Label, premise and hypothesis of each pair.

    Example:

        >>> pairs = [("entailment", "A dog runs", "An animal moves"), ("contradiction", "A dog runs", "A dog sleeps")]
        >>> list(triplets_of(pairs))
        [{'text': 'A dog runs', 'text_pair': 'An animal moves', 'text_negative': 'A dog sleeps'}]
    """
    hypotheses: dict[str, dict[str, list[str]]] = defaultdict(lambda: {label: [] for label in LABELS})
    for label, premise, hypothesis in rows:
        if hypothesis not in hypotheses[premise][label]:
            hypotheses[premise][label].append(hypothesis)
    for premise, by_label in hypotheses.items():
        for place, hypothesis in enumerate(by_label[ENTAILMENT]):
            against = [other for other in by_label[CONTRADICTION] if other != hypothesis]  # some sources say both
            negative = against[place % len(against)] if against else None
            yield {"text": premise, "text_pair": hypothesis, "text_negative": negative}


def read_nli(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yields label, premise and hypothesis of each row. Raises `ValueError`, naming the row, if one cannot be used."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            if missing := [column for column in COLUMNS if column not in (reader.fieldnames or [])]:
                raise ValueError(f"{path} has no column {missing[0]!r}; it needs {list(COLUMNS)} in its header.")
            for row, cells in enumerate(reader, start=1):
                if None in cells:
                    raise ValueError(f"Row {row} of {path} has more cells than the header; quote texts with a comma.")
                label, premise, hypothesis = (cells[column] for column in COLUMNS)
                if label not in LABELS:
                    raise ValueError(f"Row {row} of {path} has the label {label!r}; allowed are {list(LABELS)}.")
                if not (premise or "").strip() or not (hypothesis or "").strip():
                    raise ValueError(f"Row {row} of {path} lacks a premise or a hypothesis.")
                yield label, premise, hypothesis
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); convert it first.") from None
    except csv.Error as error:
        raise ValueError(f"Line {reader.line_num} of {path} cannot be read: {error}.") from None


def _files_of(source: Path) -> dict[str, Path]:
    if source.is_file():
        return {"train": source}
    found: dict[str, Path] = {}
    for path in sorted(source.glob("*.csv")):
        split = SPLIT_OF_STEM.get(path.stem, path.stem)
        if split not in SPLITS:
            raise ValueError(f"{path}: a file of a folder is called train.csv, validation.csv (eval.csv) or test.csv.")
        if split in found:
            raise ValueError(f"{path}: {found[split].name} is the {split} split already; keep one of the two.")
        found[split] = path
    if not found:
        raise ValueError(f"{source} is neither a CSV file nor a folder of CSV files.")
    return {split: found[split] for split in SPLITS if split in found}
