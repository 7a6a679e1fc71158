"""The errors that a user can meet and mend.

Owns the one exception family that the command line prints as a single line with exit code 2. Broken invariants of our
own are `assert`s and keep their traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

EXIT_CODE = 2
FAULT_EXIT_CODE = 3

ERROR_PREFIX = "compact-ds: error: "
"""What the line of a UserError begins with on stderr; the launcher knows it by that when every rank prints it."""


class UserError(ValueError):
    """Something outside the program is wrong and the reader of the message can put it right.

    `where` is a file with its line or a config key, `value` what stood there, `expected` what should, `remedy` what to do.
    """

    exit_code = EXIT_CODE

    def __init__(self, where: str, value: object, expected: str, remedy: str) -> None:
        self.where, self.value, self.expected, self.remedy = where, value, expected, remedy
        shown = value if isinstance(value, str) else repr(value)
        line = f"{where}: found {shown!s:.300}; expected {expected}; {remedy}"
        super().__init__(" ".join(line.split()))

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process: the default calls the class with `args`, one line, which a pool waits for in vain."""
        value = self.value if isinstance(self.value, (str, int, float, bool, type(None))) else repr(self.value)
        return _again, (type(self), self.where, value, self.expected, self.remedy, self.args)


class ConfigError(UserError):
    """A config key has a value that cannot be run."""


class DataError(UserError):
    """A data file or one of its lines cannot be used."""


class FaultError(UserError):
    """What a run needs gave way under it: a rank, the network, memory. The same run may go on with --resume."""

    exit_code = FAULT_EXIT_CODE

    @classmethod
    def of_fault(cls, line: str) -> FaultError:
        """The same line that another rank ended with, so that all ranks say one thing."""
        error = cls("", "", "", "")
        error.args = (line,)
        return error


def _again(kind: type[UserError], where: str, value: object, expected: str, remedy: str, args: Any) -> UserError:
    error = kind(where, value, expected, remedy)
    error.args = args
    return error


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word closest in spelling to `word` as a phrase for a remedy, or the list of them when none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
