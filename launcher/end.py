"""Why a run ended, told from outside when no rank could tell it: by its exit code and the heartbeats it left.

Owns the wording for ranks that died without a word.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from compact_ds.errors import FaultError
from compact_ds.launcher import verdict
from compact_ds.launcher.heartbeat import DONE, Beat, this_machine

SSH_FAILED = 255
SILENT_SECONDS = 20.0


def cause(code: int, beats: Sequence[Beat], run_dir: Path) -> FaultError | None:
    """The line that names it; None when a rank has printed a traceback of its own or was stopped by the user."""
    number = _signal(code)
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        return None
    where = str(run_dir)
    remedy = "read what it said above; --resume goes on from the newest checkpoint, --max-restarts does so by itself"
    if number == signal.SIGKILL:
        remedy = (
            "if nobody killed it, it was the kernel for lack of memory (see dmesg there; a smaller tree.row_tokens takes "
            "less); --resume goes on from the newest checkpoint, --max-restarts does so by itself"
        )
    lost = [beat for beat in beats if beat.phase != DONE and beat.fault is None]
    gone = verdict.lost(lost, this_machine(), _is_alive, SILENT_SECONDS) or lost
    if number is not None:
        found = f"{verdict.lost_of(gone) or 'a rank'}: ended by signal {number.name}"
        return FaultError(where, found, "every rank to run on", remedy)
    if code == SSH_FAILED and gone:
        found = f"the connection to a node broke; still unaccounted for: {verdict.lost_of(gone)}"
        remedy = "check the nodes with compact-ds doctor --hostfile; then --resume"
        return FaultError(where, found, "every node to answer", remedy)
    return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _signal(code: int) -> signal.Signals | None:
    """The signal that ended a rank, as DeepSpeed's launcher reports it: 256 - n."""
    try:
        return signal.Signals(256 - code) if 192 < code < 256 and code != SSH_FAILED else None
    except ValueError:
        return None
