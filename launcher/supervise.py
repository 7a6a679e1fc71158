"""One launcher process of somebody else's (DeepSpeed's, torchrun's agent, pdsh), from its start to the last one gone.

Owns signals, what is written to stderr, and exit codes. Knows nothing of training, and starts no rank itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

import psutil

from compact_ds.launcher.relay import Relay

GRACE_SECONDS = 600.0
"""How long ranks that were asked to stop may take over their checkpoint."""


@dataclass(frozen=True)
class Outcome:
    """The exit code, and whether a line that names an error was passed on."""

    code: int
    named_an_error: bool


Ask = Callable[["subprocess.Popen[bytes]"], bool]
"""Asks all ranks to stop; False when there is none to ask."""


def supervise(
    words: Sequence[str], environment: Mapping[str, str], ask: Ask, grace_seconds: float = GRACE_SECONDS
) -> Outcome:
    """Run one launcher. Its code is the launcher's, 0 to 255, and 128 + n when signal n stopped what could not end itself.

    SIGINT and SIGTERM ask the ranks to stop; a second one, or `grace_seconds` without an end, kills. None of the
    processes on this machine outlives this call.
    """
    launcher = subprocess.Popen(
        words,
        env=environment,
        stderr=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C at the terminal must reach the ranks once, from here, and not the launcher
    )
    assert launcher.stderr is not None
    relay = Relay()
    thread = threading.Thread(target=relay.copy, args=(launcher.stderr, sys.stderr.buffer), daemon=True)
    thread.start()
    try:
        code = _wait(launcher, ask, grace_seconds)
    finally:
        _end_group(launcher)
        thread.join(timeout=10)
        launcher.stderr.close()
    return Outcome(code, bool(relay.errors))


def ask_children(launcher: subprocess.Popen[bytes]) -> bool:
    """SIGTERM to every rank at once; False when none has started.

    DeepSpeed's launcher, given the signal, would ask one rank and wait for its end before it asks the next, and ranks
    that write a checkpoint together wait for each other. SIGTERM also for a Ctrl-C: a rank that is still importing then
    dies in silence.
    """
    ranks = _children(launcher)
    for rank in ranks:
        try:
            rank.terminate()
        except psutil.NoSuchProcess:
            continue
    return bool(ranks)


def _wait(launcher: subprocess.Popen[bytes], ask: Ask, grace_seconds: float) -> int:
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    deadline = float("inf")
    try:
        while launcher.poll() is None:
            if received and deadline == float("inf"):
                deadline = time.monotonic() + (grace_seconds if ask(launcher) else 0)
            if len(received) > 1 or time.monotonic() > deadline:
                return 128 + received[0]
            time.sleep(0.1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    code = launcher.returncode
    return 128 + received[0] if received and code != 0 else code % 256


def _children(launcher: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(launcher.pid).children()
    except psutil.NoSuchProcess:
        return []


def _end_group(launcher: subprocess.Popen[bytes]) -> None:
    """Kill what is left in the launcher's process group, and wait until the group is empty."""
    for _ in range(100):
        try:
            os.killpg(launcher.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            break
        launcher.poll()
        time.sleep(0.05)
    launcher.wait()
