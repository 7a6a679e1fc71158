"""What a scoring run has measured so far: one JSON object a rationale, appended batch by batch, so that a killed run goes on.

Owns the file and what makes two runs the same. Measures are the student's; weights, which depend on all of them, are not kept.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from compact_ds.errors import UserError
from compact_ds.sections import Config
from compact_ds.student.load import locate

_WEIGHTS = (".safetensors", ".bin", ".gguf")


class ScoreJournal:
    """The journal of one rank, `FILE.measured-RANK`; its first line says what is being scored."""

    def __init__(self, output: Path, rank: int, identity: Mapping[str, Any]) -> None:
        """Go on from what is there, without examples that a kill left unfinished. Raises UserError for another run's file."""
        self.file = journal_file(output, rank)
        lines = self.file.read_text(encoding="utf-8").rpartition("\n")[0].splitlines() if self.file.is_file() else []
        head = json.loads(lines[0]) if lines else dict(identity)
        if head != dict(identity):
            key = next(key for key in identity if head.get(key) != identity[key])
            remedy = "delete it, or give another --output"
            raise UserError(str(self.file), f"{key} {head.get(key)!r}", f"{identity[key]!r}", remedy)
        rows = [json.loads(line) for line in lines[1:]]
        found = Counter(row["place"] for row in rows)
        self.done = {row["place"] for row in rows if found[row["place"]] == row["of"]}
        kept = [dict(identity), *(row for row in rows if row["place"] in self.done)]
        self.file.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        self._stream = self.file.open("a", encoding="utf-8")

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """The rows of whole examples; each says at `place` which example it is of, and under `of` how many rows that has."""
        self._stream.write("".join(json.dumps(row) + "\n" for row in rows))
        self._stream.flush()

    def close(self) -> None:
        """No more rows."""
        self._stream.close()


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


def merged(output: Path, world_size: int) -> list[dict[str, Any]]:
    """The rows of all ranks in the order of the data."""
    rows = []
    for rank in range(world_size):
        lines = journal_file(output, rank).read_text(encoding="utf-8").splitlines()[1:]
        rows += [json.loads(line) for line in lines]
    return sorted(rows, key=lambda row: (row["place"], row["index"]))
