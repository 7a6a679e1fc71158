"""The command line: parse, call, print; nothing else.

Every command imports what it needs when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from compact_ds import __version__
from compact_ds.cli_data import add_data
from compact_ds.errors import ERROR_PREFIX, EXIT_CODE, UserError
from compact_ds.launcher.arguments import (
    add_config_arguments,
    add_override_arguments,
    add_run_arguments,
    take_late_overrides,
)

INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are a user's errors like any other: one line, no usage page, no guessed options."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise UserError instead of printing the usage."""
        raise UserError("command line", message, "what the help page says", f"try {self.prog} --help")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 2 with one line on stderr for a UserError."""
    parser = _parser()
    try:
        arguments, rest = parser.parse_known_args(argv)
        rest = take_late_overrides(arguments, rest)
        if rest:
            parser.error(f"unknown argument {rest[0]}")
        command: Callable[[argparse.Namespace], int] = arguments.run
        return command(arguments)
    except UserError as error:
        sys.stderr.write(f"{ERROR_PREFIX}{error}\n")
        return EXIT_CODE
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> Parser:
    parser = Parser(prog="compact-ds", description="Distil several teachers' rationales into one student.")
    parser.add_argument("--version", action="version", version=f"compact-ds {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    train = commands.add_parser("train", help="train in this process, or as one rank under a launcher")
    add_run_arguments(train)
    # The `deepspeed` launcher puts it first unless it is told not to; the environment says the same.
    train.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    train.set_defaults(run=_train)

    launch = commands.add_parser("launch", help="train with several ranks on this machine")
    add_run_arguments(launch)
    launch.add_argument(
        "--nprocs", type=int, default=1, metavar="N", help="ranks; one per accelerator where there are any"
    )
    launch.set_defaults(run=_launch)

    compare = commands.add_parser("compare", help="train by several methods and seeds, and print a table")
    add_config_arguments(compare)
    compare.add_argument(
        "--methods",
        metavar="A,B",
        help="methods; `single` stands for every teacher alone, METHOD+SOLVER for gradient mode (default: all)",
    )
    compare.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each method (default: 3)")
    compare.add_argument("--nprocs", type=int, default=1, metavar="N", help="ranks of each run (default: 1)")
    compare.add_argument("--jobs", type=int, metavar="J", help="runs at a time (default: cores / nprocs)")
    _add_json(compare)
    compare.set_defaults(run=_compare)

    _add_score_and_eval(commands)
    add_data(commands)
    _add_kernels(commands)
    _add_bench(commands)
    return parser


def _add_score_and_eval(commands: Any) -> None:
    score = commands.add_parser("score", help="metrics and weights of every rationale, without training")
    score.add_argument("data", metavar="DATA", help="a source of questions, as data.train")
    score.add_argument("--student", metavar="MODEL", help="a student, as student.model (default: the config's)")
    score.add_argument("--config", metavar="CONFIG", help="settings to score under")
    score.add_argument("--output", type=Path, metavar="FILE", help="one row a rationale, .jsonl or .parquet")
    score.add_argument(
        "--top", type=int, default=0, metavar="N", help="print the N most and least compatible rationales"
    )
    score.add_argument("--nprocs", type=int, default=1, metavar="N", help="ranks on this machine (default: 1)")
    add_override_arguments(score)
    _add_json(score)
    score.set_defaults(run=_score)

    evaluate = commands.add_parser("eval", help="exact-match accuracy of a model by greedy generation")
    evaluate.add_argument(
        "model", metavar="MODEL", help="a Hugging Face folder such as RUN/final, or whatever student.model takes"
    )
    evaluate.add_argument("--data", required=True, metavar="FILE", help="held-out questions, as data.eval")
    evaluate.add_argument("--limit", type=int, metavar="N", help="only the first N questions")
    evaluate.add_argument("--batch-size", type=int, default=32, metavar="B", help="questions at a time (default: 32)")
    evaluate.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="longest answer (default: 256)")
    _add_json(evaluate)
    evaluate.set_defaults(run=_eval)


def _add_kernels(commands: Any) -> None:
    kernels = commands.add_parser("kernels", help="what the compiler makes of the kernels").add_subparsers(
        metavar="COMMAND", required=True
    )
    check = kernels.add_parser("check", help="compile every shipped configuration for GPUs that need not be here")
    check.add_argument(
        "--targets", type=_names, metavar="A,B", help="sm_80, sm_90, sm_100, gfx942 (default: all of them)"
    )
    check.add_argument("--jobs", type=int, default=2, metavar="J", help="compilations at a time (default: 2)")
    check.add_argument("--peers", action="store_true", help="other projects' kernels too, where they are installed")
    check.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there as well")
    _add_json(check)
    check.set_defaults(run=_kernels_check)


def _add_bench(commands: Any) -> None:
    bench = commands.add_parser("bench", help="time, memory and error of parts of a step").add_subparsers(
        metavar="COMMAND", required=True
    )
    kernels = bench.add_parser("kernels", help="the head's primitive beside other implementations of it")
    kernels.add_argument(
        "--shapes", type=_names, metavar="A,B", help="models, or VOCABULARYxHIDDEN (default: what suits the device)"
    )
    kernels.add_argument("--rows", type=_numbers, metavar="N,M", help="row counts (default: 512; GPU: 4096,8192,32768)")
    kernels.add_argument("--providers", type=_names, metavar="A,B", help="implementations (default: all that run here)")
    kernels.add_argument("--distributions", type=_names, metavar="A,B", help="random, peaked (default: both)")
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
    _add_json(kernels)
    kernels.set_defaults(run=_bench_kernels)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in _names(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers with commas between them") from None


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for a program")


def _train(arguments: argparse.Namespace) -> int:
    from compact_ds.config import load

    config = load(arguments.config, arguments.overrides)
    from compact_ds import train  # after the config: a wrong key is told at once, not after torch was imported

    return train.main(config, arguments.resume)


def _launch(arguments: argparse.Namespace) -> int:
    from compact_ds.launcher.launch import launch

    return launch(arguments.config, arguments.overrides, arguments.nprocs, arguments.resume)


def _compare(arguments: argparse.Namespace) -> int:
    from compact_ds import compare

    methods = arguments.methods.split(",") if arguments.methods else None
    plan = compare.Plan(
        arguments.config, arguments.overrides, methods, arguments.seeds, arguments.nprocs, arguments.jobs
    )
    return compare.run(plan, as_json=arguments.json)


def _score(arguments: argparse.Namespace) -> int:
    from compact_ds import score, score_output

    score_output.check_ending(arguments.output)
    if arguments.nprocs > 1:
        from compact_ds.launcher.launch import launch_module

        named = {"--student": arguments.student, "--config": arguments.config, "--output": arguments.output}
        words = [word for name, value in named.items() if value is not None for word in (name, str(value))]
        words += ["--top", str(arguments.top), *(["--json"] if arguments.json else [])]
        return launch_module("compact_ds.score", [arguments.data, *words, *arguments.overrides], arguments.nprocs)
    given = (arguments.data, arguments.student, arguments.output, arguments.config, arguments.overrides)
    result = score.run(*given, num_shown=arguments.top)
    if result is None:
        return 0
    ends = None if arguments.json else result.pop("top", None)
    _print(result, arguments.json)
    if ends is not None:
        print(score_output.shown(ends))
    return 0


def _eval(arguments: argparse.Namespace) -> int:
    from compact_ds.evaluation.generation import evaluate_folder

    result = evaluate_folder(
        arguments.model, arguments.data, arguments.limit, arguments.batch_size, arguments.max_new_tokens
    )
    _print(result, arguments.json)
    return 0


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


def _print(result: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    width = max(map(len, result))
    for name, value in result.items():
        print(f"{name:<{width}}  {value:.4f}" if isinstance(value, float) else f"{name:<{width}}  {value}")


if __name__ == "__main__":
    sys.exit(main())
