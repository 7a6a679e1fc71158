"""The commands that look at a trained student: `eval`."""

from __future__ import annotations

import argparse
from typing import Any

from compact_ds.cli.arguments import add_json, print_figures


def add_evaluate(commands: Any) -> None:
    """Declare `eval`."""
    evaluate = commands.add_parser("eval", help="exact-match accuracy of a model by greedy generation")
    evaluate.add_argument(
        "model", metavar="MODEL", help="a Hugging Face folder such as RUN/final, or whatever student.model takes"
    )
    evaluate.add_argument("--data", required=True, metavar="FILE", help="held-out questions, as data.eval")
    evaluate.add_argument("--limit", type=int, metavar="N", help="only the first N questions")
    evaluate.add_argument("--batch-size", type=int, default=32, metavar="B", help="questions at a time (default: 32)")
    evaluate.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="longest answer (default: 256)")
    add_json(evaluate)
    evaluate.set_defaults(run=_eval)


def _eval(arguments: argparse.Namespace) -> int:
    from compact_ds.evaluation.decoding import Decoding
    from compact_ds.evaluation.generation import evaluate_folder

    decoding = Decoding(arguments.max_new_tokens)
    result = evaluate_folder(arguments.model, arguments.data, arguments.limit, arguments.batch_size, decoding)
    print_figures(result, arguments.json)
    return 0
