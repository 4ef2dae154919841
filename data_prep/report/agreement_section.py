"""The section of the report about inconsistent labels."""

from ..markdown import share, table
from .agreement import by_count
from .excerpts import cell, mention_of
from .stability import ONE_NOT_LABELLED, OTHER_BORDERS, OTHER_TYPE, SAME
from .survey import MIN_MENTIONS, Survey


TITLE = "## Least agreed labels"
OTHER_TYPES = 3
VERDICTS_SHOWN = 5


def agreement_section(found: Survey, picture: str | None) -> str:
    if picture is None:
        return f"{TITLE}\n\nNo name with a capital letter is labelled {MIN_MENTIONS} times, so none can be compared."
    lines = [
        [
            cell(label),
            ", ".join(f"{cell(other)} {count:,}" for other, count in one.instead[:OTHER_TYPES]),
            f"{one.mentions:,}",
            share(one.usual, one.mentions),
            share(one.not_labelled, one.usual + one.not_labelled),
        ]
        for label, one in found.type_agreement.items()
    ]
    header = ["type", "the name is else mostly", "mentions", "as the name mostly is", "not found"]
    parts = [
        f"""{TITLE}

Of names with a capital letter that are labelled {MIN_MENTIONS} times or more. A name may well have two types
(Washington is a city, a state and a president), so not every difference is a mistake; but between two mentions that
mean the same, one label is wrong. *Not found*: of the places where a name stands that mostly has this type, those
that have no label. Places inside longer entities are left out.

![Does a name keep its type?]({picture})

{table(header, lines, numbers=3)}"""
    ]
    if found.several_types:
        parts.append(
            f"""### Names of several types

Those with the most mentions unlike the name's commonest type; a place of each, drawn at random.

{_names_table(found, found.several_types)}"""
        )
    if found.sometimes_labelled:
        parts.append(
            f"""### Names that are labelled in some places only

Of the other names, those with the most places on either side.

{_names_table(found, found.sometimes_labelled)}"""
        )
    if found.spellings:
        lines = [[f"{cell(name)}: {_types_of(found, name)}" for name in names[:2]] for names in found.spellings]
        parts.append(
            f"""### Names whose type changes with their capitals

{table(["mostly written", "also written"], lines)}"""
        )
    if found.stability.counts:
        parts.append(_stability(found))
    return "\n\n".join(parts)


def _names_table(found: Survey, names: list[str]) -> str:
    lines = []
    for name in names:
        verdicts = found.verdicts[name]
        counts = by_count(verdicts.counts)
        places = [
            f"{cell(verdict)} {count:,}: {mention_of(found.rows, verdicts.places[verdict])}"
            for verdict, count in counts[:VERDICTS_SHOWN]
        ]
        if rest := sum(count for _, count in counts[VERDICTS_SHOWN:]):
            places.append(f"others {rest:,}")
        lines.append([cell(name), "<br>".join(places)])
    return table(["name", "how often it is what, and where"], lines)


def _types_of(found: Survey, name: str) -> str:
    return ", ".join(f"{cell(label)} {count:,}" for label, count in found.verdicts[name].types[:OTHER_TYPES])


def _stability(found: Survey) -> str:
    counts = found.stability.counts
    total = counts.total()
    shares = {kind: share(counts[kind], total) for kind in (SAME, OTHER_TYPE, ONE_NOT_LABELLED, OTHER_BORDERS)}
    lines = [
        [
            cell(contradiction.name),
            *(f"{cell(verdict)}: {mention_of(found.rows, place)}" for verdict, place in contradiction.mentions),
        ]
        for kind in (OTHER_TYPE, ONE_NOT_LABELLED)
        for contradiction in found.stability.contradictions.get(kind, [])
    ]
    section = f"""### The same name in nearly the same text

Here the name means the same, and two labels that differ cannot both be right. Of {total:,} names in pairs of nearly
the same texts (no text in two pairs), {shares[SAME]} have the same type in both, {shares[OTHER_TYPE]} another;
{shares[ONE_NOT_LABELLED]} are labelled in one text alone, and {shares[OTHER_BORDERS]} are part of a longer entity in
the other."""
    return f"{section} Drawn at random:\n\n{table(['name', 'one', 'other'], lines)}" if lines else section
