"""`compact-ds bench step`: one optimizer step taken apart, and beside other ways to train on the same rationales.

All contenders take the same questions at every lap and take turns, so that a busy machine is unfair to none; ratios are medians
over laps. Owns the order of these things; contenders are in `trees`, `rows` and `trl_peer`, figures in `laps` and `report`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from compact_ds import config as configuration
from compact_ds.bench.laps import WARM_UP, Laps
from compact_ds.bench.report import bar_chart, print_tables, write
from compact_ds.bench.rows import Rows
from compact_ds.bench.trees import Contender, Trees
from compact_ds.bench.trl_peer import SETTINGS, Trl, fastest
from compact_ds.engine.ranks import Ranks, ranks
from compact_ds.errors import UserError, nearest
from compact_ds.kernels.bench_measure import PeakMemory, environment, matrix_rate
from compact_ds.kernels.bench_plot import require_matplotlib
from compact_ds.phases import measured
from compact_ds.sections import Config
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
    write(found, output)
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
    laps = Laps(ours, others)
    device = group.device.type
    found: dict[str, Any] = {
        "command": " ".join(["compact-ds", *sys.argv[1:]]),
        "environment": environment(device),
        "questions": config.data.batch_size,
        "peak_tflops": options.peak_tflops or matrix_rate(device, DTYPES[config.engine.precision]) / 1e12,
    }
    for lap in range(WARM_UP + options.repeats):
        laps.run(lap)
        if lap >= WARM_UP:
            if options.peak_tflops is None and lap == WARM_UP + options.repeats - 1:
                # A busy machine's best is the roof.
                found["peak_tflops"] = max(
                    found["peak_tflops"], matrix_rate(device, DTYPES[config.engine.precision]) / 1e12
                )
            found |= laps.figures()
            found["model_flop_utilisation"] = laps.operations / (
                found["contenders"][0]["seconds"] * found["peak_tflops"] * 1e12
            )
            write(found, output)  # a run cut short keeps what it has
    for one, row in zip(everyone, found["contenders"], strict=True):
        row["peak_bytes"] = _peak(one, device)
    if options.trace:
        _trace(ours, output / "trace.json")
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


def _trace(ours: Trees, file: Path) -> None:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with measured(), torch.profiler.profile(activities=activities) as profile:
        ours.lap()
    profile.export_chrome_trace(str(file))
