"""The benchmark's rows and how they are written: CSV, JSON and tables.

Owns the columns, their units and the files. Measures nothing.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from compact_ds.kernels.bench_shapes import PUBLISHED

MEASURED, SKIPPED, FAILED = "measured", "skipped", "failed"
PHASES = ("forward", "backward", "both")


@dataclass(frozen=True, slots=True)
class Row:
    """One phase of one provider on one input; one row without figures where it was skipped or failed.

    Times are milliseconds with the 20th and 80th percentile; `tflops` is 10^12 FLOP/s by the algorithm's count; memory is MiB
    above the inputs, the gradients included; errors are against float64, losses in nats and gradients relative.
    `gradients_mib` and `logits_mib` (one copy of all logits in the operands' type) are there to compare with. The last
    six describe the input.
    """

    shape: str
    vocabulary: int
    hidden_size: int
    rows: int
    slots: int
    dtype: str
    distribution: str
    grad_fraction: float
    softcap: float | None
    provider: str
    same_result: bool
    status: str
    reason: str = ""
    phase: str = ""
    runs: int | None = None
    median_ms: float | None = None
    p20_ms: float | None = None
    p80_ms: float | None = None
    tflops: float | None = None
    percent_of_matrix_rate: float | None = None
    peak_mib: float | None = None
    gradients_mib: float | None = None
    logits_mib: float | None = None
    nll_error_max: float | None = None
    nll_error_mean: float | None = None
    grad_hidden_error: float | None = None
    grad_weight_error_targets: float | None = None
    grad_weight_error_others: float | None = None
    repeatable: bool | None = None
    nll_mean: float | None = None
    entropy_mean: float | None = None
    target_is_argmax: float | None = None
    logit_std: float | None = None
    tiles_skippable: float | None = None
    tiles_skippable_sorted: float | None = None


COLUMNS = tuple(field.name for field in fields(Row))


def of_matrix_rate(row: Row, rate: float) -> Row:
    """The row with its share of the device's `rate` in FLOP/s."""
    return row if row.tflops is None else replace(row, percent_of_matrix_rate=100 * row.tflops * 1e12 / rate)


def write(folder: Path, results: dict[str, Any], rows: Iterable[Row]) -> dict[str, Any]:
    """Write `results.csv` and `results.json` into `folder`; return what the second holds."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [asdict(row) for row in rows]
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(records)
    # NaN is no JSON; an error of an empty sample is nothing.
    records = [
        {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in record.items()}
        for record in records
    ]
    whole = {**results, "rows": records}
    (folder / "results.json").write_text(json.dumps(whole, indent=1) + "\n")
    return whole


def print_tables(console: Console, results: dict[str, Any], rows: Iterable[Row]) -> None:
    """One table for each input, and under it what was skipped or failed, with the reason."""
    console.print(f"{results['environment']['device']}; matrix product {results['matrix_tflops']:.3g} TFLOP/s")
    for _, of_input in groupby(rows, lambda row: (row.shape, row.rows, row.distribution)):
        console.print(_table(list(of_input)))


def _table(rows: list[Row]) -> RenderableType:
    first = rows[0]
    title = (
        f"{first.shape}: {first.rows} rows x {first.vocabulary} x {first.hidden_size} {first.dtype}, {first.distribution} "
        f"(loss {first.nll_mean:.2f} nats, entropy {first.entropy_mean:.2f}, target is argmax {first.target_is_argmax:.0%}; "
        f"a filter could skip {first.tiles_skippable:.0%} of tiles, {first.tiles_skippable_sorted:.0%} sorted)"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("provider")
    for head in (
        "forward ms", "backward ms", "both ms", "20-80 %", "TFLOP/s", "% of matrix", "peak MiB", "loss error, nats",
        "dH error", "dW error, targets", "others", "repeatable",
    ):  # fmt: skip
        table.add_column(head, justify="right")
    measured = [row for row in rows if row.status == MEASURED]
    for _, of_provider in groupby(measured, lambda row: row.provider):
        table.add_row(*_cells({row.phase: row for row in of_provider}))
    lines = [f"{row.status}: {row.provider}: {row.reason}" for row in rows if row.status != MEASURED]
    lines += [
        f"not the same result: {name}" for name in sorted({row.provider for row in measured if not row.same_result})
    ]
    lines += [
        f"published, not measured here: {p.provider}: {p.milliseconds} ms, {p.gigabytes} GB, {p.device} {p.dtype} ({p.source})"
        for p in PUBLISHED
        if (p.shape, p.rows) == (first.shape, first.rows)
    ]
    return Group(table, Text("\n".join(lines))) if lines else table


def _cells(phases: dict[str, Row]) -> Iterator[str]:
    both = phases["both"]
    yield both.provider
    yield from (f"{phases[phase].median_ms:.2f}" for phase in PHASES)
    yield f"{both.p20_ms:.2f}-{both.p80_ms:.2f}"
    yield from (
        _shown(both.tflops, ".3g"),
        _shown(both.percent_of_matrix_rate, ".0f"),
        _shown(both.peak_mib, ".0f"),
        _shown(both.nll_error_max, ".1e"),
        _shown(both.grad_hidden_error, ".1e"),
        _shown(both.grad_weight_error_targets, ".1e"),
        _shown(both.grad_weight_error_others, ".1e"),
        "yes" if both.repeatable else "no",
    )


def _shown(value: float | None, form: str) -> str:
    return "" if value is None or math.isnan(value) else format(value, form)
