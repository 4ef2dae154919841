"""Markdown tables of the trained parameters and of the results of a run."""

from mtsbert.network.freezing import Freezing
from mtsbert.preparation import data_prep


markdown = data_prep("markdown")
escape, plain = markdown.escape, markdown.plain  # escape Markdown; collapse to a single line
TITLES = {"eval": "validation", "test": "test"}


def results_table(metrics: dict[str, float], tasks: list[str]) -> str:
    """
    Formats the results as a Markdown table, with a row per task and metric and a column per split:

        | task  | metric   | validation | test   |
        |-------|----------|------------|--------|
        | topic | accuracy | 0.9310     | 0.9275 |
    """
    splits = [split for split in TITLES if any(key.startswith(f"{split}_") for key in metrics)]
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for split in splits:
        for key, value in metrics.items():
            if not key.startswith(f"{split}_"):
                continue
            name = key.removeprefix(f"{split}_")
            task = max((task for task in tasks if name.startswith(f"{task}_")), key=len, default=None)
            if task is not None:
                rows.setdefault((task, name.removeprefix(f"{task}_")), {})[split] = value
            elif name.startswith("embedding_"):
                rows.setdefault(("embedding", name.removeprefix("embedding_")), {})[split] = value
            elif name in ("composite", "loss"):
                rows.setdefault(("all", name), {})[split] = value
    order = sorted(rows, key=lambda row: [*tasks, "embedding", "all"].index(row[0]))
    cells = [["task", "metric", *(TITLES[split] for split in splits)]]
    cells += [[*row, *(f"{rows[row][split]:.4f}" if split in rows[row] else "" for split in splits)] for row in order]
    return markdown_table(cells)


def parameter_table(freezing: Freezing, learning_rates: dict[str, float]) -> str:
    """
    Formats the parts of the model as a Markdown table, from bottom to top:

        | part               | parameters | state   | learning rate |
        |--------------------|------------|---------|---------------|
        | encoder.embeddings | 11,918,592 | frozen  |               |
        | encoder.layer.0    | 1,774,464  | trained | 5e-05         |

    Where only some parameters of a part are trained, the state says how many, as in `512 of 9,056 trained`.
    """
    cells = [["part", "parameters", "state", "learning rate"]]
    for name, part in freezing.parts.items():
        if part.parameters:
            state = freezing.state_of(name)
            rate = "" if not freezing.num_trained_of(name) else f"{learning_rates[name]:.3g}"
            cells.append([name, f"{part.num_parameters:,}", state, rate])
    return markdown_table(cells)


def markdown_table(cells: list[list[str]]) -> str:
    """Formats a Markdown table. The first row is the header; cells are padded so that columns align in plain text."""
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
