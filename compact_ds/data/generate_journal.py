"""The append-only file in which finished calls are kept, so that no kill loses or doubles one.

Owns the file's lines, its lock and what of it survives: a line is handed to the system as soon as its call is finished
(a killed process loses none) and forced to the disk in batches (a power cut loses at most the last second's).
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from filelock import FileLock, Timeout

from compact_ds.errors import DataError, UserError

_SYNC_LINES = 64
_SYNC_SECONDS = 1.0


class Key(NamedTuple):
    """What a text answers: a question, a teacher, the number of the sample, and a digest of all that shapes the text."""

    id: str
    teacher: str
    sample: int
    settings: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished call. Tokens are the endpoint's own count (0 where it gave none); `cut_off`: the text hit its limit."""

    key: Key
    text: str
    input_tokens: int
    output_tokens: int
    seconds: float
    cut_off: bool


class Journal:
    """The finished calls by key; only where they stand in the file is in memory.

    A context manager: one process at a time has the file open for writing. `writes=False` reads a file that may not exist
    and leaves it as it is.
    """

    def __init__(self, file: Path, *, writes: bool = True) -> None:
        """Read the file, and cut off what a kill left of a last line. Raises DataError for any other broken line."""
        self.file = file
        self._writes = writes
        self._places: dict[Key, int] = {}
        self._lock = FileLock(f"{file}.lock", timeout=0)
        self._stream: BinaryIO | None = None
        self._unsynced, self._synced_at = 0, time.monotonic()

    def __enter__(self) -> Journal:
        if not self._writes:
            if self.file.is_file():
                self._stream = self.file.open("rb", buffering=0)
                self._index()
            return self
        try:
            self._lock.acquire()
        except Timeout:
            remedy = "wait for it, or give another --output"
            raise UserError(str(self.file), "another run that writes it", "one run a file", remedy) from None
        self.file.touch()
        self._stream = self.file.open("r+b", buffering=0)
        self._stream.truncate(self._index())
        return self

    def __exit__(self, *error: object) -> None:
        if self._stream is not None:
            if self._writes:
                os.fsync(self._stream.fileno())
            self._stream.close()
        if self._writes:
            self._lock.release()

    def __contains__(self, key: Key) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def add(self, entry: Entry) -> None:
        """Keep a finished call. Raises UserError when the disk takes no more."""
        assert self._stream is not None and self._writes and entry.key not in self._places
        place = self._stream.seek(0, os.SEEK_END)
        line = json.dumps(_row(entry), ensure_ascii=False).encode() + b"\n"
        try:
            # Unbuffered: the line is the system's when this returns.
            written = self._stream.write(line)
        except OSError as error:
            written, reason = 0, error.strerror or "an error"
        else:
            reason = "a full disk"
        if written != len(line):
            self._stream.truncate(place)
            raise UserError(str(self.file), reason, "room for the texts", "make room and run again; nothing is lost")
        self._places[entry.key] = place
        self._unsynced += 1
        if self._unsynced >= _SYNC_LINES or time.monotonic() - self._synced_at >= _SYNC_SECONDS:
            os.fsync(self._stream.fileno())
            self._unsynced, self._synced_at = 0, time.monotonic()

    def get(self, key: Key) -> Entry | None:
        """The finished call of that key, from the file."""
        place = self._places.get(key)
        if place is None:
            return None
        assert self._stream is not None
        with open(self._stream.fileno(), "rb", closefd=False) as lines:
            lines.seek(place)
            return _entry(json.loads(lines.readline()))

    def _index(self) -> int:
        """Note where each call stands; the length of the whole lines."""
        end = 0
        with self.file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    # The first of a key stays: what was written out once is not replaced.
                    self._places.setdefault(_entry(json.loads(line)).key, end)
                except (ValueError, KeyError, TypeError):
                    start = line[:60].decode("utf-8", "replace")
                    remedy = "delete the line; its call is then made again"
                    raise DataError(f"{self.file}:{number}", start, "a finished call", remedy) from None
                end += len(line)
        return end


def _row(entry: Entry) -> dict[str, Any]:
    return entry.key._asdict() | {
        "text": entry.text,
        "input_tokens": entry.input_tokens,
        "output_tokens": entry.output_tokens,
        "seconds": round(entry.seconds, 3),
        "cut_off": entry.cut_off,
    }


def _entry(row: dict[str, Any]) -> Entry:
    key = Key(row["id"], row["teacher"], row["sample"], row["settings"])
    return Entry(key, row["text"], row["input_tokens"], row["output_tokens"], row["seconds"], row["cut_off"])
