"""The commands that start and check many ranks: `launch`, `doctor`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from compact_ds.cli.arguments import add_json
from compact_ds.launcher.arguments import add_override_arguments, add_run_arguments


def add_cluster(commands: Any) -> None:
    """Declare `launch` and `doctor`."""
    _add_launch(commands)
    _add_doctor(commands)


def _add_launch(commands: Any) -> None:
    launch = commands.add_parser(
        "launch",
        help="train with several ranks, on this machine or on many",
        description="Train with several ranks, beneath DeepSpeed's launcher or torchrun's agent.",
    )
    add_run_arguments(launch)
    launch.add_argument(
        "--nprocs", type=int, metavar="N", help="ranks of a node; one per accelerator where there are any"
    )
    launch.add_argument(
        "--max-restarts", type=int, default=0, metavar="R", help="start all ranks again so often when one has failed"
    )
    launch.add_argument("--dry-run", action="store_true", help="print the exact command and start nothing")
    _add_hostfile(launch)
    launch.add_argument(
        "--export",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="one more variable for ranks on other nodes",
    )
    apart = launch.add_argument_group("one command on each node, without ssh")
    apart.add_argument("--node-rank", type=int, metavar="I", help="which node this is, from 0")
    apart.add_argument(
        "--num-nodes", type=int, metavar="N", help="how many nodes there are, or how many of the hostfile"
    )
    apart.add_argument("--master-addr", metavar="HOST", help="where ranks meet: node 0 (default: the hostfile's first)")
    apart.add_argument(
        "--master-port", type=int, default=29500, metavar="PORT", help="a free port there (default: 29500)"
    )
    apart.add_argument(
        "--local-addr", metavar="HOST", help="where the others reach this node (default: towards node 0)"
    )
    slurm = launch.add_argument_group("a Slurm job of --num-nodes nodes with --nprocs ranks each")
    slurm.add_argument("--slurm", action="store_true", help="write the batch script RUN_DIR/launch.sbatch")
    slurm.add_argument("--submit", action="store_true", help="and hand it to sbatch")
    slurm.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="--NAME=VALUE",
        help="one more option of the job, as --sbatch=--time=8:00:00",
    )
    launch.set_defaults(run=_launch)


def _add_doctor(commands: Any) -> None:
    doctor = commands.add_parser("doctor", help="check nodes, network, folders and versions before a long run")
    doctor.add_argument("config", nargs="?", metavar="CONFIG", help="the run that is meant")
    add_override_arguments(doctor)
    doctor.add_argument("--nprocs", type=int, metavar="N", help="ranks of a node")
    _add_hostfile(doctor)
    doctor.add_argument("--master-addr", metavar="HOST", help="where ranks meet (default: the hostfile's first)")
    doctor.add_argument(
        "--master-port", type=int, default=29500, metavar="PORT", help="the port there (default: 29500)"
    )
    add_json(doctor)
    doctor.set_defaults(run=_doctor)


def _add_hostfile(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("nodes by hostfile, over ssh")
    group.add_argument("--hostfile", type=Path, metavar="FILE", help="lines HOST slots=N, as for deepspeed")
    group.add_argument("--include", metavar="A@B:0,1", help="only these hosts, or these slots of them")
    group.add_argument("--exclude", metavar="A@B:0,1", help="all but these")


def _slurm(arguments: argparse.Namespace) -> int:
    from compact_ds.launcher import slurm
    from compact_ds.launcher.launch import slurm_job

    run = (
        arguments.config,
        arguments.overrides,
        arguments.num_nodes or 1,
        arguments.nprocs or 1,
        arguments.master_port,
    )
    job = slurm_job(*run, arguments.max_restarts, arguments.trust, tuple(arguments.sbatch))
    if arguments.dry_run:
        print(slurm.script(job), end="")
        return 0
    file = slurm.write(job)
    print(slurm.submit(file) if arguments.submit else f"{file}; hand it in with: sbatch {file}")
    return 0


def _launch(arguments: argparse.Namespace) -> int:
    if arguments.slurm or arguments.submit:
        return _slurm(arguments)
    from compact_ds.launcher.launch import launch
    from compact_ds.launcher.nodes import Cluster

    several = arguments.hostfile is not None or arguments.node_rank is not None or arguments.num_nodes is not None
    places = ("hostfile", "include", "exclude", "num_nodes", "node_rank", "master_addr", "master_port", "local_addr")
    given = {name: getattr(arguments, name) for name in places}
    cluster = Cluster(**given, exported=tuple(arguments.export)) if several else None
    run = (arguments.config, arguments.overrides, arguments.nprocs, arguments.resume, arguments.trust)
    return launch(
        *run, cluster=cluster, max_restarts=arguments.max_restarts, dry_run=arguments.dry_run, quiet=arguments.quiet
    )


def _doctor(arguments: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from compact_ds.launcher.doctor.report import examine_nodes
    from compact_ds.launcher.nodes import Cluster

    cluster = None
    if arguments.hostfile is not None:
        places = ("hostfile", "include", "exclude", "master_addr", "master_port")
        cluster = Cluster(**{name: getattr(arguments, name) for name in places})
    findings = examine_nodes(arguments.config, arguments.overrides, cluster, arguments.nprocs)
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            line = f"{'ok    ' if finding.ok else 'FAILED'} {finding.check}: {finding.found}"
            print(line if finding.ok else f"{line}; {finding.remedy}")
    return 0 if all(finding.ok for finding in findings) else 1
