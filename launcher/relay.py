"""What ranks write to stderr, on its way to the user: as it comes, but a user's error line only the first time.

Owns bytes, not processes.
"""

from __future__ import annotations

import os
import re
from typing import IO

from compact_ds.errors import ERROR_PREFIX

_PREFIX = ERROR_PREFIX.encode()


class Relay:
    """Copies one stream to another; every rank meets the same error, so its line passes once. `errors` holds those lines."""

    def __init__(self) -> None:
        self.errors: list[bytes] = []
        self._held, self._last = b"", b"\n"

    def copy(self, source: IO[bytes], sink: IO[bytes]) -> None:
        """Copy until the end of `source`.

        An error that follows on the open line of another rank's progress bar gets a line of its own.
        """
        while chunk := os.read(source.fileno(), 1 << 16):
            apart = re.sub(rb"(?<![\r\n])" + re.escape(_PREFIX), b"\n" + _PREFIX, self._last + chunk)[1:]
            self._last = chunk[-1:]
            for piece in apart.splitlines(keepends=True):
                self._pass(piece, sink)
        sink.write(self._held)
        sink.flush()

    def _pass(self, piece: bytes, sink: IO[bytes]) -> None:
        self._held += piece
        is_error = self._held.startswith(_PREFIX)
        if (is_error or _PREFIX.startswith(self._held)) and not self._held.endswith(b"\n"):
            return
        if not (is_error and self._held in self.errors):
            sink.write(self._held)
            sink.flush()
        if is_error:
            self.errors.append(self._held)
        self._held = b""
