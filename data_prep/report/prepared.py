"""Reads a prepared dataset folder row by row, with constant memory."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features

from entities_mtsbert import check_spans

from ..sources import SPLITS


TEXT, ENTITIES = "text", "entities"
ROWS_PER_BATCH = 1_000


class Row(NamedTuple):
    number: int
    """Number among all rows of the folder, split after split, counted from 0."""
    split: str
    text: str
    labels: dict[str, str | None]
    """Label column → name; None where the row has no label."""
    entities: list[dict]


class PreparedDataset:
    """A dataset folder that `data_prep` has written, with texts, labels and entities.

    Args:
        folder (`Path`): The folder with `train.parquet` and so on.

    Raises:
        `ValueError`: if there are no such files, or they have no texts and entities.

    Example:

        >>> for row in PreparedDataset(Path("data/sample")).rows():
        ...     print(row.text, row.labels, row.entities)
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.paths = {split: folder / f"{split}.parquet" for split in SPLITS}
        self.paths = {split: path for split, path in self.paths.items() if path.is_file()}
        if not self.paths:
            files = ", ".join(f"{split}.parquet" for split in SPLITS)
            raise ValueError(f"{folder} has none of the files {files}; `python -m data_prep` makes such a folder.")
        self.num_rows: dict[str, int] = {}
        self.label_names: dict[str, list[str]] = {}
        for split, path in self.paths.items():
            try:
                metadata = pq.read_metadata(path)
            except pa.ArrowException as error:
                raise ValueError(f"{path} is not a Parquet file: {error}") from None
            features = Features.from_arrow_schema(metadata.schema.to_arrow_schema())
            if missing := [name for name in (TEXT, ENTITIES) if name not in features]:
                raise ValueError(f"{path} has no columns {missing}; it has {list(features)}.")
            names = {name: feature.names for name, feature in features.items() if isinstance(feature, ClassLabel)}
            if self.num_rows and names != self.label_names:
                raise ValueError(
                    f"{path} has the labels {names}, and the files before it {self.label_names}. Splits of a dataset "
                    "have the same; build the folder again."
                )
            self.label_names = names
            self.num_rows[split] = metadata.num_rows
        if not any(self.num_rows.values()):
            raise ValueError(f"{folder} has no rows in {', '.join(path.name for path in self.paths.values())}.")

    def rows(self) -> Iterator[Row]:
        """Yields all rows in order. Raises `ValueError` for a row whose entities do not fit its text."""
        number = 0
        for split, path in self.paths.items():
            with pq.ParquetFile(path) as file:
                batches = file.iter_batches(ROWS_PER_BATCH, columns=[TEXT, ENTITIES, *self.label_names])
                for in_split, row in enumerate(row for batch in batches for row in batch.to_pylist()):
                    yield self._row(row, number, split, in_split)
                    number += 1

    def _row(self, row: dict, number: int, split: str, in_split: int) -> Row:
        text, entities = row[TEXT] or "", row[ENTITIES] or []
        labels = {
            name: names[row[name]] if row[name] is not None and row[name] >= 0 else None
            for name, names in self.label_names.items()
        }
        try:
            check_spans(entities, text)
        except ValueError as error:
            raise ValueError(f"Row {in_split} of {self.paths[split]}: {error}") from None
        return Row(number, split, text, labels, entities)

    def select(self, numbers: Iterable[int]) -> dict[int, Row]:
        """Reads the rows with these numbers, and returns them by number."""
        numbers = set(numbers)
        return {row.number: row for row in self.rows() if row.number in numbers}

    def splits_of_rows(self) -> list[str]:
        """Returns the split of each row."""
        return [split for split, count in self.num_rows.items() for _ in range(count)]
