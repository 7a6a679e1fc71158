"""The files that `data generate` leaves, what their texts cost, and the tables for the terminal.

Owns how rationales and failures are written (whole or not at all) and every figure about tokens and money.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rich.table import Table

from compact_ds.data.generate_calls import Failure
from compact_ds.data.generate_journal import Journal
from compact_ds.data.generate_settings import Call, Question, Teacher, TeacherConfig
from compact_ds.terminal_table import terminal_table

_CHARACTERS_A_TOKEN = 4
"""For an estimate before any endpoint has counted; about right for English."""


@dataclass(frozen=True)
class Files:
    """Where a job writes: the output, and beside it the journal and the failures, named after it."""

    output: Path

    @property
    def journal(self) -> Path:
        """The finished calls."""
        return Path(f"{self.output}.journal.jsonl")

    @property
    def failed(self) -> Path:
        """The calls that have no text, with the reason."""
        return Path(f"{self.output}.failed.jsonl")


@dataclass
class Written:
    """What of one teacher is in the output. `cut_off` texts hit the limit of `max_tokens`."""

    rationales: int = 0
    cut_off: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


def write_rationales(
    file: Path, questions: Sequence[Question], teachers: Sequence[Teacher], journal: Journal
) -> dict[str, Written]:
    """Write what the journal has, a question a line in the schema, rationales in the order of teachers and samples."""
    written = {teacher.name: Written() for teacher in teachers}
    with _whole(file) as stream:
        for question in questions:
            rationales = []
            for teacher in teachers:
                for call in teacher.calls([question]):
                    entry = journal.get(call.key)
                    if entry is None:
                        continue
                    sample = call.key.sample
                    rationales.append({"teacher": teacher.name, "text": entry.text, "sample": sample})
                    one = written[teacher.name]
                    one.rationales += 1
                    one.cut_off += entry.cut_off
                    one.input_tokens += entry.input_tokens
                    one.output_tokens += entry.output_tokens
            row = {"id": question.id, "question": question.question, "answer": question.answer}
            stream.write(json.dumps(row | {"rationales": rationales}, ensure_ascii=False) + "\n")
    return written


def write_failures(file: Path, failures: Sequence[Failure]) -> None:
    """Write one JSON object a failed call; no failures, no file."""
    if not failures:
        file.unlink(missing_ok=True)
        return
    with _whole(file) as stream:
        for failure in failures:
            key = failure.key
            row = {"id": key.id, "teacher": key.teacher, "sample": key.sample, "reason": failure.reason}
            stream.write(json.dumps(row | {"attempts": failure.attempts}, ensure_ascii=False) + "\n")


def price(settings: TeacherConfig, input_tokens: float, output_tokens: float) -> float:
    """What so many tokens cost at this teacher, in the currency of its settings."""
    asked = input_tokens * settings.price_per_million_input_tokens
    return (asked + output_tokens * settings.price_per_million_output_tokens) / 1e6


def estimate(
    teacher: Teacher, todo: Sequence[Call], kept: int, questions: Sequence[Question], journal: Journal
) -> dict[str, Any]:
    """Calls left and their likely tokens and price: by the mean of the teacher's texts so far, else at most `max_tokens` each."""
    system = len(teacher.settings.system or "")
    asked = sum(system + len(call.prompt) for call in todo) / _CHARACTERS_A_TOKEN
    counts = [entry.output_tokens for call in teacher.calls(questions) if (entry := journal.get(call.key)) is not None]
    each = sum(counts) / len(counts) if any(counts) else teacher.settings.max_tokens
    return {
        "calls": len(todo),
        "kept": kept,
        "input_tokens": round(asked),
        "output_tokens": round(each * len(todo)),
        "price": price(teacher.settings, asked, each * len(todo)),
        "basis": f"mean of {len(counts)} texts" if any(counts) else "max_tokens",
    }


def table(totals: dict[str, Any]) -> Table:
    """The dictionary of `generate.run` or `generate.plan` for the terminal, a teacher a row, totals in the caption."""
    left_out = ("teachers", "output", "failures", "failed_share")
    caption = ", ".join(f"{_shown(value)} {name}" for name, value in totals.items() if name not in left_out)
    headings = ["teacher", *(name.replace("_", " ") for name in next(iter(totals["teachers"].values())))]
    rows = [[name, *map(_shown, row.values())] for name, row in totals["teachers"].items()]
    return terminal_table(headings, rows, caption)


def _shown(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


@contextmanager
def _whole(file: Path) -> Iterator[TextIO]:
    """A text file that takes its place when all of it is on the disk."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    with unfinished.open("w", encoding="utf-8", newline="\n") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(unfinished, file)
