"""What must hold of the nodes' facts before a long run, each check with its remedy.

Owns judgement on plain data. Reaches no node and reads no file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from compact_ds.launcher.doctor.facts import Facts

SKEW_SECONDS = 2.0
OPEN_FILES = 4096
SHM_BYTES = 1 << 28
LATENCY_SECONDS = 0.05


@dataclass(frozen=True)
class Wanted:
    """What the run needs: ranks by node, bytes for checkpoints (0 when not known), whether accelerators are used."""

    ranks: Mapping[str, int]
    checkpoint_bytes: int
    port: int
    run_dir: str
    uses_devices: bool


@dataclass(frozen=True)
class Speed:
    """An all-reduce over all ranks: seconds of a few bytes, bytes a second of many."""

    latency_seconds: float
    bytes_per_second: float


@dataclass(frozen=True)
class Finding:
    """One check's outcome. `found` says what was seen; a failed one has its remedy."""

    check: str
    ok: bool
    found: str
    remedy: str = ""


Nodes = Mapping[str, Facts]
"""Facts by the name that the hostfile has for the node; those of the first are the measure."""


def examine(nodes: Nodes, unreachable: Mapping[str, str], wanted: Wanted, speed: Speed | str | None) -> list[Finding]:
    """All checks, in the order in which they should be mended."""
    found = [_reachable(nodes, unreachable)]
    if nodes:
        found += [check(nodes, wanted) for check in CHECKS]
    return [*found, _speed(speed)] if speed is not None else found


def _verdict(check: str, bad: Sequence[str], good: str, remedy: str) -> Finding:
    return Finding(check, False, "; ".join(bad), remedy) if bad else Finding(check, True, good)


def _reachable(nodes: Nodes, unreachable: Mapping[str, str]) -> Finding:
    bad = [f"{host}: {said}" for host, said in unreachable.items()]
    remedy = (
        "make `ssh HOST true` work without a question, with the host's key in known_hosts and python at the same path"
    )
    return _verdict("nodes answer", bad, f"{len(nodes)} of {len(nodes) + len(unreachable)}", remedy)


def _versions(nodes: Nodes, wanted: Wanted) -> Finding:
    first = next(iter(nodes.values())).versions
    bad = [
        f"{host} has {package} {facts.versions.get(package, 'missing')}, the first node {release}"
        for host, facts in nodes.items()
        for package, release in first.items()
        if facts.versions.get(package, "missing") != release or release == "missing"
    ]
    remedy = "install the same releases everywhere: pip install -c constraints.txt"
    return _verdict("same versions", bad, ", ".join(f"{p} {r}" for p, r in first.items()), remedy)


def _hashes(nodes: Nodes, wanted: Wanted) -> Finding:
    first = next(iter(nodes.values())).hashes
    bad = [
        f"{host}: {file} is {'missing' if facts.hashes.get(file) == 'missing' else 'another'}"
        for host, facts in nodes.items()
        for file, digest in first.items()
        if facts.hashes.get(file) != digest or digest == "missing"
    ]
    remedy = "copy config and data from the first node, or keep them in a folder that all nodes share"
    return _verdict("same config and data", bad, f"{len(first)} files", remedy)


def _devices(nodes: Nodes, wanted: Wanted) -> Finding:
    has = {host: facts.devices if wanted.uses_devices else facts.cores for host, facts in nodes.items()}
    kind = "accelerators" if wanted.uses_devices else "cores"
    bad = [
        f"{host} has {n} {kind} for {wanted.ranks.get(host, 1)} ranks"
        for host, n in has.items()
        if n < wanted.ranks.get(host, 1)
    ]
    return _verdict(
        "devices", bad, f"{sum(has.values())} {kind}", "lower slots= or --nprocs, or look at nvidia-smi there"
    )


def _interface(nodes: Nodes, wanted: Wanted) -> Finding:
    bad = [f"{host} has no route to the first node" for host, facts in nodes.items() if facts.address is None]
    if len(nodes) > 1:
        bad += [
            f"{host} would use loopback" for host, facts in nodes.items() if (facts.address or "").startswith("127.")
        ]
    good = ", ".join(sorted({str(facts.interface) for facts in nodes.values()}))
    remedy = "name the first node by an address that all reach with --master-addr, or set GLOO_SOCKET_IFNAME"
    return _verdict("interface", bad, good, remedy)


def _clock(nodes: Nodes, wanted: Wanted) -> Finding:
    bad = [f"{host} is {facts.skew:+.1f} s off" for host, facts in nodes.items() if abs(facts.skew) > SKEW_SECONDS]
    most = max(abs(facts.skew) for facts in nodes.values())
    return _verdict("clocks", bad, f"at most {most:.1f} s apart", "start chronyd or ntpd there")


def _writable(nodes: Nodes, wanted: Wanted) -> Finding:
    bad = [f"{host} can not write {wanted.run_dir}" for host, facts in nodes.items() if not facts.writes]
    return _verdict("run folder writable", bad, wanted.run_dir, "mount it for writing there, or give another run_dir")


def _shared(nodes: Nodes, wanted: Wanted) -> Finding:
    bad = [f"{host} sees another folder" for host, facts in nodes.items() if facts.writes and not facts.shares]
    remedy = "give a run_dir on a file system that all nodes mount: shards of a checkpoint come from all of them"
    return _verdict("run folder shared", bad, f"{len(nodes)} nodes see the same", remedy)


def _private(nodes: Nodes, wanted: Wanted) -> Finding:
    bad = [f"anybody on {host} may write {wanted.run_dir}" for host, facts in nodes.items() if facts.world_writable]
    remedy = f"chmod o-w {wanted.run_dir}: who can write a checkpoint can run code in whoever resumes from it"
    return _verdict("run folder private", bad, "only its owner and group write it", remedy)


def _disk(nodes: Nodes, wanted: Wanted) -> Finding:
    bad = [
        f"{host} has {facts.free_bytes / 2**30:.1f} GiB for {wanted.checkpoint_bytes / 2**30:.1f} GiB of checkpoints"
        for host, facts in nodes.items()
        if facts.free_bytes < wanted.checkpoint_bytes
    ]
    good = f"{min(facts.free_bytes for facts in nodes.values()) / 2**30:.1f} GiB free"
    return _verdict("disk", bad, good, "free space there, lower checkpoint_keep, or give a run_dir elsewhere")


def _limits(nodes: Nodes, wanted: Wanted) -> Finding:
    bad = [
        f"{host} allows {facts.open_files} open files" for host, facts in nodes.items() if facts.open_files < OPEN_FILES
    ]
    bad += [
        f"{host} has {facts.shm_free_bytes / 2**20:.0f} MiB of /dev/shm"
        for host, facts in nodes.items()
        if wanted.uses_devices and facts.shm_free_bytes < SHM_BYTES
    ]
    remedy = f"ulimit -n {OPEN_FILES} in the shell's profile; in a container --shm-size=1g"
    return _verdict("limits", bad, f"open files {min(facts.open_files for facts in nodes.values())}", remedy)


def _port(nodes: Nodes, wanted: Wanted) -> Finding:
    host, first = next(iter(nodes.items()))
    bad = [] if first.port_is_free else [f"something listens on port {wanted.port} of {host}"]
    return _verdict(
        "rendezvous port",
        bad,
        f"{wanted.port} is free",
        f"end what holds it (ss -ltnp 'sport = :{wanted.port}') or give --master-port",
    )


def _speed(speed: Speed | str) -> Finding:
    remedy = "look at the links, at a firewall between the nodes, and at GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME"
    if isinstance(speed, str):
        return Finding("all-reduce", False, speed, remedy)
    found = f"{speed.latency_seconds * 1e6:.0f} us, {speed.bytes_per_second / 1e6:.0f} MB/s"
    return Finding("all-reduce", speed.latency_seconds <= LATENCY_SECONDS, found, remedy)


CHECKS: tuple[Callable[[Nodes, Wanted], Finding], ...] = (
    _versions, _hashes, _devices, _interface, _clock, _writable, _shared, _private, _disk, _limits, _port,
)  # fmt: skip
