"""A run on several nodes: over a hostfile, all from here, or with one command on each node and no ssh.

Owns which nodes take part, where their ranks meet, and whether they can be reached. Words are `commands`'.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compact_ds.errors import UserError
from compact_ds.launcher.commands import Command, Task, World, on_node, over_pdsh, pdsh_environment
from compact_ds.launcher.exports import exports
from compact_ds.launcher.hostfile import Slots, choose, read_hostfile

PORT = 29500
ANSWER_SECONDS = 30
"""After so long a node that is only asked something is gone."""


@dataclass(frozen=True)
class Cluster:
    """What the user says of the nodes. `hostfile`: start all from here. `node_rank`: this is one of `num_nodes`."""

    hostfile: Path | None = None
    include: str | None = None
    exclude: str | None = None
    num_nodes: int | None = None
    node_rank: int | None = None
    master_addr: str | None = None
    master_port: int = PORT
    local_addr: str | None = None
    exported: Sequence[str] = ()


def slots_of(cluster: Cluster, nprocs: int | None = None) -> Slots:
    """The slots that take part: of the hostfile, by --include or --exclude, the first --num-nodes, `nprocs` on each.

    Raises UserError.
    """
    assert cluster.hostfile is not None
    slots = choose(read_hostfile(cluster.hostfile), cluster.include, cluster.exclude)
    if cluster.num_nodes is not None:
        if not 1 <= cluster.num_nodes <= len(slots):
            raise UserError("--num-nodes", cluster.num_nodes, f"1 to {len(slots)}, the hosts there are", "give fewer")
        slots = dict(list(slots.items())[: cluster.num_nodes])
    if nprocs is not None:
        few = next((host for host, of_host in slots.items() if len(of_host) < nprocs), None)
        if few is not None:
            remedy = f"give --nprocs {len(slots[few])} or leave {few} out with --exclude"
            raise UserError("--nprocs", nprocs, f"at most the {len(slots[few])} slots of {few}", remedy)
        slots = {host: of_host[:nprocs] for host, of_host in slots.items()}
    return slots


def over_hostfile(task: Task, cluster: Cluster, nprocs: int | None) -> tuple[Command, int]:
    """The pdsh command that starts every node, and the number of ranks. Raises UserError."""
    slots = slots_of(cluster, nprocs)
    if task.max_restarts and len({len(of_host) for of_host in slots.values()}) > 1:
        found = ", ".join(f"{host} has {len(of_host)}" for host, of_host in slots.items())
        raise UserError("--max-restarts", found, "as many slots on every node", "give --nprocs, or no --max-restarts")
    devices = {host: [str(slot) for slot in of_host] for host, of_host in slots.items()}
    world = World(devices, cluster.master_addr or next(iter(slots)).rpartition("@")[2], cluster.master_port)
    words = over_pdsh(task, world, str(Path.cwd()), exports(os.environ, cluster.exported))
    return Command(words, pdsh_environment(os.environ, task.timeout_seconds)), world.size


def one_of_several(task: Task, cluster: Cluster, devices: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """This node's own command, and the number of ranks over all nodes, each with as many as this one. Raises UserError."""
    count, rank, master = cluster.num_nodes, cluster.node_rank, cluster.master_addr
    if count is None or count < 1:
        raise UserError(
            "--num-nodes", count, "the number of nodes", "give it beside --node-rank, the same on all nodes"
        )
    if rank is None or not 0 <= rank < count:
        remedy = "give every node another one, or name all of them with --hostfile"
        raise UserError("--node-rank", rank, f"0 to {count - 1}", remedy)
    if master is None:
        remedy = "give it beside --node-rank, the same on all nodes"
        raise UserError("--master-addr", "nothing", "the address of node 0", remedy)
    world = World({f"node-{i}": list(devices) for i in range(count)}, master, cluster.master_port)
    local_addr = cluster.local_addr or (master if rank == 0 else address_towards(master))
    return on_node(task, world, str(rank), local_addr), world.size


def address_towards(host: str) -> str:
    """The address of this machine from which packets to `host` leave. Raises UserError when the name is unknown."""
    import socket

    try:
        family, *_, place = socket.getaddrinfo(host, PORT, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:  # connecting it sends nothing
            probe.connect(place)
            return str(probe.getsockname()[0])
    except OSError as error:
        remedy = "give the address under which the nodes reach node 0"
        raise UserError("--master-addr", f"{host} ({error})", "a known host with a route to it", remedy) from None


def check_reachable(cluster: Cluster) -> None:
    """One ssh to every host that takes part, all at once. Raises UserError with what ssh says of the first that fails."""
    if shutil.which("pdsh") is None:
        remedy = "install it (Debian: apt install pdsh), or start every node by itself with --node-rank"
        raise UserError("--hostfile", "no pdsh on this machine", "pdsh, which starts the nodes", remedy)
    hosts = list(slots_of(cluster))
    started = {host: ssh(host, "true", os.environ) for host in hosts}
    for host, process in started.items():
        _, err = process.communicate()
        if process.returncode:
            said = ([line for line in err.strip().splitlines() if line.strip()] or ["no message"])[-1].strip()
            remedy = f"make `ssh {host} true` work without a question; compact-ds doctor --hostfile tells more"
            if "key verification" in err or "IDENTIFICATION HAS CHANGED" in err:
                remedy = f"compare its host key with the owner's, then add it to known_hosts: ssh-keyscan {host}"
            raise UserError(f"host {host}", f"ssh: {said}", "a login by key to a known host", remedy)


def ssh(host: str, line: str, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start a shell line on a host, with the options that pdsh gets too."""
    options = shlex.split(pdsh_environment(environment, ANSWER_SECONDS)["PDSH_SSH_ARGS_APPEND"])
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(["ssh", *options, host, line], text=True, **pipes)  # type: ignore[call-overload,no-any-return]
