"""Named parts of an optimizer step, so that a benchmark can say where the time went.

Owns the marks and the clock behind them. A mark costs nothing to speak of while nobody measures.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

PHASES = (
    "data", "tree", "forward", "head", "compatibility", "backward", "communication", "mixer", "optimizer", "logging",
)  # fmt: skip
"""In the order of a step. `forward` is the backbone with its probes."""


class Clock:
    """Seconds of each phase of the thread that made it, those of phases within it left out; one measures at a time."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    def switch(self, opened: str | None) -> None:
        """Open a phase within the present one, or close the innermost (None)."""
        if torch.cuda.is_available():
            # A kernel counts where it was asked for.
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now
        if opened is None:
            self._open.pop()
        else:
            self._open.append(opened)


_clocks: list[Clock] = []


@contextmanager
def measured() -> Iterator[Clock]:
    """A clock that runs while the context lasts."""
    _clocks.append(Clock())
    try:
        yield _clocks[-1]
    finally:
        _clocks.pop()


def phase(name: str) -> AbstractContextManager[None]:
    """What runs in this context belongs to the phase `name`; also a range of torch's profiler while that one records."""
    return _phase(name) if _clocks and _clocks[-1].thread == threading.get_ident() else nullcontext()


@contextmanager
def _phase(name: str) -> Iterator[None]:
    clock = _clocks[-1]
    clock.switch(name)
    try:
        with torch.profiler.record_function(f"compact_ds.{name}"):
            yield
    finally:
        clock.switch(None)
