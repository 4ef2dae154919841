"""Plots the results of a run: losses over epochs, confusion matrices, and scores of entity types."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from configuration_mtsbert import TOKEN_CLASSIFICATION
from entities_mtsbert import entity_types
from mtsbert.preparation import data_prep
from mtsbert.results.metrics import Evaluation, f1_score_of, precision_of, recall_of


if TYPE_CHECKING:
    from matplotlib.figure import Figure


PLOTS_FOLDER = "plots"
LOSSES = "losses"
MOST_COLUMNS = 3

figures = data_prep("figures")


def draw_plots(
    folder: Path,
    tasks: dict[str, dict],
    *,
    log_history: list[dict] = (),
    evaluation: Evaluation | None = None,
    split: str = "validation",
    machine_labelled: frozenset[str] = frozenset(),
) -> dict[str, str]:
    """
    Writes a PNG file for the losses and for each task with counts.

    Args:
        folder (`Path`): The output folder of the run. Plots are written to its subfolder `plots`.
        tasks (`dict[str, dict]`): Task name → settings.
        log_history (`list[dict]`, *optional*): `trainer.state.log_history`.
        evaluation ([`Evaluation`], *optional*): The evaluation on `split`.
        split (`str`, *optional*, defaults to `"validation"`): The name of the split in titles.
        machine_labelled (`frozenset[str]`, *optional*): Tasks whose labels in `split` are machine-made, so that scores
            are called agreement.

    Returns:
        `dict[str, str]`: Name of a plot (`losses`, or the name of a task) → its path relative to `folder`, with `/`.
    """
    drawn: dict[str, tuple[str, Figure]] = {}
    import matplotlib

    with matplotlib.rc_context(figures.STYLE):
        if (figure := _losses(list(tasks), log_history)) is not None:
            drawn[LOSSES] = (LOSSES, figure)
        for name, counts in (evaluation.counts if evaluation else {}).items():
            if tasks[name]["type"] == TOKEN_CLASSIFICATION:
                types = entity_types(tasks[name]["labels"])
                title = f"{name}: entities, {split}"
                if name in machine_labelled:
                    title += " (agreement with machine labels)"
                drawn[name] = (f"entities_{name}", _entities(types, counts, title))
            else:
                title = f"{name}, {split}: {counts.sum():,} rows"
                drawn[name] = (f"confusion_{name}", _confusion(tasks[name]["labels"], counts, title))
        paths = {name: f"{PLOTS_FOLDER}/{stem}.png" for name, (stem, _) in drawn.items()}
        for name, (_, figure) in drawn.items():
            figures.save(figure, folder / paths[name])
        return paths


# Losses


def _losses(tasks: list[str], log_history: list[dict]) -> "Figure | None":
    """Draws a panel per task, and one for the total loss if there are several; None if nothing was trained."""
    lines = {"training": {}, "validation": {}}
    for key, label in {"loss": "all tasks, weighted", **{f"{task}_loss": task for task in tasks}}.items():
        lines["training"][label] = _points([line for line in log_history if "loss" in line], key)
        lines["validation"][label] = _points(log_history, f"eval_{key}")
    labels = [label for label, (epochs, _) in lines["training"].items() if epochs]
    if not labels:
        return None
    if len(tasks) == 1:
        labels = labels[-1:]
    num_columns = min(MOST_COLUMNS, len(labels))
    num_rows = math.ceil(len(labels) / num_columns)
    figure = figures.new_figure(max(4.0, 3.2 * num_columns), 2.7 * num_rows + 0.4)
    panels = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
    for axes, label in zip(panels, labels, strict=False):
        few = len(lines["training"][label][0]) <= 12
        axes.plot(
            *lines["training"][label], color=figures.BLUE, marker="." if few else "", linewidth=1.2, label="training"
        )
        axes.plot(
            *lines["validation"][label],
            color=figures.ORANGE, marker="s", markersize=5, markerfacecolor="none", linestyle="--", label="validation",
        )  # fmt: skip
        axes.set_title(label)
        if axes.get_ylim()[0] > 0:  # learned weights can make the loss of all tasks negative
            axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
    for axes in panels[len(labels) :]:
        axes.set_visible(False)
    figure.get_axes()[0].set_ylabel("loss")
    handles, names = figure.get_axes()[0].get_legend_handles_labels()
    drawn = [pair for pair in zip(handles, names, strict=True) if any(lines[pair[1]][label][0] for label in labels)]
    figure.legend(*zip(*drawn, strict=True), loc="outside upper center", ncols=2, frameon=False)
    return figure


def _points(log_history: list[dict], key: str) -> tuple[list[float], list[float]]:
    """
    Returns the epochs and values of a metric. If a step was logged several times, the first is used, because a later
    one may belong to the best checkpoint.
    """
    points = {}
    for line in log_history:
        if math.isfinite(line.get(key, math.nan)):
            points.setdefault(line.get("step"), (line.get("epoch", 0.0), line[key]))
    return [epoch for epoch, _ in points.values()], [value for _, value in points.values()]


# Classes


def _confusion(labels: list[str], counts: np.ndarray, title: str) -> "Figure":
    """
    Draws the confusion matrix `counts` `(C, C)`, [true, predicted]. Colours show the share of a row, so that rare
    labels are readable as well.
    """
    names, counts, has_rest = merge_rare(labels, counts)
    if has_rest:
        title += f"\nthe {len(names) - 1} most frequent of {len(labels)} labels"
    size = len(names)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    if has_rest:
        shares[-1, -1] = np.nan  # within the merged labels, right and wrong cannot be told apart
    side = 0.38 * size + 2.6
    figure = figures.new_figure(side + 0.9, side)
    axes = figure.subplots()
    image = axes.imshow(np.ma.masked_invalid(shares), cmap="Blues", vmin=0, vmax=1)
    axes.set_facecolor("0.88")
    for row, column in np.ndindex(size, size):
        if counts[row, column] and not np.isnan(shares[row, column]):
            axes.text(
                column, row, _number(counts[row, column]), ha="center", va="center", fontsize=8 if size < 10 else 6.5,
                color="white" if shares[row, column] > 0.55 else "black",
            )  # fmt: skip
    shown = [figures.short(name) for name in names]
    upright = max(map(len, shown)) * size > 40
    axes.set_xticks(range(size), shown, rotation=90 if upright else 0)
    axes.set_yticks(range(size), shown)
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    axes.set_title(title)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=25)
    bar.set_label("share of the row")
    bar.outline.set_visible(False)
    return figure


def _number(count: int) -> str:
    return f"{count:,}" if count < 10_000 else f"{count / 1000:.0f}k"


def merge_rare(labels: list[str], counts: np.ndarray) -> tuple[list[str], np.ndarray, bool]:
    """
    Reduces a confusion matrix to at most `MOST_SHOWN` labels. If there are more, they are sorted by frequency, and the
    rarest are merged into the last row and column.

    Returns:
        The labels, the counts, and whether labels were merged.
    """
    if len(labels) <= figures.MOST_SHOWN:
        return list(labels), counts, False
    order = np.argsort(-counts.sum(axis=1), kind="stable")
    kept = order[: figures.MOST_SHOWN - 1]
    place = np.full(len(labels), len(kept))
    place[kept] = np.arange(len(kept))
    merged = np.zeros((len(kept) + 1, len(kept) + 1), dtype=counts.dtype)
    np.add.at(merged, (place[:, None], place[None, :]), counts)
    return [*(labels[index] for index in kept), f"{len(labels) - len(kept)} others"], merged, True


# Entities


def _entities(types: list[str], counts: np.ndarray, title: str) -> "Figure":
    """
    Draws F1 as bars, and precision and recall as markers, from `counts` `(types, 3)` of right, predicted and labelled
    entities.
    """
    order = [index for index in np.argsort(-counts[:, 2], kind="stable") if counts[index].any()]
    if len(order) > figures.MOST_SHOWN:
        title += f"\nthe {figures.MOST_SHOWN} most frequent of {len(order)} types"
        order = order[: figures.MOST_SHOWN]
    rows = [("all types", counts.sum(axis=0)), *((figures.short(types[index]), counts[index]) for index in order)]
    names = [f"{name}  ({row[2]:,})" for name, row in rows]
    places = np.arange(len(rows))
    figure = figures.new_figure(6.4, 0.27 * len(rows) + 1.5)
    axes = figure.subplots()
    scores = [f1_score_of(row) for _, row in rows]
    axes.barh(places, scores, height=0.7, color=[figures.BLUE, *[figures.SKY] * len(order)], label="F1", zorder=2)
    marks = {"precision": (precision_of, ">", 50, figures.ORANGE, 1), "recall": (recall_of, "o", 24, "white", 2)}
    for name, (measure, marker, size, colour, column) in marks.items():
        # Without predictions there is no precision, and without labels no recall.
        known = [place for place in places if rows[place][1][column]]
        axes.scatter(
            [measure(rows[place][1]) for place in known], known, marker=marker, s=size, color=colour, label=name,
            edgecolors=figures.BLACK, linewidths=0.8, clip_on=False, zorder=3,
        )  # fmt: skip
    for place, score in zip(places, scores, strict=True):
        axes.text(1.03, place, f"{score:.2f}", va="center", fontsize=8)
    axes.text(1.03, -0.75, "F1", va="bottom", fontsize=8, fontweight="bold")
    axes.set_yticks(places, names)
    axes.set_ylim(len(rows) - 0.4, -0.8)
    axes.set_xlim(0, 1)
    axes.grid(axis="x", alpha=0.25, zorder=0)
    axes.tick_params(axis="y", length=0, pad=7)
    axes.set_xlabel("in brackets: entities in the labels")
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure
