"""`data generate`: from questions to rationales of several teachers.

Owns the job: what is left to ask, who is asked how, and when the files are written. A kill at any moment costs the calls that
were in flight and nothing else; the same command goes on.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from compact_ds.data.generate_calls import Endpoint, Failure
from compact_ds.data.generate_journal import Entry, Journal, Key
from compact_ds.data.generate_output import Files, Written, estimate, price, write_failures, write_rationales
from compact_ds.data.generate_settings import Call, Question, Teacher, load_teachers
from compact_ds.data.readers import read
from compact_ds.errors import ConfigError, UserError
from compact_ds.sections import DataConfig


@dataclass(frozen=True)
class Options:
    """What is asked for on the command line: `data.train` and its neighbours say where the questions are."""

    data: DataConfig
    teachers: Path
    output: Path
    max_failed: float = 0.02


@dataclass
class _Share:
    """One teacher's part of the job. `stopped`: why its last calls were not made."""

    teacher: Teacher
    todo: list[Call]
    kept: int
    failures: dict[Key, Failure] = field(default_factory=dict)
    answered: int = 0
    retries: int = 0
    seconds: float = 0.0
    stopped: str | None = None


def run(options: Options) -> dict[str, Any]:
    """Ask every teacher for what the journal does not have, write the output, and return the totals.

    Calls that failed are in the totals and in `OUTPUT.failed.jsonl`; the next run makes them again. Raises UserError for
    settings, keys and files that cannot be used, and, after everything else was asked and written, for a teacher whose
    endpoint refuses its model or key.
    """
    start = time.monotonic()
    teachers, questions, files = _prepare(options)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with Journal(files.journal) as journal:
        shares = [_share(teacher, questions, journal) for teacher in teachers]
        # Before the first call: a missing key of the last teacher must not cost the calls of the others.
        endpoints = {share.teacher.name: Endpoint(share.teacher) for share in shares if not share.teacher.is_local}
        refused = _ask(shares, endpoints, journal)
        written = write_rationales(files.output, questions, teachers, journal)
        failures = [failure for share in shares for failure in _failures(share, journal)]
        write_failures(files.failed, failures)
    if refused is not None:
        raise refused
    teacher_rows = {share.teacher.name: _figures(share, written[share.teacher.name], failures) for share in shares}
    wanted = sum(share.kept + len(share.todo) for share in shares)
    return {
        "output": str(options.output),
        "questions": len(questions),
        "rationales": sum(row["rationales"] for row in teacher_rows.values()),
        "failed": len(failures),
        "failed_share": len(failures) / wanted,
        "failures": str(files.failed) if failures else None,
        "price": sum(row["price"] for row in teacher_rows.values()),
        "seconds": time.monotonic() - start,
        "teachers": teacher_rows,
    }


def plan(options: Options) -> dict[str, Any]:
    """What a run would do: the calls left of each teacher and an estimate of their price. Asks nobody, writes nothing."""
    teachers, questions, files = _prepare(options)
    with Journal(files.journal, writes=False) as journal:
        shares = [_share(teacher, questions, journal) for teacher in teachers]
        figures = {s.teacher.name: estimate(s.teacher, s.todo, s.kept, questions, journal) for s in shares}
    return {
        "questions": len(questions),
        "calls": sum(row["calls"] for row in figures.values()),
        "price": sum(row["price"] for row in figures.values()),
        "teachers": figures,
    }


def _prepare(options: Options) -> tuple[list[Teacher], list[Question], Files]:
    if not 0 <= options.max_failed <= 1:
        raise ConfigError("--max-failed", options.max_failed, "a share from 0 to 1", "for example 0.02")
    teachers, files = load_teachers(options.teachers), Files(options.output)
    if options.output.exists() and not files.journal.exists():
        expected = "a new file, or one that this command has begun"
        raise UserError("--output", f"{options.output}, which has no journal", expected, "give another name")
    data = options.data
    read_in = read(data.train, data, seed=0, limit=data.limit)
    return teachers, [Question(e.id, e.question, e.answer) for e in read_in], files


def _share(teacher: Teacher, questions: Sequence[Question], journal: Journal) -> _Share:
    todo = [call for call in teacher.calls(questions) if call.key not in journal]
    return _Share(teacher, todo, len(questions) * teacher.settings.samples - len(todo))


def _ask(shares: Sequence[_Share], endpoints: dict[str, Endpoint], journal: Journal) -> UserError | None:
    """Make the calls: endpoints side by side, then folder by folder. The first refusal of a model or key, if any."""
    with ExitStack() as bars:
        done = [_keep(share, journal, bars.enter_context(_bar(share, i))) for i, share in enumerate(shares)]
        refusals = asyncio.run(_ask_endpoints(shares, endpoints, done))
        for share, keep in zip(shares, done, strict=True):
            if share.teacher.is_local and share.todo:
                # Only here: it imports torch.
                from compact_ds.data.generate_local import write_all

                start = time.monotonic()
                write_all(share.teacher, share.todo, keep)
                share.seconds = time.monotonic() - start
    return refusals[0] if refusals else None


async def _ask_endpoints(
    shares: Sequence[_Share], endpoints: dict[str, Endpoint], done: Sequence[Callable[[Entry | Failure], None]]
) -> list[UserError]:
    refusals: list[UserError] = []

    async def ask(share: _Share, keep: Callable[[Entry | Failure], None]) -> None:
        endpoint, start = endpoints[share.teacher.name], time.monotonic()
        try:
            share.stopped = await endpoint.ask_all(share.todo, keep)
        except UserError as refusal:
            share.stopped = str(refusal)
            refusals.append(refusal)
        share.retries, share.seconds = endpoint.retries, time.monotonic() - start
        if share.stopped:
            tqdm.write(f"{share.teacher.name} stopped: {share.stopped}", file=sys.stderr)

    pairs = zip(shares, done, strict=True)
    await asyncio.gather(*(ask(share, keep) for share, keep in pairs if share.todo and not share.teacher.is_local))
    return refusals


def _bar(share: _Share, position: int) -> Any:
    return tqdm(
        total=share.kept + len(share.todo), initial=share.kept, desc=share.teacher.name, unit="text", position=position,
        dynamic_ncols=True, file=sys.stderr,
    )  # fmt: skip


def _keep(share: _Share, journal: Journal, bar: Any) -> Callable[[Entry | Failure], None]:
    def keep(result: Entry | Failure) -> None:
        if isinstance(result, Entry):
            journal.add(result)
            share.answered += 1
            bar.update()
        else:
            share.failures[result.key] = result
            bar.set_postfix(failed=len(share.failures), refresh=False)

    return keep


def _failures(share: _Share, journal: Journal) -> Iterator[Failure]:
    """The calls that have no text, in the order of the questions, those that were not made for want of the teacher too."""
    for call in share.todo:
        if call.key not in journal:
            yield share.failures.get(call.key) or Failure(call.key, f"not asked: {share.stopped}", 0)


def _figures(share: _Share, written: Written, failures: Sequence[Failure]) -> dict[str, Any]:
    """One teacher's row of the totals. Tokens and price are those of all its texts in the output, earlier runs' included."""
    return {
        "rationales": written.rationales,
        "calls": share.answered,
        "kept": share.kept,
        "failed": sum(failure.key.teacher == share.teacher.name for failure in failures),
        "retries": share.retries,
        "cut_off": written.cut_off,
        "input_tokens": written.input_tokens,
        "output_tokens": written.output_tokens,
        "price": price(share.teacher.settings, written.input_tokens, written.output_tokens),
        "seconds": share.seconds,
    }
