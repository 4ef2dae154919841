"""The section of the report about duplicate texts."""

from ..markdown import share, table
from .agreement import by_count
from .copies import Pair
from .duplicates import THRESHOLD, WORDS_PER_SEQUENCE
from .excerpts import beginning, cell
from .survey import Survey


MIXED_SHOWN = 6


def copies_section(found: Survey) -> str:
    duplicates = found.duplicates
    splits = found.dataset.num_rows
    lines = []
    for place, (split, rows) in enumerate(splits.items()):
        for other_place, other in enumerate(splits):
            same = duplicates.rows_with_copy[place, other_place]
            near = duplicates.rows_with_near_copy[place, other_place]
            there = "again in " + other if split == other else "in " + other
            lines.append([split, there, f"{same:,}", f"{near:,}", share(same + near, rows)])
    left_out = (
        f"""

{duplicates.num_left_out:,} of these sequences stand in {duplicates.most_texts + 1:,} texts or more. To compare all
those would take too long, so these sequences were left out: texts that share little else are not found."""
        if duplicates.num_left_out
        else ""
    )
    parts = [
        f"""## Texts that stand in the data twice

Two texts are nearly the same where, of all sequences of {WORDS_PER_SEQUENCE} words that stand in either,
{100 * THRESHOLD:.0f} % or more stand in both (Jaccard similarity; case and punctuation do not count).{left_out}

{table(["rows of", "whose text stands", "letter by letter", "else nearly", "share"], lines, numbers=3)}"""
    ]
    if found.pairs_between_splits:
        parts.append(
            f"""### Between splits

Pairs of nearly the same texts, from the most similar to the least.

{_pairs_table(found, found.pairs_between_splits)}"""
        )
    for column, conflicts in found.conflicts.items():
        if conflicts.pairs:
            parts.append(
                f"""### Copies with another {cell(column)}

Of {conflicts.copied:,} texts that stand in several rows, {conflicts.copied_differently:,} have several labels; of
{conflicts.near:,} pairs of nearly the same texts, {conflicts.near_differently:,}
({share(conflicts.near_differently, conflicts.near)}) have two{_mixed(conflicts.mixed)}. The most similar:

{_pairs_table(found, conflicts.pairs, column)}"""
            )
    if found.groups:
        lines = [
            [
                f"{group.num_rows:,}",
                f"{group.num_distinct:,}",
                "<br>".join(beginning(found.rows[row]) for row in group.rows),
            ]
            for group in found.groups
        ]
        parts.append(
            f"""### Largest groups

{table(["rows", "different texts", "such as"], lines)}"""
        )
    return "\n\n".join(parts)


def _mixed(mixed: dict[tuple[str, str], int]) -> str:
    shown = [f"{cell(one)} and {cell(other)} {count:,}" for (one, other), count in by_count(mixed)[:MIXED_SHOWN]]
    return f": {', '.join(shown)}" if shown else ""


def _pairs_table(found: Survey, pairs: list[Pair], column: str | None = None) -> str:
    lines = []
    for pair in pairs:
        texts = [
            f"{row.split}{f', {cell(str(row.labels[column]))}' if column else ''}: {beginning(row)}"
            for row in (found.rows[pair.one], found.rows[pair.other])
        ]
        lines.append([f"{pair.similarity:.2f}", *texts])
    return table(["similarity", "one", "other"], lines)
