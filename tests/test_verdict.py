"""What heartbeats say together: who failed, who is gone, who keeps the others waiting, who is slow; and in which words."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compact_ds.errors import FaultError
from compact_ds.launcher import end, heartbeat, verdict
from compact_ds.launcher.heartbeat import Beat
from compact_ds.run import faults

FIRST = Beat(0, "n1", "m1", 11, "a:1", 100.0, 7, "step", 99.0, collectives=50, work_seconds=0.2)
SECOND = replace(FIRST, rank=1, host="n2", machine="m2", pid=22)


def _place(folder: Path) -> faults.Place:
    return faults.Place(0, "n1", folder)


def _looks(beats: list[Beat], lost: list[Beat]) -> Callable[[], tuple[list[Beat], list[Beat]]]:
    return lambda: (beats, lost)


def test_beats_are_read_as_written_and_of_one_meeting(tmp_path: Path) -> None:
    for beat in (FIRST, SECOND, replace(FIRST, rank=2, meeting="a:2")):
        heartbeat.write(tmp_path, beat)
    (tmp_path / "rank-3.json").write_text('{"rank": 3')
    assert [replace(beat, age=0.0) for beat in heartbeat.read(tmp_path, "a:1")] == [FIRST, SECOND]
    assert json.loads((tmp_path / "rank-0.json").read_text())["step"] == 7


def test_a_rank_is_lost_by_its_process_here_and_by_its_silence_elsewhere() -> None:
    beats = [FIRST, SECOND]
    assert verdict.lost(beats, "m1", lambda pid: True, 8) == []
    assert verdict.lost(beats, "m1", lambda pid: False, 8) == [FIRST]
    silent = replace(SECOND, age=9.0)
    assert verdict.lost([FIRST, silent], "m1", lambda pid: True, 8) == [silent]
    assert verdict.lost([replace(silent, phase="done"), replace(silent, fault="x")], "m1", lambda pid: False, 8) == []


def test_who_keeps_the_others_waiting_and_who_is_slow() -> None:
    late = replace(SECOND, collectives=49)
    assert verdict.behind([FIRST, late]) == [late]
    assert verdict.behind([FIRST, SECOND]) == []
    slow = replace(SECOND, work_seconds=0.5)
    assert verdict.slow([FIRST, replace(FIRST, rank=2), slow]) == [(slow, 0.2)]
    assert verdict.slow([FIRST, SECOND, replace(slow, work_seconds=None)]) == []


def test_a_broken_connection_is_told_by_what_the_others_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "LOOK_SECONDS", 0)
    error = RuntimeError("gloo: Connection closed by peer")
    failed = replace(SECOND, fault="rank 1 on n2: found out of memory", phase="failed")
    for beats, lost, words in (
        ([failed], [], "rank 1 on n2: found out of memory"),
        ([SECOND], [SECOND], "rank 1 on n2 (process 22, last heard of at step 7, step) gone"),
        ([SECOND], [], "a broken connection between ranks"),
    ):
        named = faults.named(error, _place(tmp_path), 20, _looks(beats, lost))
        assert isinstance(named, FaultError) and named.exit_code == 3
        assert words in str(named)
    late = [FIRST, replace(SECOND, collectives=3)]
    named = faults.named(
        RuntimeError("Application timeout caused pair closure"), _place(tmp_path), 20, lambda: (late, [])
    )
    assert "rank 1 on n2 (step 7, step) did not come to a collective within 20 s" in str(named)


@pytest.mark.parametrize(
    ("text", "timeout", "looked"),
    [("gloo: Connection closed by peer", 600, 12), ("gloo: timed out", 600, 2), ("gloo: timed out", 5, 7)],
)
def test_who_waited_for_the_timeout_looks_no_longer_than_a_silent_rank_needs_to_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, timeout: int, looked: float
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.append(clock.pop() + seconds))
    assert faults.named(RuntimeError(text), _place(tmp_path), timeout, lambda: ([], [])) is not None
    assert looked <= clock[0] <= looked + 1


ALLOCATOR = "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("Tried to allocate"), RuntimeError(ALLOCATOR)])
def test_too_little_memory_has_its_remedy(tmp_path: Path, error: BaseException) -> None:
    named = faults.named(error, _place(tmp_path), 20, lambda: ([], []))
    assert "rank 0 on n1: found out of memory" in str(named) and "lower tree.row_tokens" in str(named)
    assert faults.named(KeyError("x"), _place(tmp_path), 20, lambda: ([], [])) is None


def test_a_killed_run_is_told_from_outside(tmp_path: Path) -> None:
    told = end.cause(256 - 9, [FIRST, replace(SECOND, phase="done")], tmp_path)
    assert "rank 0 on n1" in str(told) and "ended by signal SIGKILL" in str(told) and "lack of memory" in str(told)
    assert end.cause(1, [], tmp_path) is None
    assert end.cause(143, [FIRST], tmp_path) is None


def test_a_full_disk_is_told_with_its_remedy(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl")
    named = faults.named(full, _place(tmp_path), 20, lambda: ([], []))
    assert isinstance(named, FaultError)
    assert str(named) == (
        "metrics.jsonl: found No space left on device; expected room for what the run writes; free some, then --resume"
    )
    # A stream that is flushed does not say its name.
    nameless = faults.named(OSError(errno.ENOSPC, "No space left on device"), _place(tmp_path), 20, lambda: ([], []))
    assert str(nameless).startswith(f"{_place(tmp_path).run_dir}: found No space left")
    absent = OSError(errno.ENOENT, "No such file or directory")
    assert faults.named(absent, _place(tmp_path), 20, lambda: ([], [])) is None
