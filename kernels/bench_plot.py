"""The benchmark's picture: time a row, peak memory and loss error of every provider on every input.

Owns one PNG. It needs matplotlib, which comes with the extra `bench`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from compact_ds.errors import UserError
from compact_ds.kernels.bench_report import MEASURED, Row

PANELS: tuple[tuple[str, Callable[[Row], float | None]], ...] = (
    ("forward + backward, microseconds a row", lambda row: row.median_ms and row.median_ms * 1e3 / row.rows),
    ("peak memory above the inputs, MiB", lambda row: row.peak_mib),
    ("largest loss error, nats", lambda row: row.nll_error_max),
)


def require_matplotlib() -> None:
    """Raise UserError where no picture can be drawn, before anything was measured."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(
            "results.png", "no matplotlib", "the extra `bench`", "pip install 'compact-ds[bench]', or give --no-plot"
        )


def plot(rows: Sequence[Row], title: str, path: Path) -> None:
    """Draw one column of panels for each distribution; a provider keeps its colour throughout."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = [row for row in rows if row.status == MEASURED and row.phase == "both"]
    distributions = list(dict.fromkeys(row.distribution for row in measured))
    providers = list(dict.fromkeys(row.provider for row in measured))
    inputs = list(dict.fromkeys(_label(row) for row in measured))
    width = max(7.0, 3.0 + 0.45 * len(inputs)) * max(1, len(distributions))
    figure = Figure(figsize=(width, 3.6 * len(PANELS)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = figure.subplots(len(PANELS), max(1, len(distributions)), squeeze=False, sharex=True, sharey="row")
    for column, distribution in enumerate(distributions):
        shown = [row for row in measured if row.distribution == distribution]
        for (name, value), ax in zip(PANELS, axes[:, column], strict=True):
            _panel(ax, shown, providers, inputs, value)
            ax.set_title(f"{name}: {distribution}", fontsize=10)
    if measured:
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=min(6, len(providers)))
    figure.savefig(path, dpi=120)


def _panel(
    ax: Any, rows: list[Row], providers: list[str], inputs: list[str], value: Callable[[Row], float | None]
) -> None:
    for index, provider in enumerate(providers):
        # Markers beside one another: equal values would hide each other.
        shift = 0.6 * ((index + 0.5) / len(providers) - 0.5)
        points = [(inputs.index(_label(row)) + shift, value(row)) for row in rows if row.provider == provider]
        shown = [(x, y) for x, y in points if y]
        ax.plot(
            [x for x, _ in shown], [y for _, y in shown], "osD^v<>PX*hd"[index % 12],
            color=f"C{index % 10}", label=provider, markersize=6,
        )  # fmt: skip
    ax.set_yscale("log")
    ax.set_xticks(range(len(inputs)), inputs, rotation=90 if len(inputs) > 3 else 0, fontsize=8)
    ax.set_xlim(-0.5, len(inputs) - 0.5)
    ax.grid(True, axis="y", which="both", alpha=0.3)


def _label(row: Row) -> str:
    return f"{row.shape}, {row.rows}"
