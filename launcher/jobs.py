"""Several runs on this machine, a few at a time, under one progress display.

Owns the subprocesses, their logs and the display. A run counts as finished when its `summary.json` is there, whatever
its exit code was: a rank may abort on its way out. What the runs are is the caller's concern.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from compact_ds.launcher.supervise import GRACE_SECONDS

POLL_SECONDS = 0.2
TAIL_BYTES = 1 << 16


class Stopped(Exception):
    """A signal asked for the end of all runs; `number` is that signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass(frozen=True)
class Job:
    """One run: its command, the folder it writes, the file for what it prints, and its length in optimizer steps."""

    name: str
    command: tuple[str, ...]
    folder: Path
    log: Path
    max_steps: int

    @property
    def is_finished(self) -> bool:
        """Whether the run has written its summary."""
        return (self.folder / "summary.json").is_file()

    def step(self) -> int:
        """Optimizer steps done, by the last whole line of the run's metrics, where steps count from 0."""
        file = self.folder / "metrics.jsonl"
        if not file.is_file():
            return 0
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - TAIL_BYTES))
            whole_lines = stream.read().split(b"\n")[:-1]
        return int(json.loads(whole_lines[-1])["step"]) + 1 if whole_lines else 0

    def tail(self, num_lines: int = 15) -> str:
        """The last lines of what the run printed."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.is_file() else []
        return "\n".join(lines[-num_lines:])


def run_jobs(jobs: Sequence[Job], slots: Sequence[Mapping[str, str]], console: Console) -> list[Job]:
    """Run every job, as many at a time as there are slots, and return those that did not finish.

    A slot is what a job's environment holds beside this process's own. Raises Stopped, after every running job has
    ended, when SIGINT or SIGTERM arrived.
    """
    waiting, running = list(jobs), dict[int, _Running]()
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    display = _Display(console, len(jobs))
    try:
        with display.progress:
            while (waiting or running) and not received:
                for slot in range(len(slots)):
                    if waiting and slot not in running:
                        running[slot] = _start(waiting.pop(0), slots[slot], display)
                for slot, run in list(running.items()):
                    display.show(run)
                    if run.process.poll() is not None:
                        display.close(run)
                        del running[slot]
                time.sleep(POLL_SECONDS)
    finally:
        _stop([run.process for run in running.values()])
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise Stopped(received[0])
    return [job for job in jobs if not job.is_finished]


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    task: TaskID
    started: float


class _Display:
    """A line per running job and one for all of them; where nobody watches, a line per job that ended."""

    def __init__(self, console: Console, num_jobs: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.console = console
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self.whole = self.progress.add_task("runs", total=num_jobs)

    def open(self, job: Job) -> TaskID:
        return self.progress.add_task(job.name, total=job.max_steps)

    def show(self, run: _Running) -> None:
        self.progress.update(run.task, completed=run.job.step())

    def close(self, run: _Running) -> None:
        self.progress.remove_task(run.task)
        self.progress.advance(self.whole)
        outcome = "finished" if run.job.is_finished else f"ended with exit code {run.process.returncode}"
        self.console.print(f"{run.job.name}: {outcome} after {time.monotonic() - run.started:.0f} s", markup=False)


def _start(job: Job, slot: Mapping[str, str], display: _Display) -> _Running:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        process = subprocess.Popen(
            job.command,
            env={**os.environ, **slot},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C reaches it once, from here
        )
    return _Running(job, process, display.open(job), time.monotonic())


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask all at once, let them write their checkpoints, and kill what is left of their process groups."""
    for process in processes:
        process.terminate()
    if processes:
        sys.stderr.write("compact-ds: waiting for the running jobs to write their checkpoints\n")
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
