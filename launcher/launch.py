"""One training run, on this machine or on several, from what is checked before any rank starts to how its end is judged.

Owns the order of things. Words of commands are `commands`', processes `supervise`'s, who is where `nodes`'.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compact_ds.config import load
from compact_ds.errors import ERROR_PREFIX, FAULT_EXIT_CODE, ConfigError, UserError
from compact_ds.launcher import end, heartbeat, nodes, ranks, slurm
from compact_ds.launcher.commands import Command, Task
from compact_ds.launcher.devices import local_devices
from compact_ds.launcher.nodes import Cluster
from compact_ds.launcher.run_folder import check_run_dir
from compact_ds.launcher.supervise import Ask, Outcome, ask_children, supervise
from compact_ds.sections import Config

ABORTED = 250
"""SIGABRT (6) as DeepSpeed's launcher reports it: 256 - 6."""

TRAIN = "compact_ds.train"


@dataclass(frozen=True)
class Start:
    """How a run would be started: the command, what asks its ranks to stop, and how many they are."""

    command: Command
    ask: Ask
    num_ranks: int


def launch(
    config: str | Path, overrides: Sequence[str], nprocs: int | None, resume: bool = False, trust: bool = False,
    cluster: Cluster | None = None, max_restarts: int = 0, dry_run: bool = False, quiet: bool = False,
) -> int:  # fmt: skip
    """Train `config` under `overrides` and return the exit code. `nprocs` are the ranks of this machine, 1 by default.

    2 when a rank met an error that its user can mend, 3 when something gave way under it; that line was printed once.
    `dry_run` prints the command and starts nothing. Raises ConfigError and UserError for what can be seen without
    starting a rank.
    """
    checked = load(config, list(overrides))
    if max_restarts:
        # An agent of torchrun counts its own node's failures alone: a rank cannot tell a second start from the first.
        check_run_dir(checked.run_dir, resume)
        resume = True
    # The name is in every process's command line: whoever ends a run by that ends no other.
    name = uuid.uuid4().hex[:12]
    switches = [word for word, is_on in (("--resume", resume), ("--trust", trust), ("--quiet", quiet)) if is_on]
    words = [str(config), *overrides, f"--launch-id={name}", *switches]
    task = Task(TRAIN, words, max_restarts, checked.engine.timeout_seconds)
    start = _plan(task, cluster, nprocs, checked)
    check_world_size(checked.data.batch_size, start.num_ranks)
    if checked.mixer.retain is not None:
        check_world_size(checked.mixer.retain.batch_size, start.num_ranks, "mixer.retain.batch_size")
    if dry_run:
        print(start.command)
        return 0
    return _run(start, checked, cluster)


def slurm_job(
    config: str, overrides: Sequence[str], num_nodes: int, nprocs: int, port: int, max_restarts: int, trust: bool,
    options: Sequence[str],
) -> slurm.Job:  # fmt: skip
    """The same run as a batch job, each node with `nprocs` GPUs, or cores where DS_ACCELERATOR is `cpu`. Raises as `launch`."""
    checked = load(config, list(overrides))
    if num_nodes < 1:
        raise UserError("--num-nodes", num_nodes, "1 or more", "give the number of nodes")
    _check_nprocs(nprocs)
    check_world_size(checked.data.batch_size, num_nodes * nprocs)
    gpus = os.environ.get("DS_ACCELERATOR") != "cpu"
    shape = (num_nodes, nprocs, port, gpus, max_restarts, trust)
    return slurm.Job(config, overrides, checked.run_dir, *shape, options)


def launch_module(module: str, arguments: Sequence[str], nprocs: int) -> int:
    """Run a module of ours with `nprocs` ranks on this machine and return the exit code. Raises UserError."""
    _check_nprocs(nprocs)
    devices = local_devices(nprocs)
    return ranks.run_ranks(Task(module, arguments), devices or [str(i) for i in range(nprocs)], devices is None).code


def check_world_size(batch_size: int, nprocs: int, key: str = "data.batch_size") -> None:
    """Refuse a number of ranks that cannot share a step's questions out evenly. Raises ConfigError."""
    _check_nprocs(nprocs)
    if batch_size % nprocs:
        expected = f"a multiple of the world size {nprocs}"
        fitting = max(n for n in range(1, nprocs) if batch_size % n == 0)
        remedy = f"set {key}={-(-batch_size // nprocs) * nprocs} or --nprocs {fitting}"
        raise ConfigError(key, batch_size, expected, remedy)


def _check_nprocs(nprocs: int) -> None:
    if nprocs < 1:
        raise UserError("--nprocs", nprocs, "1 or more", "give the number of ranks to start")


def _plan(task: Task, cluster: Cluster | None, nprocs: int | None, config: Config) -> Start:
    if cluster is not None and cluster.hostfile is not None:
        command, num_ranks = nodes.over_hostfile(task, cluster, nprocs)
        return Start(command, _ask_by_file(config.run_dir), num_ranks)
    here = 1 if nprocs is None else nprocs
    _check_nprocs(here)
    check_world_size(config.data.batch_size, here)
    devices = local_devices(here)
    named = devices or [str(rank) for rank in range(here)]
    added = ranks.added(here, devices is None)
    if devices and task.max_restarts:
        added["CUDA_VISIBLE_DEVICES"] = ",".join(
            devices
        )  # torchrun's agent picks no devices, DeepSpeed's launcher does
    if cluster is not None:
        words, num_ranks = nodes.one_of_several(task, cluster, named)
        return Start(Command(words, added), ask_children, num_ranks)
    return Start(Command(ranks.local_command(task, named), added), ask_children, here)


def _ask_by_file(run_dir: Path) -> Ask:
    """A request that ranks on every node see, in the folder that all of them write."""

    def ask(launcher: object) -> bool:
        folder = run_dir / heartbeat.FOLDER
        if not folder.is_dir():
            return False
        (folder / heartbeat.STOP).touch()
        return True

    return ask


def _run(start: Start, config: Config, cluster: Cluster | None) -> int:
    if cluster is not None and cluster.hostfile is not None:
        nodes.check_reachable(cluster)
    summary, began = config.run_dir / "summary.json", time.time()
    (config.run_dir / heartbeat.FOLDER / heartbeat.STOP).unlink(missing_ok=True)
    written_before = _written(summary)
    outcome = supervised(start)
    (config.run_dir / heartbeat.FOLDER / heartbeat.STOP).unlink(missing_ok=True)
    if outcome.code == ABORTED and _written(summary) not in (None, written_before):
        # gloo's threads abort about one finished process in fifty while it exits; the run itself was complete.
        sys.stderr.write(
            f"compact-ds: a rank aborted on its way out, after {summary} was written; the run is complete\n"
        )
        return 0
    if outcome.code and not outcome.named_an_error:
        error = end.cause(outcome.code, heartbeat.read(config.run_dir / heartbeat.FOLDER, after=began), config.run_dir)
        if error is not None:
            sys.stderr.write(f"{ERROR_PREFIX}{error}\n")
    return FAULT_EXIT_CODE if outcome.code == end.SSH_FAILED else outcome.code


def supervised(start: Start) -> Outcome:
    """Start it and wait for its end."""
    return supervise(start.command.words, {**os.environ, **start.command.environment}, start.ask)


def _written(file: Path) -> int | None:
    """When the file was last written, in nanoseconds; None when it does not exist."""
    return file.stat().st_mtime_ns if file.is_file() else None
