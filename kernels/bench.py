"""`compact-ds bench kernels`: the head's primitive beside other implementations of the same, on one device.

Every provider gets the same input and upstream gradient. It first runs twice untimed, once to compare it with float64 and
once to measure its memory; then all are timed in turn, round by round, so that a drift of the machine meets all alike.
Owns the order of these things; each of them is in a `bench_*` module beside this one.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from compact_ds.errors import UserError, nearest
from compact_ds.kernels.bench_data import DISTRIBUTIONS, describe, make_problem
from compact_ds.kernels.bench_measure import (
    PeakMemory,
    Stopwatch,
    device_folder,
    environment,
    matrix_rate,
    resolve_device,
)
from compact_ds.kernels.bench_plot import plot, require_matplotlib
from compact_ds.kernels.bench_providers import Provider, providers_named
from compact_ds.kernels.bench_reference import Reference
from compact_ds.kernels.bench_report import FAILED, SKIPPED, Row, of_matrix_rate, print_tables, write
from compact_ds.kernels.bench_shapes import PUBLISHED, SHAPES, YARDSTICK, Shape, shape_named
from compact_ds.kernels.bench_trial import Trial, check, guard, rows_of, time_in_turn
from compact_ds.progress import progress_bar

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

_SMALL = "smollm2-135m"  # for a CPU; the others are a GPU's


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for; None stands for what suits the device."""

    shapes: list[str] | None = None
    rows: list[int] | None = None
    providers: list[str] | None = None
    distributions: list[str] | None = None
    dtype: str | None = None
    device: str | None = None
    grad_fraction: float = 1.0
    softcap: float | None = None
    slots: int = 1
    repeats: int | None = None
    output: Path | None = None
    quick: bool = False
    draws: bool = True
    prints_json: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be run; an input is a shape with a row count and a distribution."""

    inputs: list[tuple[Shape, int, str]]
    providers: list[Provider]
    dtype: str
    device: str
    grad_fraction: float
    softcap: float | None
    slots: int
    repeats: int
    output: Path


def run(options: Options) -> int:
    """Measure, write the results, print them; exit code 1 when one of our own implementations failed."""
    plan = make_plan(options)
    if options.draws:
        require_matplotlib()
    watch, memory = Stopwatch(plan.device), PeakMemory(plan.device)
    rate = matrix_rate(plan.device, DTYPES[plan.dtype])
    results = _about(plan, memory)
    rows: list[Row] = []
    whole: dict[str, Any] = {}
    total = len(plan.inputs) * len(plan.providers) * (1 + plan.repeats)
    with progress_bar(sys.stderr.isatty(), total=total, unit="pass", file=sys.stderr) as progress:
        for shape, num_rows, distribution in plan.inputs:
            progress.set_description(f"{shape.name}, {num_rows} rows, {distribution}")
            rows += _run_input(plan, shape, num_rows, distribution, watch, memory, progress)
            rate = max(rate, matrix_rate(plan.device, DTYPES[plan.dtype]))  # a roof is what the device did at its best
            results["matrix_tflops"], rows = rate / 1e12, [of_matrix_rate(row, rate) for row in rows]
            whole = write(plan.output, results, rows)  # after every input: a run cut short keeps what it has
    if options.draws:
        plot(rows, f"{results['environment']['device']}, {plan.dtype}", plan.output / "results.png")
    if options.prints_json:
        print(json.dumps(whole))
    else:
        console = Console(width=None if sys.stdout.isatty() else 200)
        print_tables(console, results, rows)
        console.print(f"results in {plan.output}")
    return int(any(row.status == FAILED and row.provider.startswith("ours") for row in rows))


def make_plan(options: Options) -> Plan:
    """Fill in what suits the device; raises UserError for a name, number or device that cannot be."""
    device = resolve_device(options.device)
    on_gpu = device == "cuda"
    _check_numbers(options)
    distributions = options.distributions or list(DISTRIBUTIONS)
    for name in distributions:
        if name not in DISTRIBUTIONS:
            raise UserError("--distributions", name, "a known distribution", nearest(name, DISTRIBUTIONS))
    dtype = options.dtype or ("bf16" if on_gpu else "fp32")
    if dtype not in DTYPES:
        raise UserError("--dtype", dtype, "a known type", nearest(dtype, DTYPES))
    names, default_rows, repeats = _matrix(on_gpu, options.quick)
    shapes = [shape_named(name) for name in options.shapes or names]
    return Plan(
        [
            (shape, num_rows, distribution)
            for shape in shapes
            for num_rows in options.rows or shape.rows or default_rows
            for distribution in distributions
        ],
        providers_named(options.providers, device), dtype, device, options.grad_fraction, options.softcap, options.slots,
        options.repeats or repeats, options.output or Path("runs") / f"bench-kernels-{device_folder(device)}",
    )  # fmt: skip


def _matrix(on_gpu: bool, quick: bool) -> tuple[list[str], list[int], int]:
    """Default shapes, row counts and runs of each provider."""
    if not on_gpu:
        return (["8192x256"], [256], 2) if quick else ([_SMALL], [512], 5)
    if quick:
        return ["llama-3.2-1b", YARDSTICK], [8192], 10
    return [name for name in SHAPES if name != _SMALL], [4096, 8192, 32768], 30


def _check_numbers(options: Options) -> None:
    if not 0 < options.grad_fraction <= 1:
        raise UserError("--grad-fraction", options.grad_fraction, "above 0 and at most 1", "give the share of rows")
    for flag, value in (
        ("--slots", options.slots), ("--repeats", options.repeats), ("--softcap", options.softcap),
        *(("--rows", rows) for rows in options.rows or ()),
    ):  # fmt: skip
        if value is not None and value <= 0:
            raise UserError(flag, value, "a number above 0", "give a positive one")


def _run_input(
    plan: Plan, shape: Shape, num_rows: int, distribution: str,
    watch: Stopwatch, memory: PeakMemory, progress: Any,
) -> list[Row]:  # fmt: skip
    torch.compiler.reset()  # past a number of shapes, torch.compile would silently run eager code
    grad_rows = max(1, round(plan.grad_fraction * num_rows))
    problem = make_problem(
        shape, num_rows, plan.slots, DTYPES[plan.dtype], plan.device, distribution, grad_rows, plan.softcap
    )
    figures = asdict(describe(problem))
    reference = Reference(problem)
    trials, rows = [], {}
    for provider in plan.providers:
        rows[provider.name] = Row(
            shape.name, shape.vocabulary, shape.hidden_size, num_rows, plan.slots, plan.dtype, distribution,
            plan.grad_fraction, plan.softcap, provider.name, not provider.gives_mean, SKIPPED, **figures,
            reason=provider.reason_to_skip(plan.device, plan.softcap, num_rows * shape.vocabulary) or "",
        )  # fmt: skip
        if rows[provider.name].reason:
            progress.update(1 + plan.repeats)
            continue
        trial = Trial(provider, problem)
        guard(trial, partial(check, trial, reference, memory))
        progress.update(1)
        trials.append(trial)
    time_in_turn(trials, watch, plan.repeats, plan.device == "cuda", lambda: progress.update(1))
    found = {trial.provider.name: rows_of(trial, rows[trial.provider.name]) for trial in trials}
    return [row for name, common in rows.items() for row in found.get(name, [common])]


def _about(plan: Plan, memory: PeakMemory) -> dict[str, Any]:
    """What a reader of the figures must know besides them."""
    notes = [
        "forward and backward are parts of one pass; both is their sum",
        "providers are timed in turn, each round beginning with another; median, 20th and 80th percentile",
        "tflops: 2NVD forward, 6NVD backward with recomputed logits, 4NVD without; D hidden size, V vocabulary, N rows",
        "backward memory includes what the forward pass keeps; gradients are included",
        "repeatable: two passes gave the same losses and sampled gradient rows, bit for bit",
    ]
    if not memory.is_available:
        notes.append("peak memory is not measured here: it needs a GPU, or Linux with a writable /proc/self/clear_refs")
    return {
        "command": " ".join(["compact-ds", *sys.argv[1:]]),
        "environment": environment(plan.device),
        "dtype": plan.dtype,
        "matrix_tflops": None,
        "distributions": DISTRIBUTIONS,
        "providers": {provider.name: provider.computes for provider in plan.providers},
        "notes": notes,
        "published_elsewhere": [asdict(figure) for figure in PUBLISHED],
    }
