"""A sweep as a table, a picture and JSON lines, with the plan's prediction beside each measurement.

Owns their form, and the calibration: the first cell says what the machine computes a second, all others are predicted from it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from compact_ds.errors import UserError
from compact_ds.launcher.plan import plan
from compact_ds.launcher.plan_shape import shape
from compact_ds.launcher.plan_time import MACHINES, Machine, step_flops
from compact_ds.launcher.plan_workload import Lengths, workload
from compact_ds.launcher.sweep import Grid, Measured, config_of, groups
from compact_ds.launcher.sweep_fit import Curve, fit


def with_plans(grid: Grid, found: Sequence[Measured], folder: Path, vocabulary: int | None) -> list[Measured]:
    """Every measurement with what the plan says; ranks share this machine's cores."""
    made, machine = [], None
    for one in found:
        config, ranks = config_of(grid, one.cell, folder), one.cell.world_size
        student, work = shape(config, vocabulary), workload(config, Lengths(**grid.lengths), ranks)
        if machine is None:
            machine = _calibrated(step_flops(student, work, config.student.gradient_checkpointing, False) / one.seconds)
        planned = plan(config, student, machine, ranks, work)
        sent = sum(planned.traffic.values())
        figures = {"seconds": planned.step_seconds, "memory": float(planned.memory.total), "traffic": float(sent)}
        made.append(replace(one, planned=figures))
    return made


def show(found: Sequence[Measured], console: Console) -> dict[str, Curve]:
    """The table and the curves' terms; returns the curves by group."""
    table = Table(title="seconds of a step and what follows (plan in brackets)", width=96)
    for name in (
        "settings",
        "ranks",
        "s/step",
        "(plan)",
        "tokens/s a rank",
        "efficiency",
        "MB sent",
        "(plan)",
        "peak MB",
    ):
        table.add_column(name, justify="left" if name == "settings" else "right")
    curves = {}
    for name, own in groups(found).items():
        for one in own:
            table.add_row(Text(name if one is own[0] else ""), *_figures(one, own[0]))
        table.add_section()
        curve = fit([one.cell.world_size for one in own], [one.seconds for one in own])
        if curve is not None:
            curves[name] = curve
    console.print(table)
    for name, curve in curves.items():
        console.print(
            Text(
                f"{name}: {curve.constant:.3f} s constant + {curve.parallel:.3f} s / W + {curve.messages:.4f} s (W - 1); "
                f"serial share {curve.serial_share:.2f}, off by {curve.residual:.1%}"
            )
        )
    return curves


def write(found: Sequence[Measured], folder: Path) -> None:
    """`sweep.jsonl`, a line a cell."""
    lines = [json.dumps(one.as_json()) + "\n" for one in found]
    (folder / "sweep.jsonl").write_text("".join(lines), encoding="utf-8")


def draw(found: Sequence[Measured], curves: dict[str, Curve], file: Path) -> None:
    """Step time with its curve, tokens a second of a rank, efficiency and memory. Raises UserError without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        remedy = "pip install 'compact-ds[bench]', or give --no-plot"
        raise UserError("sweep", "no matplotlib", "the package that draws", remedy) from None
    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6.5), layout="constrained")
    titles = (
        "step time, s",
        "trained tokens/s a rank",
        "efficiency (of the smallest world)",
        "peak memory of a rank, MB",
    )
    for axis, title in zip(axes.flat, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("ranks")
    for number, (name, own) in enumerate(groups(found).items()):
        _draw_group(axes, own, curves.get(name), name, f"C{number}")
    axes.flat[0].legend(fontsize=7, title="points measured, line fitted, crosses planned", title_fontsize=7)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _draw_group(axes: Any, own: Sequence[Measured], curve: Curve | None, name: str, colour: str) -> None:
    ranks = [one.cell.world_size for one in own]
    step, tokens, efficiency, memory = axes.flat
    step.plot(ranks, [one.seconds for one in own], "o", color=colour, label=name)
    step.plot(ranks, [one.planned["seconds"] for one in own], "x", color=colour)
    if curve is not None:
        fine = [ranks[0] + i * (ranks[-1] - ranks[0]) / 50 for i in range(51)]
        step.plot(fine, [curve.seconds(w) for w in fine], "-", color=colour, linewidth=1)
    tokens.plot(ranks, [one.tokens_per_rank for one in own], "o-", color=colour)
    efficiency.plot(ranks, [one.tokens_per_rank / own[0].tokens_per_rank for one in own], "o-", color=colour)
    memory.plot(ranks, [one.planned["memory"] / 1e6 for one in own], "x", color=colour)
    if all(one.memory is not None for one in own):
        memory.plot(ranks, [(one.memory or 0) / 1e6 for one in own], "o", color=colour)


def _figures(one: Measured, first: Measured) -> tuple[str, ...]:
    return (
        str(one.cell.world_size),
        f"{one.seconds:.3f}",
        f"({one.planned['seconds']:.3f})",
        f"{one.tokens_per_rank:,.0f}",
        f"{one.tokens_per_rank / first.tokens_per_rank:.2f}",
        f"{one.traffic / 1e6:,.2f}",
        f"({one.planned['traffic'] / 1e6:,.2f})",
        "-" if one.memory is None else f"{one.memory / 1e6:,.0f}",
    )


def _calibrated(flops: float) -> Machine:
    """This machine's processor; the network inside it is not what limits."""
    return replace(MACHINES["cpu"], flops=flops, calibrated=True)
