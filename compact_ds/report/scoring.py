"""A run's scored examples: from a scores file, or by scoring some questions with the trained student, once.

Owns which questions these are and where their scores are kept. Scoring itself is `score`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from compact_ds import config as configuration
from compact_ds.data.answers import final_answer, same_answer
from compact_ds.data.readers import held_out, read
from compact_ds.data.records import Example
from compact_ds.errors import UserError
from compact_ds.report.run_folder import Row, Run
from compact_ds.scoring.output import read_rows
from compact_ds.sections import Config

_DATA_SEED = 0
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scored:
    """An example and the scores of those of its rationales that were scored, by their place in it."""

    example: Example
    rows: dict[int, Row]

    def is_right(self, index: int) -> bool:
        """Whether a rationale's own answer is the gold one: the source's verdict, else by comparison."""
        rationale = self.example.rationales[index]
        if rationale.is_correct is not None:
            return rationale.is_correct
        return same_answer(final_answer(rationale.text), self.example.answer)

    @property
    def winner(self) -> int:
        """The place of the rationale with the largest weight."""
        return max(self.rows, key=lambda index: (self.rows[index]["weight"], -index))


class _Source(NamedTuple):
    path: str
    is_held_out: bool


@dataclass(frozen=True)
class Scores:
    """The scored examples of a run, in the order of the data, and where they come from in words."""

    source: str
    examples: list[Scored]


def scores_of(run: Run, number: int, file: Path | None) -> Scores:
    """From `file`, else of the first `number` held-out questions (training questions, where held-out ones have no rationales).

    What the trained student scored is kept in the run folder as `scores-NUMBER.jsonl` and taken from there until the student is
    a newer one. A run without `final/` has no scores. Raises UserError.
    """
    settings = configuration.load(run.folder / "config.yaml")
    if file is not None:
        return _joined(file, _sources(settings), settings, None)
    final = run.folder / "final"
    if not number:
        return Scores("no questions were scored (--examples 0)", [])
    if not (final / "config.json").is_file():
        return Scores("the run has no final/ to score questions with", [])
    source = _source(settings, number)
    kept = run.folder / f"scores-{number}.jsonl"
    if not kept.is_file() or kept.stat().st_mtime < (final / "config.json").stat().st_mtime:
        _score(source, final, kept, number, settings)
    return _joined(kept, [source], settings, number)


def _score(source: _Source, final: Path, kept: Path, number: int, settings: Config) -> None:
    from compact_ds import score

    # What a killed report measured with an earlier student is of no use, and no file that the user named.
    for journal in kept.parent.glob(f"{kept.name}.measured-*"):
        if journal.stat().st_mtime < (final / "config.json").stat().st_mtime:
            journal.unlink()
    _LOG.info("scoring %d questions of %s with %s; kept in %s", number, source.path, final, kept)
    given = [f"data.limit={number}", "data.eval=null", "data.max_left_out=1", "method=compact", "student.scratch=null"]
    given += ["student.lora=null", "student.tokenizer=null", "mixer.retain=null"]
    given += [f"data.split={settings.data.eval_split}"] if source.is_held_out else []
    score.run(source.path, str(final), kept, str(final.parent / "config.yaml"), given)


def _source(settings: Config, number: int) -> _Source:
    first = _sources(settings)[0]
    if first.is_held_out and any(e.rationales for e in islice(_read(first, settings), number)):
        return first
    return _Source(settings.data.train, False)


def _sources(settings: Config) -> list[_Source]:
    source = held_out(settings.data)
    train = _Source(settings.data.train, False)
    return [train] if source is None else [_Source(source, True), train]


def _read(source: _Source, settings: Config, limit: int | None = None) -> Iterator[Example]:
    return read(source.path, settings.data, _DATA_SEED, limit=limit, is_held_out=source.is_held_out)


def _joined(file: Path, sources: Sequence[_Source], settings: Config, limit: int | None) -> Scores:
    """Scores with the texts that they are of, from the first source that has all of them. Raises UserError."""
    rows: dict[str, dict[int, Row]] = {}
    for row in read_rows(file):
        rows.setdefault(row["id"], {})[row["index"]] = row
    missing = ""
    for source in sources:
        examples = {e.id: e for e in _read(source, settings, limit) if e.id in rows}
        unknown = [id for id in rows if id not in examples or not _fits(examples[id], rows[id])]
        if not unknown:
            kept = [Scored(e, rows[e.id]) for e in examples.values()]
            # The whole path stands in the config further down.
            return Scores(f"{len(kept)} questions of {source.path.rsplit('/', 1)[-1]}", kept)
        missing = missing or unknown[0]
    expected = f"questions of {' or '.join(source.path for source in sources)}, with the same teachers"
    raise UserError(str(file), f"id {missing!r}", expected, "score the run's own data")


def _fits(example: Example, rows: dict[int, Row]) -> bool:
    return all(
        index < len(example.rationales) and example.rationales[index].teacher == row["teacher"]
        for index, row in rows.items()
    )
