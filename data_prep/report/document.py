"""Writes a report of a prepared dataset: its labels, and where they are inconsistent.

    python -m data_prep.report --data data/ag_news

Writes `report.md` and a folder `report` with its plots next to the Parquet files. No gold labels are needed: the
report compares the labels of the same name in different places, and of texts that occur several times.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np

from ..markdown import share, table
from .agreement import LEFT_OPEN, by_count
from .agreement_section import agreement_section
from .copies_section import copies_section
from .entities_section import each_type_section, left_open_section, texts_section, types_section
from .excerpts import cell
from .plots import draw_agreement, draw_types
from .stability import SAME
from .survey import Survey, survey


REPORT = "report.md"


def write_report(folder: Path) -> None:
    """
    Writes `report.md` and its plots to a folder that `data_prep` has written. The report is deterministic.

    Raises:
        `ValueError`: if the folder has no rows, texts or entities. Nothing is written in that case.
    """
    found = survey(folder)
    types = by_count(found.counts.all_types)
    sections = [_head(found), _labels(found)]
    if types:
        sections += [
            types_section(found, types, draw_types(folder, types, found.type_agreement)),
            agreement_section(found, draw_agreement(folder, types, found.verdicts)),
        ]
    if found.counts.left_open:
        sections.append(left_open_section(found))
    sections.append(copies_section(found))
    if types:
        sections.append(each_type_section(found, types))
    sections.append(texts_section(found))
    partial = folder / f".{REPORT}.partial"
    partial.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    os.replace(partial, folder / REPORT)


def _head(found: Survey) -> str:
    num_rows = found.dataset.num_rows
    counts = found.counts
    lines = [["rows", ", ".join(f"{count:,} {split}" for split, count in num_rows.items())]]
    total = sum(counts.all_types.values())
    lines.append(["entities", f"{total:,} of {len(counts.all_types)} types"])
    if counts.left_open:
        lines.append(["places left open", f"{counts.left_open:,}"])
    if agreement := found.type_agreement.values():
        mentions, places = sum(one.mentions for one in agreement), sum(one.not_labelled for one in agreement)
        lines += [
            [
                "[a name keeps its type](#least-agreed-labels)",
                f"{share(sum(one.usual for one in agreement), mentions)} of {mentions:,} mentions have the type that "
                "their name mostly has",
            ],
            [
                "[a name is found wherever it stands](#least-agreed-labels)",
                f"{share(mentions, mentions + places)} of {mentions + places:,} places where such a name stands",
            ],
        ]
    if names := found.stability.counts.total():
        lines.append(
            [
                "[nearly the same text, the same entities](#the-same-name-in-nearly-the-same-text)",
                f"{share(found.stability.counts[SAME], names)} of {names:,} names are labelled alike in both texts",
            ]
        )
    for split, row in _leaks(found):
        lines.append([f"[{split} texts that stand in training too](#texts-that-stand-in-the-data-twice)", row])
    for column, conflicts in found.conflicts.items():
        if conflicts.near:
            lines.append(
                [
                    f"[nearly the same text, another {cell(column)}](#texts-that-stand-in-the-data-twice)",
                    f"{share(conflicts.near_differently, conflicts.near)} of {conflicts.near:,} pairs",
                ]
            )
    return f"""# Report of this dataset

What the labels are, and where they contradict one another. Nobody's gold labels stand behind these figures: where a
labeller is wrong in the same way everywhere, they cannot show it. Made by `python -m data_prep.report`.

{table(["what", "found"], lines)}"""


def _leaks(found: Survey) -> list[tuple[str, str]]:
    splits = list(found.dataset.num_rows)
    if "train" not in splits:
        return []
    train = splits.index("train")
    lines = []
    for place, split in enumerate(splits):
        if place != train:
            same = found.duplicates.rows_with_copy[place, train]
            near = found.duplicates.rows_with_near_copy[place, train]
            rows = found.dataset.num_rows[split]
            lines.append((split, f"{same:,} letter by letter, {near:,} nearly: {share(same + near, rows)} of them"))
    return lines


def _labels(found: Survey) -> str:
    splits = found.dataset.num_rows
    characters = np.split(np.array(found.counts.characters), np.cumsum(list(splits.values()))[:-1])
    parts = ["## Rows"]
    lines = []
    for (split, rows), lengths in zip(splits.items(), characters, strict=True):
        entities = sum(count for name, count in found.counts.types[split].items() if name != LEFT_OPEN)
        lines.append(
            [
                split,
                f"{rows:,}",
                f"{np.median(lengths):,.0f}" if rows else "",
                f"{lengths.max():,}" if rows else "",
                f"{entities / max(rows, 1):.1f}",
                share(found.counts.without_entities[split], rows),
            ]
        )
    header = ["split", "rows", "characters, median", "characters, most", "entities a row", "rows without any"]
    parts.append(table(header, lines, numbers=5))
    for column, by_split in found.counts.labels.items():
        names = [*found.dataset.label_names[column], None]
        lines = [
            [
                "(no label)" if name is None else cell(name),
                *(f"{by_split[split][name]:,} ({share(by_split[split][name], splits[split])})" for split in splits),
            ]
            for name in names
            if name is not None or any(by_split[split][None] for split in splits)
        ]
        parts.append(table([f"{cell(column)}", *splits], lines, numbers=len(splits)))
    return "\n\n".join(parts)


def main(argv: list[str] | None = None, *, prog: str = "python -m data_prep.report") -> None:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--data", required=True, type=Path, help="Dataset folder written by data_prep. The report is saved there."
    )
    args = parser.parse_args(argv)
    write_report(args.data)
    sys.stdout.write(f"{args.data / REPORT}\n")
