"""What a scoring run has measured so far: one JSON object a rationale, appended batch by batch, so that a killed run goes on.

Owns the file and what makes two runs the same. Measures are the student's; weights, which depend on all of them, are not kept.

Legend: X examples.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from compact_ds.errors import UserError
from compact_ds.sections import Config
from compact_ds.student.load import locate

_WEIGHTS = (".safetensors", ".bin", ".gguf")


class ScoreJournal:
    """The journal of one rank, `FILE.measured-RANK`; its first line says what is being scored."""

    def __init__(self, output: Path, rank: int, identity: Mapping[str, Any]) -> None:
        """Go on from what is there, without the examples that a kill left unfinished. Raises UserError for another run's file."""
        self.file = journal_file(output, rank)
        self.done: set[int] = set()
        end = 0
        if self.file.is_file():
            with self.file.open("rb") as stream:
                end = self._checked_head(stream.readline(), identity)
                for place, _, size in _whole_examples(stream) if end else ():
                    self.done.add(place)
                    end += size
            os.truncate(self.file, end)
        self._stream = self.file.open("a", encoding="utf-8")
        if not end:
            self._stream.write(json.dumps(dict(identity)) + "\n")

    def _checked_head(self, line: bytes, identity: Mapping[str, Any]) -> int:
        """Size of the first line, 0 of one that a kill cut short."""
        if not line.endswith(b"\n"):
            return 0
        head = json.loads(line)
        if head != dict(identity):
            key = next(key for key in identity if head.get(key) != identity[key])
            remedy = "delete it, or give another --output"
            raise UserError(str(self.file), f"{key} {head.get(key)!r}", f"{identity[key]!r}", remedy)
        return len(line)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """The rows of whole examples, one example after another.

        Each row says at `place` which example it is of, and under `of` how many rows that has.
        """
        self._stream.write("".join(json.dumps(row) + "\n" for row in rows))
        self._stream.flush()

    def close(self) -> None:
        """No more rows."""
        self._stream.close()


class Measured:
    """The rows of all ranks, to be read as often as wanted; in memory is only where each example stands."""

    def __init__(self, output: Path, world_size: int) -> None:
        self._files = [journal_file(output, rank) for rank in range(world_size)]
        places: list[tuple[int, int, int, int]] = []
        for rank, file in enumerate(self._files):
            with file.open("rb") as stream:
                stream.readline()
                places += [(place, rank, start, size) for place, start, size in _whole_examples(stream)]
        self._places_X4 = np.array(sorted(places), dtype=np.int64).reshape(-1, 4)

    def __len__(self) -> int:
        """Examples."""
        return len(self._places_X4)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """The rows of one example after another, in the order of the data."""
        with ExitStack() as opened:
            streams = [opened.enter_context(file.open("rb")) for file in self._files]
            for _, rank, start, size in self._places_X4.tolist():
                streams[rank].seek(start)
                rows = [json.loads(line) for line in streams[rank].read(size).splitlines()]
                yield sorted(rows, key=lambda row: int(row["index"]))


def _whole_examples(stream: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """Place in the data, start and size in bytes of each example from here on, up to one that a kill left unfinished."""
    start = end = stream.tell()
    missing = 0
    for line in stream:
        if not line.endswith(b"\n"):
            return
        row = json.loads(line)
        missing = (missing or row["of"]) - 1
        end += len(line)
        if not missing:
            yield row["place"], start, end - start
            start = end


def student_identity(settings: Config) -> dict[str, Any]:
    """What tells the student from another one of the same name: its seed and shape, or size and time of its weight files.

    A hub id stands for itself.
    """
    student = settings.student
    if student.scratch is not None:
        return {"student": student.model, "seed": settings.seed, "scratch": student.scratch.model_dump()}
    where, file = locate(student.model)
    names = file.values() or sorted(f.name for f in Path(where).glob("*") if f.suffix in _WEIGHTS)
    facts = [(name, (Path(where) / name).stat()) for name in names]
    return {"student": student.model, "weights": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in facts]}


def journal_file(output: Path, rank: int) -> Path:
    """Where a rank keeps its journal."""
    return output.with_name(f"{output.name}.measured-{rank}")
