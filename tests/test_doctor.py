"""Faults planted in nodes' facts, each found with its remedy; and nodes of which a shell on this machine plays each, ailing."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from compact_ds.cli import main
from compact_ds.launcher.doctor.checks import Nodes, Speed, Wanted, examine
from compact_ds.launcher.doctor.facts import Facts, digest, gather

ROOT = Path(__file__).parents[1]

HEALTHY = Facts(
    host="n1", versions={"python": "3.11.7", "torch": "2.13.0", "deepspeed": "0.19.8", "compact_ds": "0.1.0"},
    hashes={"run.yaml": "aa", "train.jsonl": "bb"}, devices=2, cores=16, address="10.0.0.1", interface="eth0", writes=True,
    shares=True, world_writable=False, free_bytes=1 << 40, shm_free_bytes=1 << 34, open_files=65536, locked_memory=-1,
    port_is_free=True, time=0.0,
)  # fmt: skip
NODES = {"n1": HEALTHY, "n2": replace(HEALTHY, host="n2", address="10.0.0.2")}
WANTED = Wanted({"n1": 2, "n2": 2}, 1 << 30, 29500, "/shared/run", True)
SPEED = Speed(1e-4, 1e9)

Plant = Callable[[], tuple[Nodes, dict[str, str], Speed | str]]


def _on_n2(**changed: object) -> Plant:
    return lambda: ({**NODES, "n2": replace(NODES["n2"], **changed)}, {}, SPEED)  # type: ignore[arg-type]


PLANTED: list[tuple[Plant, str, str]] = [
    (lambda: ({"n1": HEALTHY}, {"n2": "Host key verification failed."}, SPEED), "nodes answer", "n2: Host key"),
    (
        _on_n2(versions={**HEALTHY.versions, "torch": "2.6.0"}),
        "same versions",
        "n2 has torch 2.6.0, the first node 2.13.0",
    ),
    (_on_n2(hashes={"run.yaml": "aa", "train.jsonl": "cc"}), "same config and data", "n2: train.jsonl is another"),
    (_on_n2(hashes={"run.yaml": "missing", "train.jsonl": "bb"}), "same config and data", "n2: run.yaml is missing"),
    (_on_n2(devices=1), "devices", "n2 has 1 accelerators for 2 ranks"),
    (_on_n2(address=None, interface=None), "interface", "n2 has no route to the first node"),
    (_on_n2(address="127.0.0.1"), "interface", "n2 would use loopback"),
    (_on_n2(skew=-75.0), "clocks", "n2 is -75.0 s off"),
    (_on_n2(writes=False), "run folder writable", "n2 can not write /shared/run"),
    (_on_n2(shares=False), "run folder shared", "n2 sees another folder"),
    (_on_n2(world_writable=True), "run folder private", "anybody on n2 may write"),
    (_on_n2(free_bytes=1 << 29), "disk", "n2 has 0.5 GiB for 1.0 GiB of checkpoints"),
    (_on_n2(open_files=1024), "limits", "n2 allows 1024 open files"),
    (_on_n2(shm_free_bytes=1 << 26), "limits", "n2 has 64 MiB of /dev/shm"),
    (lambda: ({**NODES, "n1": replace(HEALTHY, port_is_free=False)}, {}, SPEED), "rendezvous port", "port 29500 of n1"),
    (lambda: (NODES, {}, "the ranks did not meet in 180 s"), "all-reduce", "did not meet"),
    (lambda: (NODES, {}, Speed(0.2, 1e6)), "all-reduce", "200000 us"),
]


def test_healthy_nodes_pass() -> None:
    assert [finding for finding in examine(NODES, {}, WANTED, SPEED) if not finding.ok] == []


@pytest.mark.parametrize(("plant", "check", "found"), PLANTED)
def test_a_planted_fault_is_the_only_one_found_and_has_its_remedy(plant: Plant, check: str, found: str) -> None:
    (finding,) = [one for one in examine(*plant()[:2], WANTED, plant()[2]) if not one.ok]
    assert finding.check == check
    assert found in finding.found
    assert finding.remedy


def test_real_faults_of_this_machine_are_in_its_facts(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    run_dir.chmod(0o777)
    (tmp_path / "data").write_text("x")
    with socket.socket() as holder:
        holder.bind(("", 0))
        holder.listen()
        port = holder.getsockname()[1]
        facts = gather(run_dir, "t", 0, "127.0.0.1", port, [str(tmp_path / "data"), str(tmp_path / "none")])
    assert facts.world_writable and facts.writes and not facts.port_is_free and not facts.shares
    assert facts.interface == "lo"
    assert facts.hashes[str(tmp_path / "none")] == "missing"
    assert digest(tmp_path / "data") == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"


# The last two words are the host and what it is to run. n1 is in order; where it ails all nodes do, since the run is wrong.
SSH = """#!/bin/bash
host=${@: -2:1} line=${@: -1}
case $host in
n1)
    sleep 4
    ;;
n2)
    ulimit -n 512
    line=${line//$HERE/$THERE}
    line=${line/PYTHONPATH=/PYTHONPATH=$PLANTED:}
    ;;
n3)
    line=${line//$HERE\\/run//proc/run}
    ;;
n4)
    echo 'Host key verification failed.' >&2
    exit 255
    ;;
esac
exec bash -c "$line"
"""
LATE = "import time\nreal = time.time\ntime.time = lambda: real() - 75\n"


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command is typed: `hostfile` names four nodes, and `ssh` reaches shells that play them."""
    here, there, planted, commands = (tmp_path / name for name in ("here", "there", "planted", "bin"))
    for folder in (here / "run", there / "run", planted / "transformers-0.0.1.dist-info", commands):
        folder.mkdir(parents=True)
    (here / "run").chmod(0o777)
    (here / "train.jsonl").write_text("{}\n")
    (there / "train.jsonl").write_text("{} \n")
    (here / "hostfile").write_text("n1 slots=1\nn2 slots=640\nn3 slots=1\nn4 slots=1\n")
    (planted / "sitecustomize.py").write_text(LATE)
    (planted / "transformers-0.0.1.dist-info" / "METADATA").write_text("Name: transformers\nVersion: 0.0.1\n")
    (commands / "ssh").write_text(SSH)
    (commands / "ssh").chmod(0o755)
    places = {"HERE": here, "THERE": there, "PLANTED": planted, "PYTHONPATH": ROOT, "DS_ACCELERATOR": "cpu"}
    for name, value in (places | {"PATH": f"{commands}:{os.environ['PATH']}"}).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.chdir(here)
    return here


def test_the_command_finds_every_fault_of_four_ailing_nodes_and_says_what_to_do(
    nodes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"run_dir={nodes / 'run'}", "data.train=train.jsonl", "student.tokenizer=task:arithmetic"]
    words += ["student.scratch={family: llama, hidden_size: 1048576, num_hidden_layers: 999}"]
    with socket.socket() as holder:
        holder.bind(("", 0))
        holder.listen()
        port = holder.getsockname()[1]
        place = ["--hostfile", "hostfile", "--master-addr", "nowhere.invalid", "--master-port", str(port)]
        assert main(["doctor", "arithmetic", *place, *words]) == 1
    lines = capsys.readouterr().out.splitlines()
    expected = {
        "nodes answer": ("n4: Host key verification failed.", "make `ssh HOST true` work"),
        "same versions": ("n2 has transformers 0.0.1, the first node", "install the same releases"),
        "same config and data": ("n2: train.jsonl is another", "copy config and data from the first node"),
        "devices": ("cores for 640 ranks", "lower slots="),
        "interface": ("n1 has no route to the first node", "--master-addr"),
        "clocks": ("n2 is -7", "start chronyd or ntpd there"),
        "run folder writable": (f"n3 can not write {nodes / 'run'}", "mount it for writing there"),
        "run folder shared": ("n2 sees another folder", "a file system that all nodes mount"),
        "run folder private": (f"anybody on n1 may write {nodes / 'run'}", "chmod o-w"),
        "disk": ("n1 has ", "lower checkpoint_keep"),
        "limits": ("n2 allows 512 open files", "ulimit -n 4096"),
        "rendezvous port": (f"something listens on port {port} of n1", f"ss -ltnp 'sport = :{port}'"),
    }
    found = dict(line.removeprefix("FAILED ").split(": ", 1) for line in lines if line.startswith("FAILED"))
    assert list(found) == list(expected), lines
    for check, (fault, remedy) in expected.items():
        assert fault in found[check] and remedy in found[check].partition(";")[2], found[check]
    # Neither n3, which had to wait for the first node's answer.
    assert re.fullmatch(r"n2 is -7\d\.\d s off", found["clocks"].partition(";")[0]), found["clocks"]
    assert not list((nodes / "run").iterdir())  # what the nodes left there to be seen by each other is gone


@pytest.mark.slow
def test_the_command_finds_ranks_that_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nowhere7")
    assert main(["doctor", "--nprocs", "2", "--json"]) == 1
    (finding,) = [one for one in json.loads(capsys.readouterr().out) if not one["ok"]]
    assert finding["check"] == "all-reduce" and "nowhere7" in finding["found"]
    assert "GLOO_SOCKET_IFNAME" in finding["remedy"]
