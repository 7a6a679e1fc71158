"""A rank's watch over itself and the others: its heartbeat, requests to stop, and the end of a rank beside it.

Owns one thread. What the heartbeats mean is `launcher.verdict`'s, what an exception means `faults`'.
"""

from __future__ import annotations

import logging
import math
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TextIO

import psutil

from compact_ds.errors import ERROR_PREFIX, ConfigError, FaultError
from compact_ds.launcher import heartbeat, verdict
from compact_ds.launcher.heartbeat import Beat
from compact_ds.run import faults

LOGGER = logging.getLogger(__name__)

SILENT_BEATS = 4
"""A rank on another node that missed so many beats is gone."""
LEAVE_SECONDS = 15.0
"""A rank beside this one ended: this one may take so long to see it by itself, then it ends at once."""
LOOK_SECONDS = 10.0
"""How often the first rank compares everybody's speed."""
SMOOTHING = 0.8
"""Share of the old value in the running mean of a step's work."""
MIN_STEPS = 5
"""Steps before a mean is told."""


class Watch:
    """Beats while it is entered, and turns what ends the run into one line that the heartbeats can explain.

    `stop` is called when the run is to end: by a file `heartbeat/stop`, or when nobody reads what the run says any more,
    because the command that started it is gone. Leaving raises FaultError in place of what a lost rank or too little
    memory raised.
    """

    def __init__(self, folder: Path, interval: float, timeout: float, stop: Callable[[], None]) -> None:
        self._folder, self._interval, self._stop = folder / heartbeat.FOLDER, interval, stop
        self._timeout = timeout
        self._place = faults.Place(int(os.environ.get("RANK", "0")), socket.gethostname(), folder)
        self._machine = heartbeat.this_machine()
        self._meeting = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
        self._step, self._phase, self._since = 0, "loading", time.time()
        self._work, self._num_steps = 0.0, 0
        self._fault: str | None = None
        self._collectives: Callable[[], int] = lambda: 0
        self._ended = threading.Event()
        self._told: set[int] = set()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def count(self, collectives: Callable[[], int]) -> None:
        """How to ask for the number of collectives begun."""
        self._collectives = collectives

    def at(self, step: int, phase: str) -> None:
        """The run is at that optimizer step, doing that."""
        self._step, self._phase, self._since = step, phase, time.time()

    def worked(self, seconds: float) -> None:
        """An optimizer step took so long, what was spent waiting for others left out."""
        self._work = seconds if not self._num_steps else SMOOTHING * self._work + (1 - SMOOTHING) * seconds
        self._num_steps += 1

    def __enter__(self) -> Watch:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            found = f"{self._folder.parent}: {error.strerror}"
            raise ConfigError("run_dir", found, "a folder that every rank can write", "give another run_dir") from None
        self._beat()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        named = None
        if error is not None:
            named = faults.named(error, self._place, self._timeout, self._others)
            self._fault = str(named or faults.unforeseen(error, self._place))
        self._ended.set()
        self._phase = heartbeat.DONE if error is None else "failed"
        self._thread.join(timeout=5)
        self._beat()
        if named is not None and named is not error:
            raise named from None

    def _run(self) -> None:
        looked = time.monotonic()
        while not self._ended.wait(self._interval):
            self._beat()
            if (self._folder / heartbeat.STOP).exists() or _nobody_reads(sys.stderr):
                self._stop()
            self._leave_if_alone()
            if self._place.rank == 0 and time.monotonic() - looked > LOOK_SECONDS:
                looked = time.monotonic()
                self._tell_slow()

    def _beat(self) -> None:
        place, work = self._place, self._work if self._num_steps >= MIN_STEPS else None
        now = (time.time(), self._step, self._phase, self._since, self._collectives())
        try:
            who = (place.rank, place.host, self._machine, os.getpid(), self._meeting)
            heartbeat.write(self._folder, Beat(*who, *now, work, self._fault))
        except OSError:
            LOGGER.debug("no heartbeat", exc_info=True)  # a full disk must not end the run; silence is noticed

    def _others(self) -> tuple[list[Beat], list[Beat]]:
        """The other ranks' beats, and those of them that are lost."""
        beats = [b for b in heartbeat.read(self._folder, self._meeting) if b.rank != self._place.rank]
        return beats, verdict.lost(beats, self._machine, psutil.pid_exists, SILENT_BEATS * self._interval)

    def _leave_if_alone(self) -> None:
        """End this process when a rank of this node has ended and a collective keeps this one from seeing it.

        Some transports never notice. DeepSpeed's launcher would ask one rank after another, half a minute each.
        """
        size, local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", "1"))), _local_rank()
        beside = [self._place.rank - local + i for i in range(size) if i != local]
        if not beside:
            return
        beats = [b for b in heartbeat.read_ranks(self._folder, beside) if b.meeting == self._meeting]
        gone = verdict.lost(beats, self._machine, psutil.pid_exists, math.inf)
        ended = verdict.failed(beats)
        if not (gone or ended) or self._ended.wait(LEAVE_SECONDS):
            return
        error = FaultError.of_fault(ended.fault) if ended and ended.fault else faults.of_lost(gone, self._place)
        self._fault, self._phase = str(error), "failed"
        self._beat()
        sys.stderr.write(f"{ERROR_PREFIX}{error}\n")
        sys.stderr.flush()
        os._exit(error.exit_code)

    def _tell_slow(self) -> None:
        for beat, median in verdict.slow(heartbeat.read(self._folder, self._meeting)):
            if beat.rank not in self._told:
                self._told.add(beat.rank)
                LOGGER.warning(
                    "%s is slow: %.3f s of its own work a step, where the others take %.3f s; look at what else runs there",
                    beat.place, beat.work_seconds, median,
                )  # fmt: skip


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def _nobody_reads(stream: TextIO | None) -> bool:
    """Whether a pipe has lost its reader; False for files, terminals and what a notebook puts in their place."""
    try:
        descriptor = stream.fileno() if stream is not None and hasattr(select, "poll") else None
    except (OSError, ValueError):
        descriptor = None
    if descriptor is None:
        return False
    poller = select.poll()
    poller.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poller.poll(0))
