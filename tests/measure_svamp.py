"""The study on real rationales as a picture: what held-out questions are answered right, over the number of misleading teachers.

    python tests/measure_svamp.py docs/study_svamp.json OUTPUT.png

A row of the file is a run: `mislead`, `method`, `seed` and the shares of right answers and right calculations, greedy
and sampled. A point is a run, a line the mean of its seeds.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES = {"uniform": "tab:red", "compact": "tab:blue", "verified": "tab:green"}
PANELS = {"answers": "right answers", "calculations": "right calculations"}

Runs = dict[str, dict[int, list[float]]]
"""By method and dose, the share of each seed."""


def runs(rows: list[dict[str, float | str]], figure: str) -> Runs:
    found: Runs = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[str(row["method"])][int(row["mislead"])].append(float(row[figure]))
    return found


def draw(rows: list[dict[str, float | str]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(PANELS), figsize=(9, 3.6), layout="constrained")
    for axes, (key, label) in zip(panels, PANELS.items(), strict=True):
        _panel(axes, runs(rows, key))
        axes.set(xlabel="misleading teachers", ylabel=f"{label}, greedy", xticks=range(4), ylim=(0, None))
    panels[0].legend(fontsize=8)
    figure.savefig(file, dpi=110)


def _panel(axes: Axes, found: Runs) -> None:
    for place, (method, colour) in enumerate(STYLES.items()):
        doses = sorted(found[method])
        # Side by side, so that none hides another.
        beside = [dose + 0.06 * (place - 1) for dose in doses]
        means = [statistics.fmean(found[method][dose]) for dose in doses]
        axes.plot(beside, means, color=colour, label=method, marker="_", markersize=14)
        for x, dose in zip(beside, doses, strict=True):
            seeds = found[method][dose]
            axes.plot([x] * len(seeds), seeds, ".", color=colour, alpha=0.5)


if __name__ == "__main__":
    source, output = (Path(word) for word in sys.argv[1:])
    draw(json.loads(source.read_text(encoding="utf-8")), output)
