"""`compact-ds bench step`: one optimizer step taken apart, and beside other ways to train on the same rationales.

All contenders take the same questions at every lap and take turns, so that a busy machine is unfair to none; ratios are medians
over laps. Owns the order of these things; contenders are in `trees`, `rows` and `trl_peer`, tables in `report`.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from compact_ds import config as configuration
from compact_ds.bench.report import bar_chart, print_tables
from compact_ds.bench.rows import Rows
from compact_ds.bench.trees import Contender, Trees, operations
from compact_ds.bench.trl_peer import SETTINGS, Trl, fastest
from compact_ds.config import Config
from compact_ds.engine.ranks import Ranks, ranks
from compact_ds.errors import UserError, nearest
from compact_ds.kernels.bench_measure import PeakMemory, environment, matrix_rate
from compact_ds.kernels.bench_plot import require_matplotlib
from compact_ds.phases import PHASES, measured
from compact_ds.student.load import DTYPES, load_lm, load_tokenizer
from compact_ds.tree.tokenise import Tokeniser

AGAINST = ("plain", "uniform", "naive", "trl")


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for; `peak_tflops` is measured when None."""

    config: str
    overrides: list[str]
    against: list[str] | None = None
    repeats: int = 5
    peak_tflops: float | None = None
    trace: bool = False
    output: Path | None = None
    draws: bool = True
    prints_json: bool = False


def run(options: Options) -> int:
    """Measure, write `results.json` (and `results.png`, `trace.json`), print. Raises UserError."""
    against = list(AGAINST) if options.against is None else options.against
    for name in against:
        if name not in AGAINST:
            raise UserError("--against", name, "a known contender", nearest(name, AGAINST))
    if options.repeats < 1:
        raise UserError("--repeats", options.repeats, "at least 1", "give a positive number")
    if options.draws:
        require_matplotlib()
    config = configuration.load(options.config, options.overrides)
    # Every lap has the same questions; the first steps would have uniform weights.
    data = config.data.model_copy(update={"limit": config.data.batch_size})
    compatibility = config.compatibility.model_copy(update={"warmup": 0})
    config = config.model_copy(update={"data": data, "compatibility": compatibility})
    output = options.output or Path("runs") / "bench-step"
    output.mkdir(parents=True, exist_ok=True)
    with ranks(config.engine.timeout_seconds) as group, tempfile.TemporaryDirectory() as folder:
        if group.world_size > 1:
            raise UserError(
                "bench step", f"{group.world_size} ranks", "a single process", "start it without a launcher"
            )
        found = _measure(config, against, options, group, Path(folder), output)
    (output / "results.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if options.draws:
        bar_chart(found, output / "results.png")
    if options.prints_json:
        print(json.dumps(found))
    else:
        console = Console(width=None if sys.stdout.isatty() else 160)
        print_tables(console, found)
        console.print(f"results in {output}")
    return 0


def _measure(
    config: Config, against: list[str], options: Options, group: Ranks, folder: Path, output: Path
) -> dict[str, Any]:
    ours, others = _contenders(config, against, group, folder)
    everyone: list[Contender] = [ours, *others]
    seconds: dict[str, list[float]] = {one.name: [] for one in everyone}
    phases: list[dict[str, float]] = []
    losses: dict[str, float | None] = {}
    for lap in range(1 + options.repeats):
        for one in everyone[lap % len(everyone) :] + everyone[: lap % len(everyone)]:
            started = time.perf_counter()
            with measured() as clock:
                losses[one.name] = one.lap()
            seconds[one.name].append(time.perf_counter() - started)
            if one is ours:
                phases.append(clock.seconds)
        done = ", ".join(f"{name} {values[-1]:.1f}" for name, values in seconds.items())
        sys.stderr.write(f"lap {lap}{' (to warm up)' if lap == 0 else ''}: {done} s\n")
    peaks = {one.name: _peak(one, group.device.type) for one in everyone}
    peak_flops = (options.peak_tflops or 0) * 1e12 or matrix_rate(group.device.type, DTYPES[config.engine.precision])
    if options.trace:
        _trace(ours, output / "trace.json")
    found = {
        "command": " ".join(["compact-ds", *sys.argv[1:]]),
        "environment": environment(group.device.type),
        "questions": config.data.batch_size,
        "laps": options.repeats,
        "contenders": [_row(one, ours.name, seconds, peaks, losses) for one in everyone],
        "phases": _shares(phases[1:], seconds[ours.name][1:]),
        "peak_tflops": peak_flops / 1e12,
        "model_flop_utilisation": operations(ours.batches, ours.engine.student)
        / statistics.median(seconds[ours.name][1:])
        / peak_flops,
    }
    for one in everyone:
        one.close()
    return found


def _contenders(config: Config, against: list[str], group: Ranks, folder: Path) -> tuple[Trees, list[Contender]]:
    tokeniser = Tokeniser(load_tokenizer(config.student), config.data.cue)
    lm = load_lm(config, len(tokeniser.tokenizer))

    def trees(name: str, method: str) -> Trees:
        return Trees(name, config.model_copy(update={"method": method}), lm, tokeniser, group, folder)

    ours = trees(config.method, config.method)
    records = [record for own in ours.records for record in own]
    probes = ours.data.method.probes(config.compatibility, config.tree.max_probes)
    make: dict[str, Callable[[], Contender]] = {
        "plain": lambda: Rows("plain", config, lm, records, 0),
        "uniform": lambda: trees("uniform", "uniform"),
        "naive": lambda: Rows("naive", config, lm, records, probes),
        "trl": lambda: fastest(
            list(SETTINGS), lambda setting: Trl(setting, config, lm, records, tokeniser.tokenizer, folder)
        ),
    }
    return ours, [make[name]() for name in against]


def _peak(one: Contender, device: str) -> int | None:
    """Bytes that a lap holds above what was held before it."""
    memory = PeakMemory(device)
    memory.start()
    one.lap()
    return memory.read()


def _row(
    one: Contender, base: str, seconds: dict[str, list[float]], peaks: dict[str, int | None], losses: dict[str, Any]
) -> dict[str, Any]:
    """A contender's figures; the first lap, which warms up, is left out. `ours` is our time as a share of its."""
    own = seconds[one.name][1:]
    ratios = [mine / other for mine, other in zip(seconds[base][1:], own, strict=True)]
    median = statistics.median(own)
    return {
        "name": one.name,
        "setting": one.setting,
        "seconds": median,
        "seconds_of_laps": own,
        "ours": statistics.median(ratios),
        "ours_smallest": min(ratios),
        "ours_largest": max(ratios),
        "tokens": one.tokens,
        "padding": 1 - one.tokens / one.padded,
        "tokens_per_second": one.tokens / median,
        "peak_bytes": peaks[one.name],
        "last_loss": losses[one.name],
    }


def _shares(phases: list[dict[str, float]], seconds: list[float]) -> dict[str, dict[str, float]]:
    """Median seconds and share of the lap of every phase, and of what is outside of them all."""
    laps = [lap | {"other": total - sum(lap.values())} for lap, total in zip(phases, seconds, strict=True)]
    return {
        name: {
            "seconds": statistics.median(lap.get(name, 0.0) for lap in laps),
            "share": statistics.median(lap.get(name, 0.0) / total for lap, total in zip(laps, seconds, strict=True)),
        }
        for name in (*PHASES, "other")
    }


def _trace(ours: Trees, file: Path) -> None:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with measured(), torch.profiler.profile(activities=activities) as profile:
        ours.lap()
    profile.export_chrome_trace(str(file))
