"""The commands about speed: `kernels check` and what is under `bench`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from compact_ds.cli.arguments import add_json, names, numbers
from compact_ds.launcher.arguments import add_config_arguments


def add_bench(commands: Any) -> None:
    """Declare `kernels` and `bench`, with what is under them."""
    _add_kernels(commands)
    _add_bench(commands)


def _add_kernels(commands: Any) -> None:
    kernels = commands.add_parser("kernels", help="what the compiler makes of the kernels").add_subparsers(
        metavar="COMMAND", required=True
    )
    check = kernels.add_parser("check", help="compile every shipped configuration for GPUs that need not be here")
    check.add_argument(
        "--targets", type=names, metavar="A,B", help="sm_80, sm_90, sm_100, gfx942 (default: all of them)"
    )
    check.add_argument("--jobs", type=int, default=2, metavar="J", help="compilations at a time (default: 2)")
    check.add_argument("--peers", action="store_true", help="other projects' kernels too, where they are installed")
    check.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there as well")
    add_json(check)
    check.set_defaults(run=_kernels_check)


def _add_bench(commands: Any) -> None:
    bench = commands.add_parser("bench", help="time, memory and error of parts of a step").add_subparsers(
        metavar="COMMAND", required=True
    )
    kernels = bench.add_parser("kernels", help="the head's primitive beside other implementations of it")
    kernels.add_argument(
        "--shapes", type=names, metavar="A,B", help="models, or VOCABULARYxHIDDEN (default: what suits the device)"
    )
    kernels.add_argument("--rows", type=numbers, metavar="N,M", help="row counts (default: 512; GPU: 4096,8192,32768)")
    kernels.add_argument("--providers", type=names, metavar="A,B", help="implementations (default: all that run here)")
    kernels.add_argument("--distributions", type=names, metavar="A,B", help="random, peaked (default: both)")
    kernels.add_argument("--dtype", metavar="TYPE", help="bf16, fp16, fp32 (default: fp32; GPU: bf16)")
    kernels.add_argument("--device", choices=("cpu", "cuda"), help="where to run (default: a GPU if there is one)")
    kernels.add_argument(
        "--grad-fraction", type=float, default=1.0, metavar="F", help="share of rows with a gradient (default: 1)"
    )
    kernels.add_argument("--softcap", type=float, metavar="C", help="logits become C tanh(logits / C)")
    kernels.add_argument("--slots", type=int, default=1, metavar="K", help="targets of a row (default: 1)")
    kernels.add_argument("--repeats", type=int, metavar="R", help="timed runs of each (default: 5; GPU: 30)")
    kernels.add_argument("--output", type=Path, metavar="DIR", help="folder (default: runs/bench-kernels-DEVICE)")
    kernels.add_argument("--quick", action="store_true", help="fewer, smaller inputs")
    kernels.add_argument("--no-plot", action="store_true", help="no results.png, and no need of matplotlib")
    add_json(kernels)
    kernels.set_defaults(run=_bench_kernels)
    _add_step(bench)


def _add_step(bench: Any) -> None:
    step = bench.add_parser("step", help="one optimizer step taken apart, and beside other ways to train")
    add_config_arguments(step)
    step.add_argument(
        "--against", type=names, metavar="A,B", help="plain, uniform, naive, trl (default: all; '' for none)"
    )
    step.add_argument("--repeats", type=int, default=5, metavar="R", help="timed laps (default: 5)")
    step.add_argument(
        "--peak-tflops", type=float, metavar="T", help="the device's peak (default: measured by a product)"
    )
    step.add_argument("--trace", action="store_true", help="write a torch profiler trace of one more lap")
    step.add_argument("--output", type=Path, metavar="DIR", help="folder (default: runs/bench-step)")
    step.add_argument("--no-plot", action="store_true", help="no results.png, and no need of matplotlib")
    add_json(step)
    step.set_defaults(run=_bench_step)


def _kernels_check(arguments: argparse.Namespace) -> int:
    from compact_ds.kernels import check

    return check.run(
        arguments.targets, arguments.jobs, arguments.markdown, with_peers=arguments.peers, prints_json=arguments.json
    )


def _bench_kernels(arguments: argparse.Namespace) -> int:
    from compact_ds.kernels import bench

    return bench.run(
        bench.Options(
            arguments.shapes, arguments.rows, arguments.providers, arguments.distributions, arguments.dtype,
            arguments.device, arguments.grad_fraction, arguments.softcap, arguments.slots, arguments.repeats,
            arguments.output, arguments.quick, draws=not arguments.no_plot, prints_json=arguments.json,
        )
    )  # fmt: skip


def _bench_step(arguments: argparse.Namespace) -> int:
    from compact_ds.bench import step

    return step.run(
        step.Options(
            arguments.config, arguments.overrides, arguments.against, arguments.repeats, arguments.peak_tflops,
            arguments.trace, arguments.output, draws=not arguments.no_plot, prints_json=arguments.json,
        )
    )  # fmt: skip
