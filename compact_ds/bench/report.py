"""How `bench step` shows what it found: two tables and a bar chart.

Owns their form. Measures nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def write(found: dict[str, Any], folder: Path) -> None:
    """`results.json`."""
    (folder / "results.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def print_tables(console: Console, found: dict[str, Any]) -> None:
    """The contenders, then the parts of our step."""
    table = Table(title=f"one step of {found['questions']} questions, medians of {found['laps']} laps in turn")
    columns = ("", "seconds", "CPU s", "ours / its", "range", "by CPU s", "tokens", "padding", "peak MiB", "setting")
    for column in columns:
        table.add_column(column, justify="left" if column in ("", "setting") else "right")
    for row in found["contenders"]:
        peak = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:,.0f}"
        table.add_row(
            row["name"], f"{row['seconds']:.2f}", f"{row['cpu_seconds']:.2f}", f"{row['ours']:.3f}",
            "{:.2f} to {:.2f}".format(*row["ours_range"]), f"{row['ours_cpu']:.3f}", f"{row['tokens']:,}",
            f"{row['padding']:.1%}", peak, row["setting"],
        )  # fmt: skip
    console.print(table)
    parts = Table(title=f"our step, {found['model_flop_utilisation']:.0%} of {found['peak_tflops']:.3g} TFLOP/s")
    for column in ("phase", "seconds", "share"):
        parts.add_column(column, justify="left" if column == "phase" else "right")
    for name, figures in found["phases"].items():
        parts.add_row(name, f"{figures['seconds']:.4f}", f"{figures['share']:.2%}")
    console.print(parts)


def bar_chart(found: dict[str, Any], file: Path) -> None:
    """Seconds of every contender, and the parts of our own step as one stacked bar."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = found["contenders"]
    figure = Figure(figsize=(8, 1.4 + 0.5 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    left = 0.0
    shown = {name: part for name, part in found["phases"].items() if part["share"] >= 0.01}
    for i, (name, part) in enumerate(shown.items()):
        ax.barh(0, part["seconds"], left=left, color=f"C{i}", label=name)
        left += part["seconds"]
    for place, row in enumerate(rows[1:], start=1):
        ax.barh(place, row["seconds"], color="0.7")
    for place, row in enumerate(rows):
        ax.text(row["seconds"], place, f" {row['seconds']:.1f} s", va="center", fontsize=8)
    ax.set_yticks(range(len(rows)), [row["name"] for row in rows])
    ax.invert_yaxis()
    ax.set_xlabel(f"seconds, one step of {found['questions']} questions")
    ax.margins(x=0.12)
    ax.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    figure.savefig(file, dpi=120)
