"""A plan as tables for people, at most 90 columns wide.

Owns their form. Each figure is marked: c counted from shapes, m measured (a calibration), a assumed.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from compact_ds.launcher.plan import Plan

WIDTH = 90


def show(found: Plan, rows: int, table: Sequence[Plan], console: Console | None = None) -> None:
    """Memory by part, the step, and the table over world sizes. `rows` are the most that fit."""
    out = console or Console(width=WIDTH)
    shape, machine = found.shape, found.machine
    share = f", {shape.trained / 1e6:,.1f}M trained" if shape.trained != shape.total else ""
    title = (
        f"{shape.name}: {shape.total / 1e9:.3f}B parameters{share}; {found.world_size} x {machine.name}, "
        f"ZeRO-{found.zero.stage}, {found.config.engine.precision}, "
        f"{len(found.work.micro_batches)} micro-batch(es) of {found.work.largest.rows} row(s)"
    )
    out.print(Text(title))
    out.print(_memory(found))
    out.print(_step(found, rows))
    out.print(_world_sizes(table))
    out.print(Text("c counted from shapes   m measured (calibration)   a assumed (lengths, efficiency, price)"))


def _memory(found: Plan) -> Table:
    table = Table(title=f"memory of a rank at its peak ({found.memory.moment})", width=60)
    table.add_column("part")
    table.add_column("GB", justify="right")
    table.add_column("", justify="center")
    for name, size in found.memory.parts.items():
        table.add_row(name, f"{size / 1e9:,.3f}", "a" if name in ("fragmentation", "context") else "c")
    table.add_section()
    verdict = "fits" if found.fits else "does NOT fit"
    table.add_row(f"all, of {found.machine.memory / 1e9:.0f}: {verdict}", f"{found.memory.total / 1e9:,.3f}", "")
    if found.memory.host:
        table.add_row("host memory", f"{found.memory.host / 1e9:,.3f}", "c")
    return table


def _step(found: Plan, rows: int) -> Table:
    table = Table(title="one optimizer step", width=60)
    table.add_column("what")
    table.add_column("value", justify="right")
    table.add_column("", justify="center")
    basis = "m" if found.machine.calibrated else "a"
    for kind, size in found.traffic.items():
        table.add_row(f"{kind}, whole tensors", f"{size / 1e9:,.4f} GB", "c")
    table.add_row("computation", f"{found.compute_seconds:,.4f} s", basis)
    table.add_row(
        f"network ({'under it' if found.overlapped else 'after it'})", f"{found.network_seconds:,.4f} s", basis
    )
    table.add_row("step", f"{found.step_seconds:,.4f} s", basis)
    table.add_row("trained tokens a second", f"{found.tokens_per_second:,.0f}", basis)
    table.add_row("cost of a step", f"${found.cost_per_step:,.5f}", "a")
    table.add_row("cost of 1M trained tokens", f"${found.cost_per_million:,.3f}", "a")
    table.add_row("most tree.rows that fit", str(rows) if rows else "none", "c")
    return table


def _world_sizes(plans: Sequence[Plan]) -> Table:
    table = Table(title="the same questions a rank on more ranks (share: of linear scaling)", width=WIDTH)
    for name in ("ranks", "GB", "fits", "compute s", "network s", "k tokens/s", "share", "$/1M", "bound by"):
        table.add_column(name, justify="right")
    alone = plans[0].tokens_per_second
    for one in plans:
        table.add_row(
            str(one.world_size),
            f"{one.memory.total / 1e9:,.1f}" if one.memory.total > 1e9 else f"{one.memory.total / 1e9:,.3f}",
            "yes" if one.fits else "no",
            f"{one.compute_seconds:,.3f}",
            f"{one.network_seconds:,.3f}",
            f"{one.tokens_per_second / 1e3:,.1f}",
            f"{one.tokens_per_second / (alone * one.world_size):.2f}",
            f"{one.cost_per_million:,.3f}",
            "network" if one.network_bound else "compute",
        )
    return table
