"""The command `score`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from compact_ds.cli.arguments import add_json, print_figures
from compact_ds.launcher.arguments import add_override_arguments


def add_score(commands: Any) -> None:
    """Declare `score`."""
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
    add_json(score)
    score.set_defaults(run=_score)


def _score(arguments: argparse.Namespace) -> int:
    from compact_ds import score
    from compact_ds.scoring import output

    output.check_ending(arguments.output)
    if arguments.nprocs > 1:
        from compact_ds.launcher.launch import launch_module

        named = {"--student": arguments.student, "--config": arguments.config, "--output": arguments.output}
        words = [word for name, value in named.items() if value is not None for word in (name, str(value))]
        words += [
            "--top",
            str(arguments.top),
            *(["--json"] if arguments.json else []),
            *(["--quiet"] if arguments.quiet else []),
        ]
        return launch_module("compact_ds.score", [arguments.data, *words, *arguments.overrides], arguments.nprocs)
    given = (arguments.data, arguments.student, arguments.output, arguments.config, arguments.overrides)
    result = score.run(*given, num_shown=arguments.top)
    if result is None:
        return 0
    ends = None if arguments.json else result.pop("top", None)
    print_figures(result, arguments.json)
    if ends is not None:
        print(output.shown(ends))
    return 0
