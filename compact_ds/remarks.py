"""The package's remarks on stderr: what was chosen, what takes long, what is out of order; one line each, without decoration.

Owns where they go. They are the `info` and `warning` lines of loggers under `compact_ds`.
"""

from __future__ import annotations

import logging
import sys


class _Remarks(logging.Handler):
    """To stderr as it is at the time of a remark."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(self.format(record) + "\n")


def show_remarks() -> None:
    """From now on, unless somebody has seen to it already; a level that was set stays."""
    logger = logging.getLogger("compact_ds")
    if not logger.handlers:
        logger.addHandler(_Remarks())
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
