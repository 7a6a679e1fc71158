"""The command `kernels check`: compile everything that is shipped for every target, print the table, fail on a broken limit.

Owns the run and the tables. What is compiled and the limits are in `shipped`, other projects' kernels in `peers`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from compact_ds.errors import UserError, nearest
from compact_ds.kernels.tiles import TARGETS, Target
from compact_ds.progress import progress_bar

if TYPE_CHECKING:
    from compact_ds.kernels.compile_check import Compiled

_COLUMNS = (
    "kernel",
    "target",
    "warps/stages",
    "registers",
    "stack B",
    "spill B",
    "shared KiB",
    "matrix",
    "TMA",
    "lines",
)


def run(targets: Sequence[str] | None, jobs: int, markdown: Path | None, *, with_peers: bool, prints_json: bool) -> int:
    """Compile, print, and return 1 when a limit is broken, which can only be one of ours.

    Raises UserError without Triton, for an unknown target and for less than one job. A peer that is not installed is named
    with the reason.
    """
    chosen = _checked(targets)
    if jobs < 1:
        raise UserError("--jobs", jobs, "1 or more compilations at a time", "leave it out for 2")
    from compact_ds.kernels import peers
    from compact_ds.kernels.shipped import failures, launches

    ours = [("ours", target, i) for target in chosen for i in range(len(list(launches(target))))]
    work = list(ours)
    if with_peers:
        work += [("peers", target, i) for target in chosen for i in range(len(list(peers.launches(target))))]
        for name, reason in peers.missing().items():
            print(f"kernels check: {name} is skipped: {reason}", file=sys.stderr)
    compiled = list(progress_bar(sys.stderr.isatty(), _compiled(work, jobs), total=len(work), desc="compiling"))
    found, theirs = compiled[: len(ours)], compiled[len(ours) :]
    broken = [(one, failures(one)) for one in found if failures(one)]
    tables = {"ours": found} | ({_versions(peers.versions()): theirs} if theirs else {})
    if markdown is not None:
        markdown.write_text("\n".join(_markdown(rows) for rows in tables.values()), encoding="utf-8")
    if prints_json:
        rows = [asdict(one) | {"failures": failures(one)} for one in found]
        print(json.dumps(rows + [asdict(one) | {"failures": []} for one in theirs]))
    else:
        for title, rows_of in tables.items():
            _print(title, rows_of)
    for one, reasons in broken:
        sys.stderr.write(f"kernels check: {one.name} on {one.target}: {'; '.join(reasons)}\n")
    print(f"{len(found)} kernels compiled, {len(broken)} break a limit", file=sys.stderr)
    return 1 if broken else 0


def _versions(versions: dict[str, str]) -> str:
    return "peers: " + ", ".join(f"{name} {version}" for name, version in versions.items())


def _checked(targets: Sequence[str] | None) -> tuple[Target, ...]:
    if importlib.util.find_spec("triton") is None:
        raise UserError("kernels check", "no triton", "the package triton", "pip install triton")
    for name in targets or ():
        if name not in TARGETS:
            raise UserError("--targets", name, ", ".join(TARGETS), nearest(name, TARGETS))
    return tuple(target for target in TARGETS if not targets or target in targets)


def _compiled(work: list[tuple[str, Target, int]], jobs: int) -> Iterator[Compiled]:
    # New processes, because Triton reads the interpreter's switch once, when a kernel is defined.
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_leave_interpreter) as pool:
        yield from pool.map(_one, work)


def _leave_interpreter() -> None:
    os.environ["TRITON_INTERPRET"] = "0"


def _one(work: tuple[str, Target, int]) -> Compiled:
    from compact_ds.kernels.compile_check import compile_for

    whose, target, i = work
    source = importlib.import_module(f"compact_ds.kernels.{'shipped' if whose == 'ours' else 'peers'}")
    return compile_for(list(source.launches(target))[i], target)


def _cells(one: Compiled) -> tuple[str, ...]:
    launch = f"{one.warps}/{one.stages}"
    counts = (one.registers, one.stack_bytes, one.spill_bytes, one.shared_bytes // 1024, one.matrix, one.tma_loads)
    return (one.name, one.target, launch, *map(str, counts), str(one.instructions))


def _print(title: str, found: list[Compiled]) -> None:
    table = Table(*_COLUMNS, title=title)
    for one in found:
        table.add_row(*_cells(one))
    Console(width=150 if not sys.stdout.isatty() else None).print(table)


def _markdown(found: list[Compiled]) -> str:
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + "---|" * len(_COLUMNS)]
    lines += ["| " + " | ".join(_cells(one)) + " |" for one in found]
    return "\n".join(lines) + "\n"
