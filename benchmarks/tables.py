"""Writes benchmarks/results/README.md, with a table for each result file in that folder.

python benchmarks/tables.py
"""

import ast
import json
import statistics
import sys
from pathlib import Path

from quality import RESULTS, ROOT


sys.path.insert(0, str(ROOT))

from mtsbert.commands.study import Outcome, study_table
from mtsbert.results.tables import markdown_table


HEADER = """# Results

Written by `python benchmarks/tables.py` from the files beside it, which hold every single figure. A cell is a median
where there are repeats, and mean ± standard deviation where there are seeds.
"""
NOT_FIGURES = ("command", "machine", "runs", "medians")  # `medians` are the medians of `seconds`


def main() -> None:
    path = write_tables(RESULTS)
    sys.stdout.write(f"Written to {path}\n")


def write_tables(folder: Path) -> Path:
    sections = [section(path.stem, json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]
    path = folder / "README.md"
    path.write_text("\n".join([HEADER, *sections]), encoding="utf-8")
    return path


def section(name: str, report: dict) -> str:
    """Formats the section of a benchmark: its question, command, machine and results."""
    script = ROOT / report["command"].split()[1]
    question = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))).split("\n\n")[0]
    figures = {key: value for key, value in report.items() if key not in NOT_FIGURES}
    facts = [f"{key}: {cell(value)}" for key, value in figures.items() if not isinstance(value, dict)]
    facts += [f"{peer} is not available: {reason}" for peer, reason in figures.pop("not_available", {}).items()]
    machine = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    parts = [f"## {name}", question, f"    {report['command']}"]
    parts += [table(figures)] if any(isinstance(value, dict) for value in figures.values()) else []
    parts += ["\n".join(f"- {fact}" for fact in [*facts, f"machine: {machine}"])]
    return "\n\n".join(parts) + "\n"


def table(figures: dict) -> str:
    named = {key: value for key, value in figures.items() if isinstance(value, dict)}
    if all("num_trained_parameters" in value for value in named.values()):
        return study_table({name: Outcome(**value) for name, value in named.items()})
    columns = dict(columns_of(named.get("table", named)))
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    rows = [[name, *(cell(column[name]) if name in column else "" for column in columns.values())] for name in names]
    return markdown_table([["", *columns], *rows])


def columns_of(figures: dict, prefix: str = ""):
    """
    Yields each column with its cells by row. `{"frozen": {"seconds": {"cached": …}}}` is a cell in the column `frozen,
    seconds` and the row `cached`.
    """
    for key, value in figures.items():
        if any(isinstance(inner, dict) and "mean" not in inner for inner in value.values()):
            yield from columns_of(value, f"{prefix}{key}, ")
        else:
            yield f"{prefix}{key}".replace("_", " "), value


def cell(value: float | str | list | dict | None) -> str:
    if isinstance(value, dict):
        return f"{value['mean']:.4g} ± {value['sd']:.2g}"
    if isinstance(value, list):
        return ", ".join(value) if isinstance(value[0], str) else cell(statistics.median(value))
    return f"{value:.4g}" if isinstance(value, float) else "all" if value is None else f"{value}"


if __name__ == "__main__":
    main()
