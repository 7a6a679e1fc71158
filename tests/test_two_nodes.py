"""Two real nodes for the launcher, network namespaces with an sshd each: the same run, a killed rank, a cut network."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tests" / "two_nodes.sh"
SKIPPED = 77
GRACE_SECONDS = 15
"""From the timeout to the end of the last process, on a machine that does other work beside."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SIZES = [
    *("data.limit=240", "data.batch_size=4", "evaluation.limit=8", "evaluation.max_new_tokens=8", "tree.rows=2"),
    *("student.scratch.hidden_size=64", "student.scratch.intermediate_size=128"),
]


class Run:
    """A `launch` on two nodes, or on this one, and what it leaves."""

    def __init__(self, folder: Path, words: list[str], two_nodes: bool) -> None:
        self.folder, self.run_dir = folder, folder / "run"
        folder.mkdir()
        environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
        launch = [sys.executable, "-m", "compact_ds.cli", "launch", "arithmetic", f"run_dir={self.run_dir}"]
        place = [f"data.cache_dir={folder.parent / 'cache'}", *SIZES]
        nodes = ["--hostfile", "hostfile"] if two_nodes else ["--nprocs", "2"]
        start = [str(SCRIPT), str(folder)] if two_nodes else []
        self._err = folder / "stderr.txt"
        with self._err.open("w") as err:
            self.process = subprocess.Popen([*start, *launch, *nodes, *place, *words], env=environment, stderr=err)

    def error(self) -> str:
        return self._err.read_text(encoding="utf-8").replace("\r", "\n")

    def wait(self, seconds: float = 400) -> int:
        return self.process.wait(seconds)

    def wait_for_steps(self, count: int) -> None:
        file, deadline = self.run_dir / "metrics.jsonl", time.monotonic() + 600
        while not file.is_file() or file.read_text(encoding="utf-8").count("\n") < count:
            assert self.process.poll() is None and time.monotonic() < deadline, self.error()[-3000:]
            time.sleep(0.05)

    def pids(self) -> list[int]:
        """The process numbers of both ranks."""
        return [json.loads((self.run_dir / "heartbeat" / f"rank-{i}.json").read_text())["pid"] for i in (0, 1)]

    def netns(self, number: int) -> str:
        return f"compact-{self.process.pid}-{number}"

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nodes")
    tried = subprocess.run([str(SCRIPT), str(folder / "try"), "true"], capture_output=True, text=True, timeout=60)
    if tried.returncode == SKIPPED:
        pytest.skip(tried.stdout.strip())
    assert tried.returncode == 0, tried.stderr
    return folder


@pytest.fixture
def runs(base: Path) -> Iterator[list[Run]]:
    started: list[Run] = []
    yield started
    for run in started:
        run.end()
    spaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert [run for run in started if run.netns(1) in spaces or run.netns(2) in spaces] == []


@pytest.fixture(scope="module")
def together(base: Path) -> Path:
    """The folder of a run of 60 steps on this machine alone."""
    run = Run(base / "together", ["max_steps=60"], False)
    try:
        assert run.wait() == 0, run.error()[-3000:]
    finally:
        run.end()
    return run.run_dir


def _assert_same(found: Path, expected: Path) -> None:
    """Bit for bit the same student, and the same steps on the way to it."""
    assert (found / "final/model.safetensors").read_bytes() == (expected / "final/model.safetensors").read_bytes()
    rows = [[json.loads(line) for line in (folder / "metrics.jsonl").open()] for folder in (found, expected)]
    assert [(row["step"], row["loss"]) for row in rows[0]] == [(row["step"], row["loss"]) for row in rows[1]]
    assert [row["step"] for row in rows[0]] == list(range(60))


def test_two_nodes_train_as_one_does_bit_for_bit(base: Path, together: Path, runs: list[Run]) -> None:
    run = Run(base / "apart", ["max_steps=60"], True)
    runs.append(run)
    assert run.wait() == 0, run.error()[-3000:]
    _assert_same(run.run_dir, together)
    assert "gloo: interface eth77 (10.77.0.1), towards 10.77.0.1" in run.error()


def _end_of(run: Run, pids: list[int], within: float) -> list[str]:
    """The run ends with a code that is not 0, all of its ranks with it; its error lines."""
    began = time.monotonic()
    assert run.wait(within) != 0
    seconds = time.monotonic() - began
    alive = [pid for pid in pids if psutil.pid_exists(pid)]
    assert alive == [] and seconds < within, (alive, seconds)
    print(f"all gone after {seconds:.1f} s")
    return re.findall(r"^compact-ds: error: (.*)$", run.error(), re.M)


def test_a_killed_rank_on_the_other_node_ends_all_within_a_minute(base: Path, runs: list[Run]) -> None:
    run = Run(base / "killed", ["max_steps=5000"], True)
    runs.append(run)
    run.wait_for_steps(5)
    pids = run.pids()
    os.kill(pids[1], signal.SIGKILL)
    (line,) = _end_of(run, pids, 60)
    assert f"rank 1 on {os.uname().nodename} (process {pids[1]}" in line and "--resume" in line


@pytest.mark.parametrize(("restarts", "timeouts"), [(0, 1), (1, 2)])
def test_a_cut_network_ends_all_within_the_timeout(base: Path, runs: list[Run], restarts: int, timeouts: int) -> None:
    timeout = 20
    words = ["max_steps=5000", f"engine.timeout_seconds={timeout}", "--max-restarts", str(restarts)]
    run = Run(base / f"cut-{restarts}", words, True)
    runs.append(run)
    run.wait_for_steps(5)
    pids = run.pids()
    subprocess.run(["ip", "-n", run.netns(2), "link", "set", "eth77", "down"], check=True)
    # With restarts once more as long: the nodes wait for each other to start again.
    lines = _end_of(run, pids, timeouts * timeout + GRACE_SECONDS)
    assert run.process.returncode == 3
    assert any("network" in line for line in lines), run.error()[-3000:]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_restart_over_two_nodes_ends_by_itself_with_the_right_result(
    base: Path, together: Path, runs: list[Run], rank: int
) -> None:
    run = Run(base / f"restarted-{rank}", ["max_steps=60", "checkpoint_every=10", "--max-restarts", "1"], True)
    runs.append(run)
    run.wait_for_steps(15)
    (pid,) = run.pids()[rank : rank + 1]
    os.kill(pid, signal.SIGKILL)
    assert run.wait() == 0, run.error()[-3000:]
    # One restart is one: a rank that begins anew in place of going on would be refused its folder and cost another.
    (line,) = re.findall(r"^compact-ds: error: (.*)$", run.error(), re.M)
    assert f"rank {rank} on {os.uname().nodename} (process {pid}" in line
    _assert_same(run.run_dir, together)


def test_a_host_whose_key_is_not_known_is_refused(base: Path, runs: list[Run]) -> None:
    run = Run(base / "stranger", [], True)
    runs.append(run)
    known = run.folder / "known_hosts"
    deadline = time.monotonic() + 20
    while not (known.is_file() and known.read_text().count("\n") == 2):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    known.write_text(known.read_text().splitlines(keepends=True)[0])
    assert run.wait() == 2
    assert (
        "host 10.77.0.2: found ssh: Host key verification failed.; expected a login by key to a known host"
        in run.error()
    )
    assert not (run.run_dir / "config.yaml").exists()
