"""The commands that train: `train`, `compare`."""

from __future__ import annotations

import argparse
from typing import Any

from compact_ds.cli.arguments import add_json
from compact_ds.launcher.arguments import add_config_arguments, add_run_arguments


def add_train(commands: Any) -> None:
    """Declare `train` and `compare`."""
    train = commands.add_parser("train", help="train in this process, or as one rank under a launcher")
    add_run_arguments(train)
    # The `deepspeed` launcher puts it first unless it is told not to; the environment says the same.
    train.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    # Names the start of a run in the list of processes, and nothing else.
    train.add_argument("--launch-id", help=argparse.SUPPRESS)
    train.set_defaults(run=_train)

    compare = commands.add_parser("compare", help="train by several methods and seeds, and print a table")
    add_config_arguments(compare)
    compare.add_argument(
        "--methods",
        metavar="A,B",
        help="methods; `single` stands for every teacher alone, METHOD+SOLVER for gradient mode (default: the usual ones)",
    )
    compare.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each method (default: 3)")
    compare.add_argument("--nprocs", type=int, default=1, metavar="N", help="ranks of each run (default: 1)")
    compare.add_argument("--jobs", type=int, metavar="J", help="runs at a time (default: cores / nprocs)")
    add_json(compare)
    compare.set_defaults(run=_compare)


def _train(arguments: argparse.Namespace) -> int:
    from compact_ds.config import load

    config = load(arguments.config, arguments.overrides)
    from compact_ds import train  # after the config: a wrong key is told at once, not after torch was imported

    return train.main(config, arguments.resume, arguments.trust)


def _compare(arguments: argparse.Namespace) -> int:
    from compact_ds import compare

    methods = arguments.methods.split(",") if arguments.methods else None
    plan = compare.Plan(
        arguments.config, arguments.overrides, methods, arguments.seeds, arguments.nprocs, arguments.jobs,
        arguments.quiet,
    )  # fmt: skip
    return compare.run(plan, as_json=arguments.json)
