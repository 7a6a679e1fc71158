"""What ended a run, in one line with cause and remedy: a lost or silent rank, the network, too little memory.

Owns the wording and which exceptions mean what. Errors that a user's data or settings cause are raised as such where they
are found; a broken invariant of ours keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import re
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed as dist

from compact_ds.errors import FaultError, UserError
from compact_ds.launcher import verdict
from compact_ds.launcher.heartbeat import Beat

LOOK_SECONDS = 12.0
"""How long a rank looks for the reason why another did not answer, from the moment at which that one may have ended."""
AT_LEAST_SECONDS = 2.0
"""And after a timeout, in which a silent rank has shown as such already."""

_PEER = re.compile(
    r"gloo|NCCL|pair closure|ncclRemoteError|Connection (reset|closed|refused)|Timed out waiting|Broken pipe|TCPStore|socket",
    re.IGNORECASE,
)
_MEMORY = re.compile(r"DefaultCPUAllocator|can't allocate memory|not enough memory|out of memory", re.IGNORECASE)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_TIMEOUT = re.compile(r"tim(e|ed)[ -]?out", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """Who speaks: a rank, its node, and its run's folder."""

    rank: int
    host: str
    run_dir: Path


Look = Callable[[], tuple[Sequence[Beat], Sequence[Beat]]]
"""The other ranks' beats, and those of them that are lost."""


def named(error: BaseException, place: Place, timeout: float, look: Look) -> UserError | None:
    """The error that stands for `error`; None when it says itself what it is."""
    if isinstance(error, UserError):
        return error
    text = " ".join(str(error).split())
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or _MEMORY.search(text):
        return _of_memory(text or "MemoryError", place)
    if isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and (_PEER.search(text) or _in_collective(error))
    ):
        return _of_peers(text, place, timeout, look)
    if isinstance(error, OSError) and error.errno in _FULL:
        where = str(error.filename or place.run_dir)
        return FaultError(where, error.strerror, "room for what the run writes", "free some, then --resume")
    return None


def of_lost(lost: Sequence[Beat], place: Place) -> FaultError:
    """Ranks are gone without a word."""
    expected = "every rank to answer"
    remedy = (
        "if nobody killed it, it was the kernel for lack of memory (see dmesg there; a smaller tree.row_tokens takes less) "
        "or its node or network is down; --resume goes on from the newest checkpoint, --max-restarts does so by itself"
    )
    return FaultError(str(place.run_dir), f"{verdict.lost_of(lost)} gone", expected, remedy)


def unforeseen(error: BaseException, place: Place) -> FaultError:
    """What the other ranks say of a rank that ended with a traceback."""
    found = f"{type(error).__name__}: {error}"
    return FaultError(f"rank {place.rank} on {place.host}", found, "no such error", "see its traceback above")


def _in_collective(error: BaseException) -> bool:
    """Whether torch's collectives raised it: transports word their errors as they like."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and f"{os.sep}torch{os.sep}distributed{os.sep}" in "".join(f.filename for f in frames[-3:])


def _of_memory(text: str, place: Place) -> FaultError:
    remedy = (
        "lower tree.row_tokens or tree.rows, set student.gradient_checkpointing=true, raise engine.zero_stage, take more "
        "ranks, or offload with engine.deepspeed=configs/deepspeed/zero3_offload.json; then --resume"
    )
    return FaultError(f"rank {place.rank} on {place.host}", f"out of memory: {text:.150}", "memory for a step", remedy)


def _of_peers(text: str, place: Place, timeout: float, look: Look) -> FaultError:
    """Wait for what the others have to say: they may be about to write why they end, or to fall silent."""
    timed_out = _TIMEOUT.search(text) is not None
    deadline = time.monotonic() + (max(AT_LEAST_SECONDS, LOOK_SECONDS - timeout) if timed_out else LOOK_SECONDS)
    while True:
        beats, lost = look()
        first = verdict.failed(beats)
        if first is not None and first.fault is not None:
            return FaultError.of_fault(first.fault)
        if lost:
            return of_lost(lost, place)
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    late = verdict.behind(beats)
    if timed_out and late:
        found = f"{verdict.behind_of(late)} did not come to a collective within {timeout:g} s and still runs"
        remedy = "see what it does there (py-spy dump --pid), or raise engine.timeout_seconds; then --resume"
        return FaultError(str(place.run_dir), found, "every rank to answer in time", remedy)
    remedy = "check the network between the nodes with compact-ds doctor --hostfile; then --resume"
    return FaultError(
        str(place.run_dir), f"a broken connection between ranks: {text:.150}", "every rank to answer", remedy
    )
