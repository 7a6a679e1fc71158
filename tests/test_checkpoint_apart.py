"""Ranks of which one alone cannot read a file of a checkpoint: all of them learn of it, and none is left waiting."""

from __future__ import annotations

import dataclasses
import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from whole_checkpoint import checkpoint

from compact_ds.engine import checkpoint as checkpoints
from compact_ds.engine import checkpoint_files, manifest
from compact_ds.engine import checkpoint_folder as folders
from compact_ds.engine.checkpoint_folder import Found
from compact_ds.engine.random_state import random_state
from compact_ds.engine.ranks import Ranks
from compact_ds.errors import UserError

CPU = torch.device("cpu")
SIZE = 3
WAIT_SECONDS = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Threads(Ranks):
    """Ranks that are threads: a gather that some of them never come to ends in an error."""

    meeting: threading.Barrier
    items: list[Any]

    def gather(self, item: Any) -> list[Any]:
        self.items[self.rank] = item
        self.meeting.wait(WAIT_SECONDS)
        found = list(self.items)
        self.meeting.wait(WAIT_SECONDS)
        return found

    def barrier(self) -> None:
        self.gather(None)


def _on_all(job: Callable[[Ranks], Any]) -> list[Any]:
    """What every rank's job returned or raised."""
    meeting, items = threading.Barrier(SIZE), [None] * SIZE

    def named(rank: int) -> Any:
        threading.current_thread().name = f"rank {rank}"
        return job(Threads(rank, SIZE, CPU, meeting, items))

    with ThreadPoolExecutor(SIZE) as pool:
        jobs = [pool.submit(named, rank) for rank in range(SIZE)]
        return [one.exception() or one.result() for one in jobs]


def _failing_on(rank: int, read: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    def reading(*arguments: Any, **named: Any) -> Any:
        if threading.current_thread().name == f"rank {rank}":
            raise error
        return read(*arguments, **named)

    return reading


@pytest.mark.parametrize("rank", range(SIZE))
def test_a_manifest_that_one_rank_cannot_read_is_passed_over_by_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    for step in (3, 6):
        checkpoint(tmp_path, step)
    read = manifest.read
    error = UserError(str(tmp_path / "step-6" / "manifest.json"), "Stale file handle", "a manifest", "")
    stale = _failing_on(rank, read, error)
    monkeypatch.setattr(manifest, "read", lambda path: (stale if path.name == "step-6" else read)(path))
    found = _on_all(lambda ranks: folders.newest_whole(tmp_path, ranks, trust=False))
    assert found == [Found(tmp_path / "step-3", read(tmp_path / "step-3"))] * SIZE
    found = _on_all(lambda ranks: folders.newest_whole(tmp_path, ranks, trust=True))
    assert found == [Found(tmp_path / "step-6", None)] * SIZE


@pytest.mark.parametrize("rank", [0, 1])
def test_a_file_that_one_rank_cannot_look_into_is_passed_over_by_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    checkpoint(tmp_path, 6)  # of two files, one of which each of the first two ranks looks into
    stale = OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    monkeypatch.setattr(folders, "strange_names", _failing_on(rank, checkpoint_files.strange_names, stale))
    found = _on_all(lambda ranks: folders.newest_whole(tmp_path, ranks, trust=False))
    assert [type(one) for one in found] == [UserError] * SIZE
    assert {str(one) for one in found} == {str(found[0])} and "pt: Stale file handle" in str(found[0])


@pytest.mark.parametrize("rank", range(SIZE))
def test_a_state_that_one_rank_cannot_read_is_refused_by_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    state = {"random": [random_state(CPU)] * SIZE, "about": {"frozen": {"w": "1"}}}
    path = checkpoint(tmp_path, 6, state=state)
    optimizer = SimpleNamespace(state={})
    inside = SimpleNamespace(load_checkpoint=lambda folder, tag: (folder, {}), optimizer=optimizer)

    def load(ranks: Ranks) -> dict[str, Any]:
        # With trust nothing is set for the time of the reading, which threads would share.
        engine: Any = SimpleNamespace(deepspeed=inside)
        return checkpoints.load(engine, ranks, Found(path, None), trust=True)

    assert [one["about"] for one in _on_all(load)] == [state["about"]] * SIZE
    stale = OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    monkeypatch.setattr(torch, "load", _failing_on(rank, torch.load, stale))
    found = _on_all(load)
    assert [type(one) for one in found] == [UserError] * SIZE
    expected = f"{path}: found OSError: [Errno {errno.ESTALE}] Stale file handle; expected a checkpoint of this run"
    assert all(str(one).startswith(expected) for one in found)
