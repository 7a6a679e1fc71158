"""Small checkpoints as a run leaves them, and a rank that is alone, for tests without DeepSpeed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from compact_ds.engine import manifest
from compact_ds.engine.checkpoint_files import Writer
from compact_ds.engine.manifest import About, Manifest
from compact_ds.engine.ranks import Ranks


class Alone(Ranks):
    """The only rank of a run, without a process group."""

    def __init__(self) -> None:
        super().__init__(0, 1, torch.device("cpu"))

    def gather(self, item: Any) -> list[Any]:
        return [item]

    def barrier(self) -> None:
        """Nobody to wait for."""


def checkpoint(folder: Path, step: int, **states: Any) -> Path:
    """`folder/step-N` with a file a state, two of tensors when none are given, and its manifest."""
    path = folder / f"step-{step}"
    path.mkdir(parents=True)
    writer = Writer(None, path)
    tensors = {"model": {"weight": torch.arange(40.0) + step}, "optim": {"exp_avg": torch.ones(30)}}
    for name, state in (states or tensors).items():
        writer.save(state, str(path / f"{name}.pt"))
    about = About(step, 1, 3, {"method": "compact"}, {}, {"torch": "2"})
    manifest.write(Manifest(about, dict(sorted(writer.facts.items()))), path)
    return path
