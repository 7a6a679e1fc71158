"""One question's consensus graph as a picture: teachers in colours, the mainstream bold.

Owns the layout and the drawing. The graph and its mainstream are `consensus`'s. Needs matplotlib.
"""

from __future__ import annotations

import textwrap
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import networkx as nx

from compact_ds.compatibility.consensus import consensus, graph, mainstream
from compact_ds.data.records import Example
from compact_ds.errors import UserError

_COLUMN, _ROW, _LABEL = 2.6, 1.0, 20


def draw(example: Example, file: Path) -> None:
    """Write the picture as SVG or PNG, after the file's ending. Raises UserError without matplotlib or for another ending."""
    if file.suffix not in (".svg", ".png"):
        raise UserError("--output", str(file), "a name that ends in .svg or .png", "rename it")
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise UserError("data graph", "no matplotlib", "the package matplotlib", "pip install matplotlib") from None
    built = graph(example)
    places = {name: (_COLUMN * x, _ROW * y) for name, (x, y) in layout(built).items()}
    colours = {t: f"C{i}" for i, t in enumerate(sorted({r.teacher for r in example.rationales}))}
    bold = set(pairwise(mainstream(built)))
    width = _COLUMN * (1 + max(x for x, _ in places.values()))
    height = _ROW * (2 + max(y for _, y in places.values()) - min(y for _, y in places.values()))
    figure = Figure(figsize=(max(6.0, width), max(3.0, height)))
    axes = figure.add_subplot()
    for edge in built.edges:
        _draw_edge(axes, places, edge, sorted(built.edges[edge]["voices"]), colours, edge in bold)
    for name, (x, y) in places.items():
        kind = built.nodes[name]["kind"]
        box = {"boxstyle": "round", "facecolor": "gold" if kind == "answer" else "white", "edgecolor": "black"}
        shown = textwrap.fill(textwrap.shorten(_plain(name), 60, placeholder=" ..."), _LABEL)
        axes.text(x, y, shown, ha="center", va="center", fontsize=9, bbox=box, zorder=3)
    values: dict[str, list[str]] = defaultdict(list)
    for rationale, value in zip(example.rationales, consensus(example), strict=True):
        values[rationale.teacher].append(f"{value:.2f}")
    for teacher, colour in colours.items():
        axes.plot([], [], color=colour, label=f"{_plain(teacher)}: C = {', '.join(values[teacher])}")
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.02), frameon=False, fontsize=9)
    axes.set_title(textwrap.fill(_plain(example.question), 90), fontsize=10)
    axes.set_axis_off()
    # Texts and arrows do not move the limits of an axis.
    axes.set_xlim(-_COLUMN / 2, max(x for x, _ in places.values()) + _COLUMN / 2)
    axes.set_ylim(min(y for _, y in places.values()) - _ROW, max(y for _, y in places.values()) + _ROW)
    figure.savefig(file, bbox_inches="tight", dpi=120)


def _plain(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign would open mathematics."""
    return text.replace("$", r"\$")


def layout(built: nx.DiGraph[str]) -> dict[str, tuple[int, int]]:
    """(column, row) of every node: columns by how far along the teachers' ways it comes, row 0 for the most voices.

    Rows count up and down from 0.
    """
    column: dict[str, int] = {}
    for path in built.graph["paths"]:
        for place, name in enumerate(path):
            column[name] = max(column.get(name, 0), place)
    last = max(column.values(), default=0)
    rows: dict[int, list[str]] = defaultdict(list)
    for name in built:
        # Answers are the ends of all ways.
        rows[last if built.nodes[name]["kind"] == "answer" else column.get(name, 0)].append(name)
    places = {}
    for x, names in rows.items():
        ordered = sorted(names, key=lambda name: (-sum(built.nodes[name]["voices"].values()), name))
        for i, name in enumerate(ordered):
            offset = (i + 1) // 2 * (1 if i % 2 else -1)
            places[name] = (x, offset)
    return places


def _draw_edge(
    axes: Any,
    places: dict[str, tuple[float, float]],
    edge: tuple[str, str],
    teachers: list[str],
    colours: dict[str, str],
    is_bold: bool,
) -> None:
    (x0, y0), (x1, y1) = places[edge[0]], places[edge[1]]
    for i, teacher in enumerate(teachers):
        bend = 0.06 * (i - (len(teachers) - 1) / 2)
        arrow = {
            "arrowstyle": "-|>", "color": colours[teacher], "linewidth": 3.0 if is_bold else 1.2, "shrinkA": 22,
            "shrinkB": 22, "connectionstyle": f"arc3,rad={bend + (0.25 if y0 == y1 and abs(x1 - x0) > _COLUMN else 0):.3f}",
        }  # fmt: skip
        axes.annotate("", xy=(x1, y1), xytext=(x0, y0), arrowprops=arrow, zorder=2)
