"""What the heartbeats of a run's ranks say: who failed, who is gone, who keeps the others waiting, who is slow.

Owns the judgement, on plain data. Reads no file and no clock.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from compact_ds.launcher.heartbeat import DONE, Beat

SLOW = 1.5
"""A rank is slow when its own work of a step takes so many times the median of the others'."""
SLOW_SECONDS = 0.02
"""Less than that above the median is noise."""


def lost(beats: Sequence[Beat], here: str, is_alive: Callable[[int], bool], silent_seconds: float) -> list[Beat]:
    """Ranks that ended without an error line: their process on this machine is gone, or they were silent for so long."""
    left = [beat for beat in beats if beat.phase != DONE and beat.fault is None]
    return [b for b in left if (not is_alive(b.pid) if b.machine == here else False) or b.age > silent_seconds]


def lost_of(beats: Sequence[Beat]) -> str:
    """Those ranks in words: where they were when they were last heard of."""
    return ", ".join(
        f"{beat.place} (process {beat.pid}, last heard of at step {beat.step}, {beat.phase})" for beat in beats
    )


def failed(beats: Sequence[Beat]) -> Beat | None:
    """The rank that was the first to end with an error line."""
    return min((beat for beat in beats if beat.fault is not None), key=lambda beat: beat.time, default=None)


def behind(beats: Sequence[Beat]) -> list[Beat]:
    """Ranks that the others wait for: they have begun the fewest collectives. None when all have begun as many."""
    running = [beat for beat in beats if beat.phase != DONE]
    least = min((beat.collectives for beat in running), default=0)
    return [b for b in running if b.collectives == least] if any(b.collectives > least for b in running) else []


def behind_of(beats: Sequence[Beat]) -> str:
    """Those ranks in words."""
    return ", ".join(f"{beat.place} (step {beat.step}, {beat.phase})" for beat in beats)


def slow(beats: Sequence[Beat]) -> list[tuple[Beat, float]]:
    """Ranks whose own work of a step takes much longer than the others', with the median of the others in seconds."""
    known = [beat for beat in beats if beat.work_seconds is not None]
    found = []
    for beat in known:
        others = [other.work_seconds for other in known if other.rank != beat.rank and other.work_seconds is not None]
        if others and beat.work_seconds is not None:
            median = statistics.median(others)
            if beat.work_seconds > max(SLOW * median, median + SLOW_SECONDS):
                found.append((beat, median))
    return found
