"""The sections of the report about entities: their numbers and examples."""

from collections import Counter

from ..markdown import share, table
from .agreement import LEFT_OPEN, by_count
from .excerpts import cell, mention_of, with_entities
from .survey import MIN_MENTIONS, NAMES_SHOWN, Survey


NAMES_PER_TYPE = 15
NEARLY_ALL = 0.95  # share of a name's entities with the same type


def types_section(found: Survey, types: list[tuple[str, int]], picture: str) -> str:
    splits = found.dataset.num_rows
    forms: dict[str, int] = {}
    for _, label in found.counts.names:
        forms[label] = forms.get(label, 0) + 1
    total = sum(count for _, count in types)
    lines = [
        [
            cell(name),
            f"{count:,}",
            share(count, total),
            f"{forms[name]:,}",
            *(f"{found.counts.types[split][name] / max(rows, 1):.2f}" for split, rows in splits.items()),
        ]
        for name, count in types
    ]
    header = ["type", "entities", "share", "different names", *(f"a row of {split}" for split in splits)]
    return f"""## Entity types

![Entities by type]({picture})

The colours say how well the [labels agree](#least-agreed-labels). Not compared are names that are labelled fewer than
{MIN_MENTIONS} times, and what has no capital letter, such as numbers.

{table(header, lines, numbers=len(header) - 1)}"""


def left_open_section(found: Survey) -> str:
    lines = [[cell(name), f"{count:,}"] for name, count in by_count(found.counts.names_left_open)[:NAMES_SHOWN]]
    by_split = ", ".join(f"{found.counts.types[split][LEFT_OPEN]:,} in {split}" for split in found.dataset.num_rows)
    return f"""## Left open

Entities without a label ({by_split}): it is not known what is there, and nothing is learned there. They are counted
nowhere else. The commonest:

{table(["text", "places"], lines, numbers=1)}"""


def each_type_section(found: Survey, types: list[tuple[str, int]]) -> str:
    names: dict[str, dict[str, int]] = {}
    totals: Counter = Counter()
    for (name, label), count in found.counts.names.items():
        names.setdefault(label, {})[name] = count
        totals[name] += count
    parts = [
        "## Each type\n\nIts commonest names, and mentions drawn at random. Of a name that has other types too, it "
        "says how many of all its mentions have this one."
    ]
    for label, count in types:
        commonest = by_count(names[label])[:NAMES_PER_TYPE]
        places = sorted(found.counts.examples[label])
        parts.append(
            f"### {cell(label)} ({count:,})\n\n"
            + "Commonest: "
            + ", ".join(f"{cell(name)} {_of(count, totals[name])}" for name, count in commonest)
            + "\n\n"
            + "\n".join(f"- {found.rows[place.row].split}: {mention_of(found.rows, place)}" for place in places)
        )
    return "\n\n".join(parts)


def _of(count: int, total: int) -> str:
    return f"{count:,}" if count > NEARLY_ALL * total else f"{count:,} of {total:,}"


def texts_section(found: Survey) -> str:
    lines = []
    for number in found.texts_shown:
        row = found.rows[number]
        labels = ", ".join(cell(label) for label in row.labels.values() if label is not None)
        lines.append(f"- {row.split}{f', {labels}' if labels else ''}: {with_entities(row)}")
    return "## Whole texts drawn at random\n\n" + "\n".join(lines)
