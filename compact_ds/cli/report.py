"""The command `report`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from compact_ds.cli.arguments import add_json, count


def add_report(commands: Any) -> None:
    """Declare `report`."""
    report = commands.add_parser("report", help="one self-contained HTML page about a run, or several side by side")
    report.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="a run folder")
    report.add_argument("--output", type=Path, metavar="FILE", help="the page (default: report.html in the first RUN)")
    report.add_argument(
        "--examples", type=count, default=100, metavar="N",
        help="questions to score with each run's final/ for the browser of examples; 0 for none (default: 100)",
    )  # fmt: skip
    report.add_argument(
        "--scores", type=Path, action="append", default=[], metavar="FILE",
        help="what `score --output` wrote, instead of scoring; once for each RUN",
    )  # fmt: skip
    add_json(report)
    report.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> int:
    from compact_ds.cli.arguments import print_figures
    from compact_ds.report.page import report

    file = report(arguments.runs, arguments.output, arguments.examples, arguments.scores)
    print_figures({"page": str(file), "bytes": file.stat().st_size}, arguments.json)
    return 0
