"""The comparison's picture: accuracy with its interval against what was forgotten, a point a method.

Owns one PNG. Needs matplotlib; without it a line says how to get it, since hours of runs are not to fail for a picture.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from compact_ds.evaluation.comparison import Row


def plot(table: Sequence[Row], path: Path) -> str:
    """Draw a panel for every retention file, or accuracies alone when there is none; a line that says what became of it."""
    if importlib.util.find_spec("matplotlib") is None:
        return "no picture: it needs matplotlib (pip install 'compact-ds[analyze]')"
    shown = [row for row in table if row.accuracy is not None]
    if not shown:
        return "no picture: no run has an accuracy"
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for row in shown for name in row.drops)) or [""]
    figure = Figure(figsize=(5.5 * len(names), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for name, ax in zip(names, figure.subplots(1, len(names), squeeze=False, sharey=True)[0], strict=True):
        for place, row in enumerate(shown):
            if name and name not in row.drops:
                continue
            assert row.accuracy is not None
            low, high = row.interval or (row.accuracy, row.accuracy)
            reach = [[max(0.0, row.accuracy - low)], [max(0.0, high - row.accuracy)]]
            across = row.drops[name] if name else float(place)
            ax.errorbar([across], [row.accuracy], yerr=reach, fmt="o", capsize=3, label=row.method)
        ax.set_xlabel(f"drop on {name} (to the right: forgotten)" if name else "methods, in the table's order")
    axes = figure.axes
    axes[0].set_ylabel("accuracy, 95 % interval over questions")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(5, len(shown)))
    figure.savefig(path, dpi=120)
    return f"picture: {path}"
