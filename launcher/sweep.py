"""Runs of a few steps over a grid of settings, resumable, and what each took.

Owns the grid file, its cells and their figures. A cell is a run like any other, started as `launch` starts it; a cell whose
summary is there is not run again. The fit is `sweep_fit`'s, table and picture `sweep_report`'s.

    config: arithmetic                 # a config file or a shipped name
    max_steps: 6
    overrides: [data.batch_size=24]    # for every cell
    grid:                              # every combination; world_size and any config key
      world_size: [1, 2]
      engine.zero_stage: [1, 3]
    lengths: {rationale: 20}           # tokens of an example, for the plan's prediction
"""

from __future__ import annotations

import hashlib
import itertools
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console

from compact_ds.config import load, plain_data
from compact_ds.errors import ConfigError, nearest
from compact_ds.launcher.jobs import Job, run_jobs
from compact_ds.launcher.launch import check_world_size
from compact_ds.launcher.plan_workload import Lengths, workload
from compact_ds.sections import Config

WARM_UP = 2
"""Steps of a cell that are not timed: buffers are made, parameters' order is recorded."""

WORLD_SIZE = "world_size"


class Grid(BaseModel):
    """A grid file."""

    model_config = ConfigDict(extra="forbid")

    config: str
    max_steps: int = Field(6, gt=WARM_UP)
    overrides: list[str] = Field(default_factory=list)
    grid: dict[str, list[Any]] = Field(min_length=1)
    lengths: dict[str, int] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination: `settings` as text by key, in the grid's order."""

    settings: Mapping[str, str]
    world_size: int
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """Stable, and short enough for a folder."""
        text = json.dumps(
            dict(self.settings) | {WORLD_SIZE: self.world_size, "all": list(self.overrides)}, sort_keys=True
        )
        words = "-".join(f"{key.rsplit('.', 1)[-1]}_{value}" for key, value in self.settings.items())
        safe = "".join(c if c.isalnum() or c in "_-" else "_" for c in words)
        return f"{safe[:60]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class Measured:
    """What a finished cell took: seconds of a step (median), trained tokens a step, bytes, and the peak of resident memory."""

    cell: Cell
    seconds: float
    tokens: float
    traffic: float
    memory: int | None
    planned: Mapping[str, float] = field(default_factory=dict)

    @property
    def tokens_per_rank(self) -> float:
        """Trained tokens a second of one rank."""
        return self.tokens / self.seconds / self.cell.world_size

    def as_json(self) -> dict[str, Any]:
        """A row of `sweep.jsonl`."""
        return {
            "settings": dict(self.cell.settings),
            "world_size": self.cell.world_size,
            "seconds": self.seconds,
            "tokens": self.tokens,
            "tokens_per_second_per_rank": self.tokens_per_rank,
            "traffic_bytes": self.traffic,
            "memory": self.memory,
            "planned": dict(self.planned),
        }


def read_grid(file: Path) -> Grid:
    """The grid of a file. Raises ConfigError for what it cannot be."""
    try:
        grid = Grid.model_validate(plain_data(file))
    except OSError:
        raise ConfigError(str(file), "no such file", "a YAML file with config and grid", "check the path") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        remedy = nearest(key, Grid.model_fields)
        raise ConfigError(f"{file}: {key}", first.get("input"), first["msg"].lower(), remedy) from None
    for name, tokens in grid.lengths.items():
        if name not in Lengths.__slots__:
            expected = "a length of an example"
            raise ConfigError(f"{file}: lengths.{name}", tokens, expected, nearest(name, Lengths.__slots__))
        if tokens < 1:
            raise ConfigError(f"{file}: lengths.{name}", tokens, "a number from 1 on", f"write for example {name}: 100")
    return grid


def cells(grid: Grid, folder: Path) -> Iterator[Cell]:
    """Every combination, checked. Raises ConfigError for settings that no run can have or that cannot be planned."""
    keys = list(grid.grid)
    for values in itertools.product(*grid.grid.values()):
        chosen = dict(zip(keys, values, strict=True))
        world_size = int(chosen.get(WORLD_SIZE, 1))
        own = [f"{key}={json.dumps(value)}" for key, value in chosen.items() if key != WORLD_SIZE]
        settings = {key: str(value) for key, value in chosen.items() if key != WORLD_SIZE}
        made = Cell(settings, world_size, (*grid.overrides, *own))
        config = config_of(grid, made, folder)
        check_world_size(config.data.batch_size, world_size)
        workload(config, Lengths(**grid.lengths), world_size)  # the plan comes last, when all cells have run
        yield made


def config_of(grid: Grid, cell: Cell, folder: Path) -> Config:
    """The config of a cell."""
    return load(grid.config, [*cell.overrides, *_run_settings(grid, cell, folder)])


def run(grid: Grid, folder: Path, console: Console) -> list[Cell]:
    """Run what has not been run, one cell at a time; the cells that did not finish."""
    made = list(cells(grid, folder))
    by_name = {cell.name: cell for cell in made}
    jobs = [_job(grid, cell, folder) for cell in made]
    waiting = [job for job in jobs if not job.is_finished]
    if len(waiting) < len(jobs):
        console.print(f"{len(jobs) - len(waiting)} of {len(jobs)} cells were run before")
    # One at a time: cells that share the machine would measure each other.
    return [by_name[job.name] for job in run_jobs(waiting, [{}], console)]


def measured(cell: Cell, folder: Path) -> Measured:
    """The figures of a finished cell, from the files of its run."""
    place = folder / "cells" / cell.name
    rows = [json.loads(line) for line in (place / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    timed = rows[WARM_UP:]
    summary = json.loads((place / "summary.json").read_text(encoding="utf-8"))
    return Measured(
        cell,
        statistics.median(row["step_seconds"] for row in timed),
        statistics.mean(row["tokens"] for row in timed),
        statistics.mean(row["traffic_bytes"] for row in timed),
        summary.get("peak_memory"),
    )


def groups(found: Sequence[Measured]) -> dict[str, list[Measured]]:
    """Cells that differ in their world size alone, by their settings, in order of ranks."""
    sorted_out: dict[str, list[Measured]] = {}
    for one in found:
        name = ", ".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in one.cell.settings.items()) or "all"
        sorted_out.setdefault(name, []).append(one)
    return {name: sorted(own, key=lambda one: one.cell.world_size) for name, own in sorted_out.items()}


def _job(grid: Grid, cell: Cell, folder: Path) -> Job:
    place = folder / "cells" / cell.name
    given = (*cell.overrides, *_run_settings(grid, cell, folder))
    # A run that was cut off has nothing worth resuming: it starts over.
    command = (sys.executable, "-m", "compact_ds.launcher.sweep_cell", grid.config, str(cell.world_size), *given)
    return Job(cell.name, command, place, folder / "logs" / f"{cell.name}.log", grid.max_steps)


def _run_settings(grid: Grid, cell: Cell, folder: Path) -> list[str]:
    place = folder / "cells" / cell.name
    return [
        f"run_dir={json.dumps(str(place))}", f"max_steps={grid.max_steps}", "evaluation.limit=1",
        "evaluation.max_new_tokens=1", "evaluation.every=0", "checkpoint_every=0",
    ]  # fmt: skip
