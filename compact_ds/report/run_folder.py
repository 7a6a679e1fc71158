"""What a run folder says of its run, as plain data.

Owns which files are read and which must be there. What they mean is for the sections; nothing is computed here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from compact_ds.errors import UserError, nearest
from compact_ds.run.log import EVALUATIONS, METRICS, read

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One run: its folder and the name that it goes by on the page."""

    folder: Path
    name: str

    @cached_property
    def config(self) -> Row:
        """The resolved settings."""
        return yaml.safe_load((self.folder / "config.yaml").read_text(encoding="utf-8")) or {}

    @cached_property
    def steps(self) -> list[Row]:
        """One row an optimizer step."""
        return read(self.folder / METRICS)

    @cached_property
    def evaluations(self) -> list[Row]:
        """One row an evaluation on held-out questions, none when there are no such questions."""
        return self._rows(EVALUATIONS)

    @cached_property
    def predictions(self) -> dict[str, Row]:
        """The last evaluation's generated texts, by the question's id."""
        return {row["id"]: row for row in self._rows("predictions.jsonl")}

    @cached_property
    def left_out(self) -> list[Row]:
        """Rationales that were not trained on."""
        return self._rows("left_out.jsonl")

    @cached_property
    def summary(self) -> Row:
        """Figures of a whole run; empty before its end."""
        return self._object("summary.json")

    @cached_property
    def traffic(self) -> Row:
        """What collectives carried; empty before the run's end."""
        return self._object("traffic.json")

    @cached_property
    def environment(self) -> Row:
        """Where it ran; empty when it was not noted."""
        return self._object("environment.json")

    @cached_property
    def teachers(self) -> list[str]:
        """Every teacher that got a weight, by name."""
        return sorted({teacher for row in self.steps for teacher in row["weight"]})

    @cached_property
    def added(self) -> list[str]:
        """Metrics of the user's own, beside the three."""
        return list(self.config.get("compatibility", {}).get("added", {}))

    def _rows(self, name: str) -> list[Row]:
        return read(self.folder / name) if (self.folder / name).is_file() else []

    def _object(self, name: str) -> Row:
        file = self.folder / name
        found: Row = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return found


def open_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs, named by their folders, or by whole paths where two folders are named alike. Raises UserError."""
    for folder in folders:
        _check(folder)
    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        twice = next(f for i, f in enumerate(folders) if resolved[i] in resolved[:i])
        raise UserError("RUN", str(twice), "every run folder once", "leave the second one out")
    names = [folder.name for folder in resolved]
    alone = len(set(names)) == len(names)
    return [Run(f, n if alone else str(given)) for f, n, given in zip(resolved, names, folders, strict=True)]


def _check(folder: Path) -> None:
    if not folder.is_dir():
        runs = [file.parent.name for file in folder.parent.glob(f"*/{METRICS}")]
        raise UserError("RUN", str(folder), "a run folder", nearest(folder.name, runs) if runs else "check the path")
    for name in ("config.yaml", METRICS):
        if not (folder / name).is_file():
            remedy = "give the run_dir of `compact-ds train` or `launch`"
            raise UserError(str(folder), f"no {name}", "a run folder with config.yaml and metrics.jsonl", remedy)
    if not read(folder / METRICS):
        raise UserError(str(folder / METRICS), "no row", "one row an optimizer step", "let the run take a step first")
