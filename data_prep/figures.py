"""Shared style and helpers for all plots."""

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from .markdown import plain, shorten


if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOST_SHOWN = 20  # labels or types in one figure; more cannot be read
MOST_LETTERS = 24  # maximum number of characters of a label
# From the palette of Okabe and Ito, which colour-blind readers can tell apart; shapes and line styles differ as well.
BLUE, ORANGE, BLACK, SKY = "#0072B2", "#D55E00", "#000000", "#A6D3F0"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # labels are plain text, even if they contain dollar signs
}


def new_figure(width: float, height: float) -> "Figure":
    """Creates an empty figure with a size in inches."""
    from matplotlib.figure import Figure  # not pyplot, which would select a backend for the whole process

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    return figure


def short(label: str) -> str:
    """Shortens a label so that it fits beside an axis."""
    return shorten(plain(label), MOST_LETTERS)


def save(figure: "Figure", path: Path) -> None:
    """Writes a PNG file atomically."""
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with warnings.catch_warnings():
        # Characters that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(partial, dpi=150, format="png")
    os.replace(partial, path)
