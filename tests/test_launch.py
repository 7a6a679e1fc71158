"""The launcher with a small module in place of training: exit codes, signals, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from compact_ds.errors import ConfigError, UserError
from compact_ds.launcher import devices, launch, meeting, ranks
from compact_ds.launcher.commands import Task, World, on_node
from compact_ds.launcher.supervise import Outcome

ROOT = Path(__file__).parents[1]

RANK = """
import os, signal, sys, time
from pathlib import Path

folder, behaviour = Path(sys.argv[1]), sys.argv[2]
rank = os.environ["RANK"]
facts = [os.environ[name] for name in ("WORLD_SIZE", "LOCAL_RANK", "OMP_NUM_THREADS", "DS_ACCELERATOR", "MASTER_ADDR")]

def stop(number, frame):
    (folder / f"asked-{rank}").write_text(str(time.time()))
    if behaviour == "saves together":
        # as a collective checkpoint does: no rank can end before all were asked
        while len(list(folder.glob("asked-*"))) < 2:
            time.sleep(0.01)
    if behaviour != "stubborn":
        sys.exit(0)

signal.signal(signal.SIGTERM, stop)
(folder / f"rank-{rank}").write_text(f"{os.getpid()} " + " ".join(facts))
if behaviour == "user error":
    sys.stderr.write("compact-ds: error: data.train: found x; expected y; do z\\n")
    sys.exit(2)
if behaviour == "one fails":
    if rank == "1":
        sys.exit(7)
    time.sleep(60)
if behaviour == "one dies once":
    starts = len(list(folder.glob(f"start-{rank}-*")))
    (folder / f"start-{rank}-{starts}").touch()
    if not starts:
        if rank == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(120)
if behaviour == "aborts":
    os.abort()
if behaviour in ("saves together", "stubborn"):
    while True:
        time.sleep(0.05)
"""

STARTER = """
import sys
from compact_ds.launcher.commands import Task
from compact_ds.launcher.ranks import run_ranks
task = Task("fake_rank", [sys.argv[1], sys.argv[2]], int(sys.argv[4]))
sys.exit(run_ranks(task, ["0", "1"], True, float(sys.argv[3])).code)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "fake_rank.py").write_text(RANK)
    return tmp_path


def _start(folder: Path, behaviour: str, grace_seconds: float = 60, max_restarts: int = 0) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    environment.pop("OMP_NUM_THREADS", None)
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STARTER), str(folder), behaviour, str(grace_seconds), str(max_restarts)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for(folder: Path, pattern: str, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(folder.glob(pattern))) < count:
        assert time.monotonic() < deadline, f"{pattern} did not appear {count} times"
        time.sleep(0.05)


def _assert_all_gone(folder: Path) -> None:
    pids = [int(file.read_text().split()[0]) for file in folder.glob("rank-*")]
    assert len(pids) == 2
    alive = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
    assert alive == []


def test_ranks_run_with_shared_cores_and_leave_nothing(folder: Path) -> None:
    before = set(os.listdir("/dev/shm"))
    starter = _start(folder, "ends")
    out, err = starter.communicate(timeout=60)
    assert (starter.returncode, out, err) == (0, "", "")
    threads = str(max(1, ranks.num_cores() // 2))
    for rank in "01":
        facts = (folder / f"rank-{rank}").read_text().split()[1:]
        assert facts == ["2", rank, threads, "cpu", "127.0.0.1"]
    _assert_all_gone(folder)
    assert set(os.listdir("/dev/shm")) - before == set()


def test_a_users_error_is_printed_once_with_exit_code_2(folder: Path) -> None:
    starter = _start(folder, "user error")
    _, err = starter.communicate(timeout=60)
    assert starter.returncode == 2
    assert err == "compact-ds: error: data.train: found x; expected y; do z\n"


def test_one_failing_rank_ends_the_other(folder: Path) -> None:
    starter = _start(folder, "one fails")
    starter.communicate(timeout=60)
    assert starter.returncode == 7
    _assert_all_gone(folder)


def test_an_abort_is_reported_as_250(folder: Path) -> None:
    starter = _start(folder, "aborts")
    starter.communicate(timeout=60)
    assert starter.returncode == launch.ABORTED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_all_ranks_so_that_they_can_save_together(folder: Path, number: signal.Signals) -> None:
    starter = _start(folder, "saves together")
    _wait_for(folder, "rank-*", 2)
    starter.send_signal(number)
    _, err = starter.communicate(timeout=25)  # DeepSpeed's own serial way would take its 30 s before the kill
    assert (starter.returncode, err) == (0, "")
    assert len(list(folder.glob("asked-*"))) == 2
    _assert_all_gone(folder)


def test_ranks_that_do_not_stop_are_killed_after_the_grace_time(folder: Path) -> None:
    starter = _start(folder, "stubborn", grace_seconds=1)
    _wait_for(folder, "rank-*", 2)
    starter.send_signal(signal.SIGTERM)
    starter.communicate(timeout=20)
    assert starter.returncode == 128 + signal.SIGTERM
    _assert_all_gone(folder)


def test_a_second_signal_does_not_wait_for_the_grace_time(folder: Path) -> None:
    starter = _start(folder, "stubborn", grace_seconds=600)
    _wait_for(folder, "rank-*", 2)
    starter.send_signal(signal.SIGINT)
    _wait_for(folder, "asked-*", 2)
    starter.send_signal(signal.SIGINT)
    starter.communicate(timeout=20)
    assert starter.returncode == 128 + signal.SIGINT
    _assert_all_gone(folder)


def test_a_batch_that_ranks_cannot_share_is_refused_before_any_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "supervised", lambda *_: pytest.fail("a rank was started"))
    with pytest.raises(ConfigError, match=r"data\.batch_size: found 24; expected a multiple of the world size 5"):
        launch.launch("arithmetic", [], nprocs=5)
    with pytest.raises(UserError, match="--nprocs: found 0; expected 1 or more"):
        launch.launch("arithmetic", [], nprocs=0)
    with pytest.raises(ConfigError, match="did you mean 'batch_size'"):
        launch.launch("arithmetic", ["data.batchsize=3"], nprocs=2)


def test_an_abort_after_the_summary_was_written_is_a_complete_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = tmp_path / "summary.json"

    def aborts_before(*_: object) -> Outcome:
        return Outcome(launch.ABORTED, False)

    def aborts_after(*_: object) -> Outcome:
        summary.write_text("{}")
        return Outcome(launch.ABORTED, False)

    monkeypatch.setattr(launch, "supervised", aborts_before)
    assert launch.launch("arithmetic", [f"run_dir={tmp_path}"], nprocs=2) == launch.ABORTED
    monkeypatch.setattr(launch, "supervised", aborts_after)
    assert launch.launch("arithmetic", [f"run_dir={tmp_path}"], nprocs=2) == 0
    assert "after" in capsys.readouterr().err
    monkeypatch.setattr(launch, "supervised", aborts_before)  # the summary is now an earlier run's
    assert launch.launch("arithmetic", [f"run_dir={tmp_path}"], nprocs=2) == launch.ABORTED


def test_a_run_that_may_start_again_is_told_to_go_on_from_the_first_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, ...]] = []

    def note(start: launch.Start) -> Outcome:
        started.append(start.command.words)
        return Outcome(0, False)

    monkeypatch.setattr(launch, "supervised", note)
    run_dir = f"run_dir={tmp_path / 'run'}"
    for max_restarts in (0, 1):
        assert launch.launch("arithmetic", [run_dir], nprocs=2, max_restarts=max_restarts) == 0
    assert ["--resume" in words for words in started] == [False, True]
    assert "--rdzv_conf=join_timeout=600,read_timeout=600" in started[1]
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "metrics.jsonl").touch()
    with pytest.raises(ConfigError, match=r"run_dir: found .*run; expected an empty or new folder; .* add --resume"):
        launch.launch("arithmetic", [run_dir], nprocs=2, max_restarts=1)
    assert launch.launch("arithmetic", [run_dir], nprocs=2, max_restarts=1, resume=True) == 0
    assert len(started) == 3


def test_two_agents_start_all_ranks_again_when_one_is_killed(folder: Path) -> None:
    addresses = ("127.0.0.1", "127.0.0.2")
    world = World({address: ["0"] for address in addresses}, addresses[0], ranks.free_port())
    task = Task("fake_rank", [str(folder), "one dies once"], max_restarts=1, timeout_seconds=100)
    settings = {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **settings}
    agents = [
        subprocess.Popen(on_node(task, world, str(i), address), env=environment, stderr=subprocess.PIPE, text=True)
        for i, address in enumerate(addresses)
    ]
    said = [agent.communicate(timeout=200)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert "error" not in "".join(said)
    assert sorted(file.name for file in folder.glob("start-*")) == ["start-0-0", "start-0-1", "start-1-0", "start-1-1"]
    _assert_all_gone(folder)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no TCP_USER_TIMEOUT")
def test_connections_to_the_meeting_end_with_the_network_and_no_others() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.create_connection(one.getsockname()) as meant,
        socket.create_connection(other.getsockname()) as not_meant,
    ):
        assert meeting.end_with_the_network(one.getsockname()[1], 7) == 1
        options = [c.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) for c in (meant, not_meant)]
    assert options == [7000, 0]


def test_visible_accelerators_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    assert devices.local_devices(2) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6,7")
    assert devices.local_devices(2) == ["5", "6"]
    with pytest.raises(UserError, match="--nprocs: found 4; expected at most 3"):
        devices.local_devices(4)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert devices.local_devices(4) is None


def test_ranks_stay_off_a_gpu_when_deepspeed_does(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    assert devices.uses_gpu()
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert not devices.uses_gpu()
