"""The sign of life that every rank keeps in its run's folder: `heartbeat/rank-N.json`.

Owns the file's form. Who writes it and when is `watch`'s, what it means for the run is `verdict`'s.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

FOLDER = "heartbeat"
STOP = "stop"
"""A file of this name in the folder asks the run to save a checkpoint and end."""

DONE = "done"


@dataclass(frozen=True)
class Beat:
    """Where a rank is. Times are seconds since the epoch, by its own clock."""

    rank: int
    host: str
    machine: str
    """Tells whose process numbers mean the same: nodes and containers may share a name."""
    pid: int
    meeting: str
    """MASTER_ADDR:MASTER_PORT: tells the ranks of this start from those of an earlier one."""
    time: float
    """When this was written."""
    step: int
    """The next optimizer step to end."""
    phase: str
    """What the rank does: `loading`, `step`, `evaluation`, `checkpoint`, `export`, `done`."""
    since: float
    """When the phase began."""
    collectives: int = 0
    """Collectives begun. Every rank begins the same ones in the same order: the least is who the others wait for."""
    work_seconds: float | None = None
    """A recent optimizer step without what was spent waiting for other ranks; None where that can not be told."""
    fault: str | None = None
    """The error line with which the rank ended."""
    age: float = 0.0
    """Seconds since the file was last written, when it was read; by the file system's clock, not the writer's."""

    @property
    def place(self) -> str:
        """The rank and its node, for people."""
        return f"rank {self.rank} on {self.host}"


def this_machine() -> str:
    """The kernel's boot and this process's namespace of process numbers; the name where there are no such files."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return socket.gethostname()


def write(folder: Path, beat: Beat) -> None:
    """Write a rank's file; a reader never sees half of it."""
    file = folder / f"rank-{beat.rank}.json"
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(asdict(beat)) + "\n", encoding="utf-8")
    os.replace(unfinished, file)


def read(folder: Path, meeting: str | None = None, after: float = 0.0) -> list[Beat]:
    """Every rank's last beat, in rank order: of one meeting, or of those files that were written after a point in time."""
    found = _read(folder, folder.glob("rank-*.json"))
    wanted = [beat for beat, written in found if meeting in (None, beat.meeting) and written >= after]
    return sorted(wanted, key=lambda beat: beat.rank)


def read_ranks(folder: Path, ranks: Iterable[int]) -> list[Beat]:
    """The last beats of those ranks alone, of whatever meeting."""
    return [beat for beat, _ in _read(folder, (folder / f"rank-{rank}.json" for rank in ranks))]


def _read(folder: Path, files: Iterable[Path]) -> Iterator[tuple[Beat, float]]:
    now = _now(folder)
    for file in files:
        try:
            beat, written = Beat(**json.loads(file.read_text(encoding="utf-8"))), file.stat().st_mtime
        except (OSError, ValueError, TypeError):
            continue  # replaced while it was read, or by another release
        yield replace(beat, age=max(0.0, now - written)), written


def _now(folder: Path) -> float:
    """The time by the clock of the file system that the folder is on."""
    probe = folder / f".clock-{os.getpid()}"
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        return 0.0
    return now
