"""Hooks into a run for other people's instruments: W&B, MLflow, a notebook's plot.

Owns the interface and how a callback is found by name. A run calls it on its first rank only. What a hook raises ends the run:
an instrument that was asked for and records nothing is not passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compact_ds.errors import ConfigError
from compact_ds.plugins import imported


class Callback:
    """Override what you need; every hook does nothing by itself."""

    def on_step(self, row: Mapping[str, Any]) -> None:
        """After an optimizer step; `row` is its line of `metrics.jsonl`."""

    def on_evaluation(self, row: Mapping[str, Any]) -> None:
        """After an evaluation on held-out questions; `row` is its line of `evaluations.jsonl`."""

    def on_checkpoint(self, folder: Path) -> None:
        """After a checkpoint was written; `folder` holds all ranks' parts."""

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """After the run's last file was written; `summary` is `summary.json`. Not called when a run stops before its end."""


class Callbacks(Callback):
    """Several callbacks as one, called in order."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = tuple(callbacks)

    def on_step(self, row: Mapping[str, Any]) -> None:
        for one in self._callbacks:
            one.on_step(row)

    def on_evaluation(self, row: Mapping[str, Any]) -> None:
        for one in self._callbacks:
            one.on_evaluation(row)

    def on_checkpoint(self, folder: Path) -> None:
        for one in self._callbacks:
            one.on_checkpoint(folder)

    def on_end(self, summary: Mapping[str, Any]) -> None:
        for one in self._callbacks:
            one.on_end(summary)


def named(names: Sequence[str]) -> list[type[Callback]]:
    """The classes that `callbacks: ["package.module:Class"]` names; importing them runs their modules. Raises ConfigError."""
    found = []
    for name in names:
        module, colon, attribute = name.partition(":")
        kind = getattr(imported("callbacks", module), attribute, None) if colon else None
        if not (isinstance(kind, type) and issubclass(kind, Callback)):
            expected = "package.module:Class, a subclass of compact_ds.callbacks.Callback"
            raise ConfigError("callbacks", name, expected, "check the names")
        found.append(kind)
    return found
