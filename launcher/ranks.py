"""N processes of one module on this machine, from start to the last one gone.

Owns their port, their environment and how they are started. Knows nothing of training: `launch` says which module to run
and judges the outcome; signals and exit codes are `supervise`'s.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Sequence

from compact_ds.launcher.commands import Task, World, on_node
from compact_ds.launcher.supervise import GRACE_SECONDS, Outcome, ask_children, supervise

LOOPBACK = "127.0.0.1"


def run_ranks(task: Task, devices: Sequence[str], on_cpu: bool, grace_seconds: float = GRACE_SECONDS) -> Outcome:
    """Run a task once per device. The code is that of the first rank that failed, a signal n as 256 - n, and 0 when none did."""
    return supervise(local_command(task, devices), environment(len(devices), on_cpu), ask_children, grace_seconds)


def local_command(task: Task, devices: Sequence[str]) -> tuple[str, ...]:
    """The command for this machine alone, at a port that is free now."""
    # `deepspeed` itself would first look for a hostfile and then start this same module.
    return on_node(task, World({"localhost": devices}, LOOPBACK, free_port()), "0", LOOPBACK)


def environment(num_ranks: int, on_cpu: bool) -> dict[str, str]:
    """The environment of the ranks: this one, and what is added to it."""
    return {**os.environ, **added(num_ranks, on_cpu)}


def added(num_ranks: int, on_cpu: bool) -> dict[str, str]:
    """Threads that share the cores out, and DeepSpeed's accelerator named, where the caller has not said so already."""
    wanted = {"OMP_NUM_THREADS": str(max(1, num_cores() // num_ranks))}
    if on_cpu:
        wanted["DS_ACCELERATOR"] = "cpu"
    if sys.stderr.isatty():  # the ranks' own stderr is a pipe, which has no width for a progress bar
        wanted["COLUMNS"] = str(shutil.get_terminal_size().columns)
    return {name: value for name, value in wanted.items() if name not in os.environ}


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_port() -> int:
    """A TCP port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port
