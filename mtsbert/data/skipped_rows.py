"""Reports the rows that a run cannot use and leaves out (`--bad_rows skip`), with the reasons."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


SKIPPED_ROWS_FILE = "skipped_rows.jsonl"
NUM_SHOWN = 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True, order=True)
class SkippedRow:
    dataset: str
    split: str
    row: int
    """Counted from 0, as in all errors about rows of a dataset."""
    reason: str


def report_skipped_rows(skipped: Sequence[SkippedRow], output_dir: str) -> None:
    """Logs the number of skipped rows and the first reasons, and writes all of them to the output folder."""
    path = Path(output_dir) / SKIPPED_ROWS_FILE
    if skipped:
        shown = [f"row {one.row} of {one.dataset}, {one.split}: {one.reason}" for one in skipped[:NUM_SHOWN]]
        logger.warning(f"{len(skipped):,} rows cannot be used and are left out; {path} has all. " + " | ".join(shown))
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in skipped)
    partial.replace(path)
