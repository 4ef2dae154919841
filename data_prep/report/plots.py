"""Plots for the report of a dataset: the number of entities by type, and which types are confused."""

from pathlib import Path

import numpy as np

from ..figures import BLUE, MOST_SHOWN, ORANGE, SKY, STYLE, new_figure, save, short
from .agreement import NOT_LABELLED, TypeAgreement, Verdicts


FOLDER = "report"
# The names must not contain "train", "test", "val" or the like: `load_dataset` would take the files for a split.
TYPES, AGREEMENT = f"{FOLDER}/types.png", f"{FOLDER}/agreement.png"


def draw_types(folder: Path, counts: list[tuple[str, int]], agreement: dict[str, TypeAgreement]) -> str:
    """
    Draws a bar per type, divided into mentions of names that mostly have this type, mentions of names that mostly have
    another type, and mentions that were not compared.

    Returns:
        The path of the plot, relative to `folder`.
    """
    shown = counts[:MOST_SHOWN]
    parts = np.array([_parts(count, agreement.get(name)) for name, count in shown])
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = new_figure(6.4, 0.27 * len(shown) + 1.6)
        axes = figure.subplots()
        places, left = np.arange(len(shown)), np.zeros(len(shown))
        legend = ("the name's usual type", "not its usual type", "not compared")
        for label, colour, hatch, widths in zip(legend, (BLUE, ORANGE, SKY), ("", "////", ""), parts.T, strict=True):
            axes.barh(
                places, widths, left=left, color=colour, edgecolor="white", linewidth=0, hatch=hatch, label=label
            )
            left += widths
        for place, (_, count) in enumerate(shown):
            axes.text(count + 0.01 * left.max(), place, f"{count:,}", va="center", fontsize=8)
        axes.set_yticks(places, [short(name) for name, _ in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(0, 1.12 * left.max())
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.tick_params(axis="y", length=0)
        more = f"\nthe {MOST_SHOWN} commonest of {len(counts)} types" if len(counts) > MOST_SHOWN else ""
        axes.set_title(f"Entities by type{more}")
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        save(figure, folder / TYPES)
        return TYPES


def _parts(count: int, agreement: TypeAgreement | None) -> tuple[int, int, int]:
    if agreement is None:
        return 0, 0, count
    return agreement.usual, agreement.mentions - agreement.usual, count - agreement.mentions


def draw_agreement(folder: Path, counts: list[tuple[str, int]], verdicts: dict[str, Verdicts]) -> str | None:
    """
    Draws a matrix of the most common type of names (rows) and the label of each of their places (columns). Colours
    show the share of a row.

    Returns:
        The path of the plot, relative to `folder`; None if there are no names to compare.
    """
    compared = {label for of_name in verdicts.values() for label, _ in of_name.types}
    types = [name for name, _ in counts if name in compared][:MOST_SHOWN]
    if not types:
        return None
    columns = {name: place for place, name in enumerate([*types, NOT_LABELLED])}
    matrix = np.zeros((len(types), len(columns)))
    for of_name in verdicts.values():
        if (usual := of_name.types[0][0]) in columns:
            for verdict, count in of_name.counts.items():
                if verdict in columns:
                    matrix[columns[usual], columns[verdict]] += count
    shares = matrix / matrix.sum(axis=1, keepdims=True).clip(min=1)
    import matplotlib

    with matplotlib.rc_context(STYLE):
        side = 0.38 * len(types) + 2.6
        figure = new_figure(side + 1.2, side)
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(*shares.shape):
            if shares[row, column] >= 0.005:
                axes.text(
                    column, row, f"{shares[row, column]:.0%}", ha="center", va="center", fontsize=6.5,
                    color="white" if shares[row, column] > 0.55 else "black",
                )  # fmt: skip
        axes.set_xticks(range(len(columns)), [short(name) for name in columns], rotation=90)
        axes.set_yticks(range(len(types)), [short(name) for name in types])
        axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(types) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("what a mention of such a name is called")
        axes.set_ylabel("what the name is mostly called")
        axes.set_title("Does a name keep its type?")
        bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=25)
        bar.set_label("share of the row")
        bar.outline.set_visible(False)
        save(figure, folder / AGREEMENT)
        return AGREEMENT
