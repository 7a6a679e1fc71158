"""Faults planted in nodes' facts, each found with its remedy; and facts of this machine where the fault is real."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from compact_ds.launcher.doctor.checks import Nodes, Speed, Wanted, examine
from compact_ds.launcher.doctor.facts import Facts, digest, gather

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
