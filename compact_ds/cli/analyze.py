"""The command `analyze`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from compact_ds.cli.arguments import add_json, count, positive


def add_analyze(commands: Any) -> None:
    """Declare `analyze`."""
    analyze = commands.add_parser("analyze", help="a student before and after: hidden states and weights")
    analyze.add_argument("before", metavar="BEFORE", help="a student, as student.model")
    analyze.add_argument("after", metavar="AFTER", help="the same student later, such as RUN/final")
    analyze.add_argument("--data", required=True, metavar="FILE", help="questions of what was trained, as data.train")
    analyze.add_argument(
        "--other", action="append", default=[], metavar="FILE", help="questions of something else; may be repeated"
    )
    analyze.add_argument("--split", default="test", help="split of a datasets path or id (default: test)")
    analyze.add_argument("--output", type=Path, metavar="DIR", help="folder for latent.json, pictures and tensorboard/")
    analyze.add_argument("--no-plot", action="store_true", help="no pictures, and no need of matplotlib")
    analyze.add_argument(
        "--limit", type=positive, default=100, metavar="N", help="questions of each file (default: 100)"
    )
    analyze.add_argument("--batch-size", type=positive, default=16, metavar="B", help="prompts at a time (default: 16)")
    analyze.add_argument(
        "--max-tokens", type=positive, default=1024, metavar="N", help="cut longer prompts (default: 1024)"
    )
    analyze.add_argument("--top", type=positive, default=10, metavar="K", help="leading directions (default: 10)")
    analyze.add_argument("--layer", type=int, metavar="L", help="whose states are drawn (default: the middle one)")
    analyze.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="of both models (default: fp32)")
    analyze.add_argument("--seed", type=count, default=0, metavar="S", help="of the tokens drawn (default: 0)")
    add_json(analyze)
    analyze.set_defaults(run=_analyze)


def _analyze(arguments: argparse.Namespace) -> int:
    import json

    from compact_ds.evaluation import analysis, analysis_text

    asked = analysis.Analysis(
        arguments.before, arguments.after, arguments.data, arguments.other, arguments.limit, arguments.batch_size,
        arguments.max_tokens, arguments.top, arguments.layer, arguments.precision, arguments.seed, arguments.split,
    )  # fmt: skip
    figures = analysis.run(asked, arguments.output, draws=not arguments.no_plot)
    print(json.dumps(figures) if arguments.json else analysis_text.shown(figures))
    return 0
