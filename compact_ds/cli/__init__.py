"""The command line: parse, call, print; nothing else. A file a group of commands.

Every command imports what it needs when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from compact_ds import __version__
from compact_ds.cli.analyze import add_analyze
from compact_ds.cli.bench import add_bench
from compact_ds.cli.cluster import add_cluster
from compact_ds.cli.completion import add_completion
from compact_ds.cli.data import add_data
from compact_ds.cli.evaluate import add_evaluate
from compact_ds.cli.examples import EXAMPLES
from compact_ds.cli.plan import add_plan
from compact_ds.cli.report import add_report
from compact_ds.cli.score import add_score
from compact_ds.cli.terminal import set_up
from compact_ds.cli.train import add_train
from compact_ds.errors import ERROR_PREFIX, UserError
from compact_ds.launcher.arguments import take_late_overrides

INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are a user's errors like any other: one line, no usage page, no guessed options."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise UserError instead of printing the usage."""
        raise UserError("command line", message, "what the help page says", f"try {self.prog} --help")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 2 with one line on stderr for a UserError, 3 for a fault."""
    parser = _parser()
    try:
        arguments, rest = parser.parse_known_args(argv)
        set_up(arguments.quiet)
        rest = take_late_overrides(arguments, rest)
        if rest:
            own = next(one.prog for one in parsers(parser) if one.get_default("run") is arguments.run)
            raise _unknown(rest[0], own, hasattr(arguments, "overrides"))
        command: Callable[[argparse.Namespace], int] = arguments.run
        return command(arguments)
    except UserError as error:
        sys.stderr.write(f"{ERROR_PREFIX}{error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> Parser:
    parser = Parser(prog="compact-ds", description="Distil several teachers' rationales into one student.")
    parser.add_argument("--version", action="version", version=f"compact-ds {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    declared = (
        add_train, add_cluster, add_score, add_evaluate, add_analyze, add_report, add_data, add_bench, add_plan,
    )  # fmt: skip
    for declare in declared:
        declare(commands)
    add_completion(commands, _parser)
    for one in parsers(parser):
        one.formatter_class = argparse.RawDescriptionHelpFormatter
        if one.prog in EXAMPLES:
            one.epilog = "\n".join(("examples:", *(f"  {line}" for line in EXAMPLES[one.prog])))
        if one.get_default("run") is not None:
            one.add_argument("--quiet", action="store_true", help="no progress bars and no remarks")
    return parser


def _unknown(word: str, command: str, takes_settings: bool) -> UserError:
    """The error for an option that the command does not have; for a setting with dashes before it, how it is written."""
    from compact_ds.config import keys

    setting = word.lstrip("-").partition("=")[0].replace("-", "_")
    meant = [f"{key}=VALUE" for key in keys() if f".{key}".endswith(f".{setting}")] if takes_settings else []
    remedy = f"settings have no dashes: {' or '.join(meant)}" if meant else f"try {command} --help"
    return UserError("command line", f"unknown argument {word}", "what the help page says", remedy)


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and those of all commands under it."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in dict.fromkeys(action.choices.values()):
                yield from parsers(inner)
