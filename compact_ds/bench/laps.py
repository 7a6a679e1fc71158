"""Laps of contenders in turn, and the figures that they make.

Owns the stopwatches. Wall seconds are what a user waits; the process's own seconds on the CPU tell apart what a busy machine
mixes, where a CPU is what computes.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from compact_ds.bench.trees import Contender, Trees, operations
from compact_ds.phases import PHASES, measured

Seconds = dict[str, list[float]]

WARM_UP = 2
"""Laps that count for nothing. ZeRO-3 records its trace in the first step; in the second it works out, once for every module,
what to keep for its next use, in time that grows with the square of their number: half a minute for SmolLM2 with adapters."""


class Laps:
    """The first `WARM_UP` laps count for nothing."""

    def __init__(self, ours: Trees, others: Sequence[Contender]) -> None:
        self._ours, self._everyone = ours, [ours, *others]
        self.operations = operations(ours.batches, ours.engine.student)
        self._wall: Seconds = {one.name: [] for one in self._everyone}
        self._cpu: Seconds = {one.name: [] for one in self._everyone}
        self._phases: list[dict[str, float]] = []
        self._losses: dict[str, float | None] = {}

    def run(self, lap: int) -> None:
        """One step of every contender; each lap begins with another."""
        first = lap % len(self._everyone)
        for one in self._everyone[first:] + self._everyone[:first]:
            started, on_cpu = time.perf_counter(), time.process_time()
            with measured() as clock:
                self._losses[one.name] = one.lap()
            self._wall[one.name].append(time.perf_counter() - started)
            self._cpu[one.name].append(time.process_time() - on_cpu)
            if one is self._ours:
                self._phases.append(clock.seconds)
        done = ", ".join(f"{name} {own[-1]:.1f} ({self._cpu[name][-1]:.1f})" for name, own in self._wall.items())
        sys.stderr.write(f"lap {lap}{' (to warm up)' if lap < WARM_UP else ''}, seconds (of CPU): {done}\n")

    def figures(self) -> dict[str, Any]:
        """Medians over the laps so far."""
        return {
            "laps": len(self._phases) - WARM_UP,
            "contenders": [self._row(one) for one in self._everyone],
            "phases": _shares(self._phases[WARM_UP:], self._wall[self._ours.name][WARM_UP:]),
        }

    def _row(self, one: Contender) -> dict[str, Any]:
        """`ours` is our time as a share of the contender's, lap by lap."""
        wall, cpu = self._ratios(self._wall, one.name), self._ratios(self._cpu, one.name)
        seconds = statistics.median(self._wall[one.name][WARM_UP:])
        return {
            "name": one.name,
            "setting": one.setting,
            "seconds": seconds,
            "cpu_seconds": statistics.median(self._cpu[one.name][WARM_UP:]),
            "seconds_of_laps": self._wall[one.name][WARM_UP:],
            "cpu_seconds_of_laps": self._cpu[one.name][WARM_UP:],
            "ours": statistics.median(wall),
            "ours_range": [min(wall), max(wall)],
            "ours_cpu": statistics.median(cpu),
            "ours_cpu_range": [min(cpu), max(cpu)],
            "tokens": one.tokens,
            "padding": 1 - one.tokens / one.padded,
            "tokens_per_second": one.tokens / seconds,
            "peak_bytes": None,
            "last_loss": self._losses[one.name],
        }

    def _ratios(self, seconds: Seconds, name: str) -> list[float]:
        return [
            mine / its for mine, its in zip(seconds[self._ours.name][WARM_UP:], seconds[name][WARM_UP:], strict=True)
        ]


def _shares(phases: list[dict[str, float]], seconds: list[float]) -> dict[str, dict[str, float]]:
    """Median seconds and share of the lap of every phase, and of what is outside of them all."""
    laps = [lap | {"other": total - sum(lap.values())} for lap, total in zip(phases, seconds, strict=True)]
    return {
        name: {
            "seconds": statistics.median(lap.get(name, 0.0) for lap in laps),
            "share": statistics.median(lap.get(name, 0.0) / total for lap, total in zip(laps, seconds, strict=True)),
        }
        for name in (*PHASES, "other")
    }
