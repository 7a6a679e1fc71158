"""The commands about scale: `plan` looks ahead, `sweep` measures."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compact_ds.cli.arguments import add_json, positive
from compact_ds.launcher.arguments import add_config_arguments

if TYPE_CHECKING:
    from compact_ds.launcher.plan_workload import Lengths
    from compact_ds.sections import Config


def add_plan(commands: Any) -> None:
    """Declare `plan` and `sweep`."""
    plan = commands.add_parser("plan", help="memory, traffic, time and cost of a config without running it")
    add_config_arguments(plan)
    plan.add_argument("--world-size", type=positive, default=1, metavar="N", help="ranks (default: 1)")
    plan.add_argument("--gpu", default="h100", metavar="NAME", help="accelerator, or cpu (default: h100)")
    plan.add_argument("--price", type=float, metavar="DOLLARS", help="of one accelerator for an hour")
    plan.add_argument(
        "--calibration", type=Path, metavar="FILE", help="JSON with measured rates, instead of assumed ones"
    )
    plan.add_argument(
        "--lengths", metavar="K=V,...", default="",
        help="of an example, in tokens: teachers, question, rationale, steps, probe, answer",
    )  # fmt: skip
    plan.add_argument("--fit", type=Path, metavar="FILE", help="write a config that fits, the fastest by this plan")
    add_json(plan)
    plan.set_defaults(run=_plan)

    sweep = commands.add_parser("sweep", help="runs of a few steps over a grid of settings, and the scaling curve")
    sweep.add_argument("grid", metavar="GRID", type=Path, help="a YAML file: config, grid and, if need be, overrides")
    sweep.add_argument(
        "--output", type=Path, metavar="DIR", help="folder; started again, it goes on (default: runs/GRID)"
    )
    sweep.add_argument("--no-plot", action="store_true", help="no sweep.png, and no need of matplotlib")
    add_json(sweep)
    sweep.set_defaults(run=_sweep)


def _plan(arguments: argparse.Namespace) -> int:
    from compact_ds.config import load
    from compact_ds.launcher import plan as planning
    from compact_ds.launcher.plan_shape import shape
    from compact_ds.launcher.plan_table import show
    from compact_ds.launcher.plan_time import machine
    from compact_ds.launcher.plan_workload import workload

    config = load(arguments.config, arguments.overrides)
    lengths = _lengths(arguments.lengths)
    where = machine(arguments.gpu, arguments.calibration, arguments.price)
    student, ranks = shape(config, _vocabulary(config)), arguments.world_size
    if arguments.fit is not None:
        found = planning.fit(config, student, where, ranks, lengths)
        planning.write_config(found, arguments.fit)
        config = found.config
    else:
        found = planning.plan(config, student, where, ranks, workload(config, lengths, ranks))
    rows = planning.largest_rows(config, student, where, ranks, lengths)
    table = planning.over_world_sizes(config, student, where, ranks, lengths)
    if arguments.json:
        print(json.dumps(found.as_json() | {"largest_rows": rows, "world_sizes": [one.as_json() for one in table]}))
    else:
        show(found, rows, table)
    return 0


def _sweep(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from compact_ds.launcher import sweep, sweep_report

    grid = sweep.read_grid(arguments.grid)
    folder: Path = arguments.output or Path("runs") / arguments.grid.stem
    console = Console(width=96, stderr=arguments.json)
    unfinished = sweep.run(grid, folder, console)
    made = [cell for cell in sweep.cells(grid, folder) if cell not in unfinished]
    found = [sweep.measured(cell, folder) for cell in made]
    if found:
        vocabulary = _vocabulary(sweep.config_of(grid, made[0], folder))
        found = sweep_report.with_plans(grid, found, folder, vocabulary)
        curves = sweep_report.show(found, console)
        sweep_report.write(found, folder)
        if not arguments.no_plot:
            sweep_report.draw(found, curves, folder / "sweep.png")
        if arguments.json:
            print(json.dumps([one.as_json() for one in found]))
    for cell in unfinished:
        console.print(f"{cell.name} did not finish; its output: {folder / 'logs' / f'{cell.name}.log'}", markup=False)
    return 1 if unfinished else 0


def _lengths(text: str) -> Lengths:
    from compact_ds.cli.arguments import names
    from compact_ds.errors import UserError, nearest
    from compact_ds.launcher.plan_workload import Lengths

    given: dict[str, int] = {}
    for part in names(text):
        key, _, value = part.partition("=")
        if key not in Lengths.__slots__:
            raise UserError("--lengths", part, "KEY=TOKENS", nearest(key, Lengths.__slots__))
        if not value.isdigit() or int(value) < 1:
            raise UserError("--lengths", part, "a number of tokens from 1 on", f"write for example {key}=100")
        given[key] = int(value)
    return Lengths(**given)


def _vocabulary(config: Config) -> int | None:
    """Words of a student from scratch, which are its tokenizer's."""
    if config.student.scratch is None or config.student.tokenizer is None:
        return None
    from compact_ds.student.load import load_tokenizer

    return len(load_tokenizer(config.student))
