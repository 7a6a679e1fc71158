"""Requests to end a run early, from signals or from the watch: heard between two steps, on all ranks alike.

Owns the signal handlers, for as long as a run lasts.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class StopRequests:
    """While entered, notes SIGTERM and Ctrl-C instead of ending; whoever runs the steps asks `asked`."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequests:
        # Python gives signals to the main thread alone; a run in another one is stopped by its caller.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def ask(self) -> None:
        """As a signal would."""
        self.asked = True

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.ask()
