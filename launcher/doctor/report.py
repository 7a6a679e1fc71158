"""A doctor's visit from its arguments to its findings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from compact_ds.config import find, load
from compact_ds.errors import UserError
from compact_ds.launcher import nodes, ranks
from compact_ds.launcher.doctor.checks import Finding, Wanted, examine
from compact_ds.launcher.doctor.visit import all_reduce, visit
from compact_ds.launcher.nodes import Cluster
from compact_ds.sections import Config

BYTES_PER_PARAMETER = 12
"""fp32 weights and both moments."""


def examine_nodes(
    config: str | None, overrides: Sequence[str], cluster: Cluster | None, nprocs: int | None
) -> list[Finding]:
    """All findings for a run of `config` on those nodes, or on this machine with `nprocs` ranks. Raises UserError."""
    checked = load(config, list(overrides)) if config else None
    run_dir = (checked.run_dir if checked else Path("runs")).absolute()
    if nprocs is not None and nprocs < 1:
        raise UserError("--nprocs", nprocs, "1 or more", "give the number of ranks")
    hosts = {host: len(slots) for host, slots in nodes.slots_of(cluster, nprocs).items()} if cluster else None
    names = list(hosts) if hosts else None
    port = cluster.master_port if cluster else ranks.free_port()  # as a run on one machine takes one
    master = (cluster.master_addr if cluster else None) or (names[0].rpartition("@")[2] if names else "127.0.0.1")
    found = visit(names, run_dir, master, port, files_of(config, checked))
    uses_devices = os.environ.get("DS_ACCELERATOR") != "cpu" and any(facts.devices for facts in found.facts.values())
    room = BYTES_PER_PARAMETER * parameters_of(checked) * (checked.checkpoint_keep + 1) if checked else 0
    wanted = Wanted(hosts or {"localhost": nprocs or 1}, room, port, str(run_dir), uses_devices)
    speed = None if found.unreachable else all_reduce(cluster, nprocs, run_dir)
    return examine(found.facts, found.unreachable, wanted, speed)


def files_of(config: str | None, checked: Config | None) -> list[str]:
    """The files that must be the same everywhere: the config and what it names."""
    if config is None or checked is None:
        return []
    named = [checked.data.train, checked.data.eval, checked.engine.deepspeed]
    return [str(find(config)), *(str(file) for file in named if file is not None and Path(file).is_file())]


def parameters_of(config: Config | None) -> int:
    """Parameters of the student as far as its files or its shape tell; 0 when they do not."""
    if config is None:
        return 0
    shape = config.student.scratch
    if shape is not None:
        layer = 4 * shape.hidden_size**2 + 3 * shape.hidden_size * shape.intermediate_size
        return shape.num_hidden_layers * layer
    folder = Path(config.student.model)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) // 2 if folder.is_dir() else 0
