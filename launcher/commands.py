"""The exact commands that start ranks: DeepSpeed's launcher or torchrun's agent, here, on one node of several, or over pdsh.

Owns words and quoting; starts nothing. Every command ends in a name of its own, so that who looks for one run in a
process list, or ends it by its command line, finds that run alone.
"""

from __future__ import annotations

import base64
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SSH_OPTIONS = ("BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=15")
"""Nobody is asked for a password, and a host whose key is not known is refused."""

KEEP_ALIVE_SECONDS = 15
"""How often ssh asks a silent node for a sign of life, at most."""

PDSH_FAN_OUT = 1024

BACKEND = "compact-ds"
"""What torchrun's agent calls our way to meet, which is `meeting`'s."""


@dataclass(frozen=True)
class World:
    """Device ids of each node's ranks, by node and in rank order, and where all of them meet."""

    devices: Mapping[str, Sequence[str]]
    master_addr: str
    master_port: int

    @property
    def size(self) -> int:
        """Number of ranks."""
        return sum(map(len, self.devices.values()))


@dataclass(frozen=True)
class Task:
    """What every rank runs: `python -m module arguments`. With `max_restarts`, all ranks start again when one has failed.

    `timeout_seconds`: how long nodes wait for one another to start, or start again, together.
    """

    module: str
    arguments: Sequence[str]
    max_restarts: int = 0
    timeout_seconds: int = 600


@dataclass(frozen=True)
class Command:
    """Words to run, and what the environment holds beside this process's own."""

    words: tuple[str, ...]
    environment: Mapping[str, str]

    def __str__(self) -> str:
        """One line for a shell."""
        return " ".join(
            [*(f"{name}={shlex.quote(value)}" for name, value in self.environment.items()), shlex.join(self.words)]
        )


def on_node(task: Task, world: World, node_rank: str, local_addr: str) -> tuple[str, ...]:
    """The command of one node, beneath which its ranks run: DeepSpeed's launcher, or torchrun's agent when it may restart.

    `node_rank` counts nodes in the world's order. `local_addr`: where the other nodes reach this one.
    """
    python = (sys.executable, "-u", "-m")
    if not task.max_restarts:
        info = base64.urlsafe_b64encode(json.dumps({n: list(d) for n, d in world.devices.items()}).encode()).decode()
        place = (f"--world_info={info}", f"--node_rank={node_rank}", f"--master_addr={world.master_addr}")
        manner = (f"--master_port={world.master_port}", "--module", "--no_local_rank", "--log_level=critical")
        return (*python, "deepspeed.launcher.launch", *place, *manner, task.module, *task.arguments)
    sizes = {len(devices) for devices in world.devices.values()}
    assert len(sizes) == 1, "torchrun's agent starts the same number of ranks on every node"
    shape = (f"--nnodes={len(world.devices)}", f"--nproc_per_node={sizes.pop()}", f"--max_restarts={task.max_restarts}")
    meeting = (
        f"--rdzv_backend={BACKEND}",
        f"--rdzv_endpoint={world.master_addr}:{world.master_port}",
        "--rdzv_id=compact-ds",
        f"--rdzv_conf=join_timeout={task.timeout_seconds},read_timeout={task.timeout_seconds}",
    )
    own = (f"--node_rank={node_rank}", f"--local_addr={local_addr}")
    return (*python, "compact_ds.launcher.elastic_agent", *shape, *meeting, *own, "-m", task.module, *task.arguments)


def over_pdsh(task: Task, world: World, folder: str, exported: Mapping[str, str]) -> tuple[str, ...]:
    """One command that starts every node's over ssh, in `folder`, which all of them see, with `exported` in its environment."""
    # pdsh puts the node's number and name in place of %n and %h; both are words of ours, never of the user's.
    number, name = "NODE-NUMBER", "NODE-NAME"
    words = shlex.join(on_node(task, world, number, name)).replace("%", "%%")
    there = words.replace(number, "%n").replace(name, "%h")
    settings = "".join(f"{key}={shlex.quote(value)} ".replace("%", "%%") for key, value in exported.items())
    line = f"cd {shlex.quote(folder).replace('%', '%%')} && {settings}{_shares(task, world, exported)}exec {there}"
    return ("pdsh", "-S", "-N", "-R", "ssh", "-f", str(PDSH_FAN_OUT), "-w", ",".join(world.devices), line)


def _shares(task: Task, world: World, exported: Mapping[str, str]) -> str:
    """What each node's ranks get of it, as settings of its shell: an even share of the cores, and the devices of its slots."""
    shares = ""
    if "OMP_NUM_THREADS" not in exported:
        # The cores are counted there, and what the node itself has set holds.
        slots = _of_node([str(len(devices)) for devices in world.devices.values()])
        share = f"cores=$(nproc); slots={slots}; echo $(($cores > $slots ? $cores / $slots : 1))"
        shares += f'OMP_NUM_THREADS="${{OMP_NUM_THREADS:-$({share})}}" '
    if task.max_restarts:
        # torchrun's agent picks no devices, DeepSpeed's launcher does.
        shares += f"CUDA_VISIBLE_DEVICES={_of_node([','.join(devices) for devices in world.devices.values()])} "
    return shares


def _of_node(values: Sequence[str]) -> str:
    """The value of the node that reads the line, for its shell; `values` have no spaces."""
    if len(set(values)) == 1:
        return values[0]
    return f"$(set -- {' '.join(values)}; shift %n; echo $1)"


def ssh_options(timeout_seconds: int) -> str:
    """Options of ssh, in words. A node that is gone is noticed within `timeout_seconds`, and no earlier than half of them.

    Any earlier, ssh would end a run whose ranks still wait for the network to come back.
    """
    interval = max(1, min(KEEP_ALIVE_SECONDS, timeout_seconds // 4))
    alive = (f"ServerAliveInterval={interval}", f"ServerAliveCountMax={max(1, timeout_seconds // interval - 1)}")
    return " ".join(f"-o {option}" for option in (*SSH_OPTIONS, *alive))


def pdsh_environment(environment: Mapping[str, str], timeout_seconds: int) -> dict[str, str]:
    """What pdsh's own environment needs: ssh's options, before those the user gave, so that ours hold."""
    given = environment.get("PDSH_SSH_ARGS_APPEND", "")
    return {"PDSH_SSH_ARGS_APPEND": f"{ssh_options(timeout_seconds)} {given}".strip()}
