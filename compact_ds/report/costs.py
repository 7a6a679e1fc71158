"""Where time and bytes went: seconds and tokens a second over steps, and what collectives carried."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from compact_ds.report.blocks import Block, Section, beside, chart, column, table
from compact_ds.report.charts import bars, binned, colours, lines
from compact_ds.report.run_folder import Row, Run


def costs(runs: Sequence[Run]) -> Section:
    """Speed of all runs in the same axes, their seconds and bytes in tables."""
    colour = colours(run.name for run in runs)
    seconds = {run.name: [(row["step"], row["step_seconds"]) for row in run.steps] for run in runs}
    speed = {run.name: [(row["step"], row["tokens"] / row["step_seconds"]) for row in run.steps] for run in runs}
    charts: list[Block] = []
    for title, values in (("Seconds a step", seconds), ("Tokens a second", speed)):
        points = [point for name, found in values.items() for point in binned(name, found)]
        charts.append(column("", [chart(title, lines(points, title.casefold(), colour))]))
    if rows := _traffic_rows(runs):
        kinds = list(dict.fromkeys(row["y"] for row in rows))
        charts.append(column("", [chart("MiB a step on each rank", bars(rows, kinds, "MiB a step", colour))]))
    if rows := _part_rows(runs):
        parts = list(dict.fromkeys(row["y"] for row in rows))
        charts.append(column("", [chart("Parts of all steps, seconds", bars(rows, parts, "seconds", colour))]))
    blocks: list[Block] = [beside(charts), table("Seconds", ["run", "of", "seconds", "share"], _seconds(runs))]
    if any(run.traffic.get("bytes_per_step") for run in runs):
        head = ["run", "ranks", "collective", "MiB a step", "calls a step", "times parameters"]
        blocks.append(table("Communication", head, _traffic_table(runs)))
    note = (
        "Seconds are the first rank's, waiting for the others included. Sizes are of whole tensors: a ring of W ranks sends "
        "(W - 1) / W of them, and an all-reduce twice that."
    )
    return Section("costs", "Time and communication", note, blocks)


def _seconds(runs: Sequence[Run]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for run in runs:
        spent = [row["step_seconds"] for row in run.steps]
        diagnosed = [row["step_seconds"] for row in run.steps if row.get("gradient_norm")]
        total = sum(spent)
        rows.append([run.name, "all steps", total, "100%"])
        if diagnosed:
            name = f"{len(diagnosed)} diagnosed steps" if len(diagnosed) > 1 else "1 diagnosed step"
            rows.append([run.name, name, sum(diagnosed), f"{sum(diagnosed) / total:.1%}"])
        rows.append([run.name, "median step", statistics.median(spent), ""])
        rows.append([run.name, "slowest step", max(spent), ""])
    return rows


def _part_rows(runs: Sequence[Run]) -> list[Row]:
    return [
        {"y": part, "series": run.name, "value": seconds} for run in runs for part, seconds in _parts(run.steps).items()
    ]


def _parts(steps: Sequence[Row]) -> dict[str, float]:
    """Seconds by part of a step, where the run noted them."""
    totals: dict[str, float] = {}
    for row in steps:
        parts = row.get("seconds")
        for name, seconds in parts.items() if isinstance(parts, Mapping) else ():
            totals[name] = totals.get(name, 0.0) + seconds
    return totals


def _traffic_rows(runs: Sequence[Run]) -> list[Row]:
    return [
        {"y": kind, "series": run.name, "value": size / 2**20}
        for run in runs
        for kind, size in run.traffic.get("bytes_per_step", {}).items()
    ]


def _traffic_table(runs: Sequence[Run]) -> list[list[Any]]:
    return [
        [run.name, str(run.traffic["world_size"]), kind, size / 2**20, run.traffic["calls_per_step"][kind],
         run.traffic["bytes_per_step_of_parameters"][kind]]
        for run in runs
        for kind, size in run.traffic.get("bytes_per_step", {}).items()
    ]  # fmt: skip
