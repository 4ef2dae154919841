"""The end of a run in words: a table of every task's results."""

TITLES = {"eval": "validation", "test": "test"}


def results_table(metrics: dict[str, float], tasks: list[str]) -> str:
    """
    A Markdown table, one line per task and metric and one column per split:

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
            elif name in ("composite", "loss"):
                rows.setdefault(("all", name), {})[split] = value
    order = sorted(rows, key=lambda row: [*tasks, "all"].index(row[0]))
    cells = [["task", "metric", *(TITLES[split] for split in splits)]]
    cells += [[*row, *(f"{rows[row][split]:.4f}" if split in rows[row] else "" for split in splits)] for row in order]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
