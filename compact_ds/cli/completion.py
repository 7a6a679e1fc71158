"""The command `completion`: a script that completes commands, options and files in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

_SHELLS = ("bash", "zsh", "tcsh")
_FILES = ("FILE", "CONFIG", "DATA", "GRID", "MODEL", "BEFORE", "AFTER", "SOURCE")
_FOLDERS = ("DIR", "RUN")


def add_completion(commands: Any, whole: Callable[[], argparse.ArgumentParser]) -> None:
    """Declare `completion`; `whole` gives the parser that the script is of."""
    completion = commands.add_parser(
        "completion", help="a script that completes commands, options and files in a shell"
    )
    completion.add_argument("shell", metavar="SHELL", choices=_SHELLS, help=", ".join(_SHELLS))
    completion.set_defaults(run=lambda arguments: _completion(whole(), arguments.shell))


def _completion(parser: argparse.ArgumentParser, shell: str) -> int:
    import shtab

    _mark(parser, shtab.FILE, shtab.DIRECTORY)
    print(shtab.complete(parser, shell))
    return 0


def _mark(parser: argparse.ArgumentParser, file: Any, folder: Any) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _mark(inner, file, folder)
        elif action.metavar in _FILES:
            action.complete = file  # type: ignore[attr-defined]
        elif action.metavar in _FOLDERS:
            action.complete = folder  # type: ignore[attr-defined]
