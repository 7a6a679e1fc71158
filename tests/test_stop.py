"""A run that is asked to stop: a checkpoint, the command that goes on with it, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[1]
SHARED_MEMORY = Path("/dev/shm")

pytestmark = pytest.mark.timeout(600)

MAX_STEPS = 30
"""Far enough from the second step that the signal arrives before the end."""


class Started:
    """A command of ours that trains into `folder`, and every process beneath it."""

    def __init__(self, folder: Path, words: list[str]) -> None:
        self.metrics, self._err = folder / "metrics.jsonl", folder.parent / "stderr.txt"
        environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
        environment |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "compact_ds.cli", *words]
        with self._err.open("w") as err:
            self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=err)
        self._family: set[psutil.Process] = set()

    def stderr(self) -> str:
        return self._err.read_text(encoding="utf-8")

    def steps(self) -> list[int]:
        """The steps of whole lines in `metrics.jsonl`."""
        text = self.metrics.read_text(encoding="utf-8") if self.metrics.is_file() else ""
        return [json.loads(line)["step"] for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def wait_for_steps(self, count: int) -> None:
        deadline = time.monotonic() + 200
        while len(self.steps()) < count:
            assert self.process.poll() is None and time.monotonic() < deadline, self.stderr()[-3000:]
            time.sleep(0.01)

    def stop(self, number: signal.Signals) -> None:
        """Send the signal to the command alone and wait for its end."""
        self._look_beneath()
        self.process.send_signal(number)
        self.process.wait(120)

    def left(self) -> list[psutil.Process]:
        """Processes of the command that still run."""
        return [p for p in self._family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    def end(self) -> None:
        """Whatever became of the test, nothing goes on."""
        if self.process.poll() is None:
            self._look_beneath()
        running: list[psutil.Process | subprocess.Popen[bytes]] = [*self.left(), self.process]
        for process in running:
            process.kill()
        self.process.wait(30)

    def _look_beneath(self) -> None:
        self._family |= set(psutil.Process(self.process.pid).children(recursive=True))


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Started]]:
    commands: list[Started] = []
    yield commands
    for command in commands:
        command.end()


def _words(tmp_path: Path, *options: str) -> list[str]:
    places = [f"run_dir={tmp_path / 'my run'}", f"data.cache_dir={tmp_path / 'cache'}", f"max_steps={MAX_STEPS}"]
    sizes = ["data.limit=60", "data.batch_size=4", "evaluation.limit=4", "evaluation.max_new_tokens=4"]
    return [*options[:1], "arithmetic", *options[1:], *places, *sizes]


def _printed_command(err: str, steps: list[int]) -> list[str]:
    (message,) = re.findall(r"^stopped after step (\d+) with a checkpoint; go on with: compact-ds (.*)$", err, re.M)
    assert int(message[0]) == len(steps) < MAX_STEPS
    return shlex.split(message[1])


@pytest.mark.parametrize(
    ("options", "number"),
    [
        (["launch", "--nprocs", "2"], signal.SIGTERM),
        pytest.param(["launch", "--nprocs", "2"], signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(["train"], signal.SIGTERM, marks=pytest.mark.slow),
    ],
    ids=["launch-SIGTERM", "launch-SIGINT", "train-SIGTERM"],
)
def test_a_stopped_run_goes_on_where_it_was(
    tmp_path: Path, started: list[Started], options: list[str], number: signal.Signals
) -> None:
    folder, before = tmp_path / "my run", set(SHARED_MEMORY.iterdir())
    first = Started(folder, _words(tmp_path, *options))
    started.append(first)
    first.wait_for_steps(2)
    first.stop(number)
    assert first.process.returncode == 0, first.stderr()[-3000:]
    assert first.left() == []
    assert set(SHARED_MEMORY.iterdir()) <= before
    steps = first.steps()
    assert steps == list(range(len(steps)))
    assert (folder / "checkpoints" / "latest").read_text(encoding="utf-8") == f"step-{len(steps)}"
    assert list((folder / "checkpoints" / f"step-{len(steps)}").glob("*optim_states.pt"))
    assert not (folder / "summary.json").exists()

    command = _printed_command(first.stderr(), steps)
    assert command == [options[0], str(folder / "config.yaml"), *options[1:], "--resume"]
    second = Started(folder, command)
    started.append(second)
    assert second.process.wait(200) == 0, second.stderr()[-3000:]
    assert second.steps() == list(range(MAX_STEPS))
    assert (folder / "summary.json").exists()
