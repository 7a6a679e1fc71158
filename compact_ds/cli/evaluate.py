"""The command `eval`, which measures a trained student."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from compact_ds.cli.arguments import add_json, count, names, not_negative, positive, print_figures
from compact_ds.errors import UserError

_FOR_THE_HARNESS = ("model", "lm_eval", "lm_eval_include", "limit", "batch_size", "precision", "json", "run")


def add_evaluate(commands: Any) -> None:
    """Declare `eval`."""
    evaluate = commands.add_parser("eval", help="accuracy of a model on questions, and its perplexity on texts")
    evaluate.add_argument(
        "model", metavar="MODEL", help="a Hugging Face folder such as RUN/final, or whatever student.model takes"
    )
    evaluate.add_argument("--data", metavar="FILE", help="held-out questions, as data.eval")
    evaluate.add_argument("--split", default="test", help="split of a datasets path or id (default: test)")
    evaluate.add_argument("--limit", type=positive, metavar="N", help="only the first N questions")
    evaluate.add_argument(
        "--batch-size", type=positive, default=32, metavar="B", help="questions at a time (default: 32)"
    )
    evaluate.add_argument(
        "--precision", choices=("fp32", "bf16"), help="of the weights (default: what they were saved in)"
    )
    _add_decoding(evaluate)
    evaluate.add_argument(
        "--options",
        choices=("letter", "text"),
        help="score the options that the questions list, by letter or text, instead of generating",
    )
    evaluate.add_argument("--cue", metavar="TEXT", help="before the gold answer, as data.cue (default: that key's)")
    evaluate.add_argument("--rationales", action="store_true", help="also the loss of the file's rationales")
    evaluate.add_argument(
        "--perplexity", action="append", default=[], metavar="FILE", help=".txt, or .jsonl with `text`; may be repeated"
    )
    evaluate.add_argument("--output", type=Path, metavar="FILE", help="write a JSON line for every question")
    evaluate.add_argument(
        "--against", type=Path, metavar="FILE", help="another model's --output: paired tests of the difference"
    )
    evaluate.add_argument("--nprocs", type=positive, default=1, metavar="N", help="ranks on this machine (default: 1)")
    evaluate.add_argument("--lm-eval", metavar="A,B", help="tasks of EleutherAI's harness (extra lm-eval)")
    evaluate.add_argument("--lm-eval-include", type=Path, metavar="DIR", help="a folder of task files besides its own")
    add_json(evaluate)
    evaluate.set_defaults(run=_eval)


def _add_decoding(evaluate: argparse.ArgumentParser) -> None:
    evaluate.add_argument(
        "--max-new-tokens", type=positive, default=256, metavar="N", help="longest text (default: 256)"
    )
    evaluate.add_argument(
        "--samples", type=positive, default=1, metavar="N", help="texts of each question (default: 1)"
    )
    evaluate.add_argument("--temperature", type=not_negative, default=0.0, metavar="T", help="0 is greedy (default)")
    evaluate.add_argument("--seed", type=count, default=0, metavar="S", help="of the samples (default: 0)")
    evaluate.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end a text before this; may be repeated"
    )
    evaluate.add_argument(
        "--past-answer", action="store_true", help="go on after a complete answer sentence, which else ends a text"
    )


def _eval(arguments: argparse.Namespace) -> int:
    if arguments.lm_eval:
        _alone(arguments)
    if arguments.nprocs > 1:
        from compact_ds.launcher.launch import launch_module

        return launch_module("compact_ds.evaluate", _words(arguments), arguments.nprocs)
    if arguments.lm_eval:
        from compact_ds.evaluation.harness import run_tasks

        figures = run_tasks(
            arguments.model, names(arguments.lm_eval), arguments.lm_eval_include, arguments.limit, arguments.batch_size,
            arguments.precision,
        )  # fmt: skip
        print_figures(figures, arguments.json)
        return 0
    from compact_ds import evaluate
    from compact_ds.evaluation.decoding import Decoding

    decoding = Decoding(
        arguments.max_new_tokens, not arguments.past_answer, tuple(arguments.stop), arguments.temperature,
        arguments.samples, arguments.seed,
    )  # fmt: skip
    result = evaluate.run(
        evaluate.Asked(
            arguments.model, arguments.data, decoding, arguments.batch_size, arguments.limit, arguments.options,
            arguments.rationales, arguments.perplexity, arguments.output, arguments.against, arguments.split,
            arguments.cue, arguments.precision,
        )
    )  # fmt: skip
    if result is not None:
        print_figures(result, arguments.json)
    return 0


def _alone(arguments: argparse.Namespace) -> None:
    """Refuse beside --lm-eval what the harness is not told. Raises UserError."""
    parser = argparse.ArgumentParser()
    add_evaluate(parser.add_subparsers())
    plain = vars(parser.parse_args(["eval", arguments.model]))
    given = [
        f"--{name.replace('_', '-')}"
        for name, value in vars(arguments).items()
        if name not in _FOR_THE_HARNESS and name in plain and value != plain[name]
    ]
    if given:
        raise UserError("--lm-eval", f"{', '.join(given)} beside it", "a command of its own", "run two, one for each")


def _words(arguments: argparse.Namespace) -> list[str]:
    """The command line again, for the ranks."""
    words = [arguments.model]
    for name, value in vars(arguments).items():
        option = f"--{name.replace('_', '-')}"
        if name in ("model", "nprocs", "run") or value is None or value is False:
            continue
        if value is True:
            words.append(option)
        else:
            # In one word: a value may begin like an option.
            words += [f"{option}={one}" for one in (value if isinstance(value, list) else [value])]
    return words
