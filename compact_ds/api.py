"""The project from Python, for notebooks and other programs: load examples, score rationales, train a student.

Owns signatures. Behind each stands the job that the command of that name runs, on the same objects and with the same errors
(`UserError` and its kinds). The package has them as `load_examples`, `save_examples`, `score_rationales` and `train_student`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

from compact_ds import config as configuration
from compact_ds.callbacks import Callback
from compact_ds.data import readers
from compact_ds.data.records import Example, Rationale
from compact_ds.data.steps import cut
from compact_ds.sections import Config, DataConfig

Overrides = Mapping[str, Any]
"""Settings by dotted name, as on the command line: `{"optimizer.lr": 1e-3, "student.lora": {"r": 8}}`."""


class ScoredRationale(TypedDict):
    """One rationale under a student: a line of `compact-ds score --output`.

    `index` is its place among the question's rationales; `pmi` has nats per answer token at every probe; metrics that an
    extension registered stand beside the three under their own names.
    """

    id: str
    teacher: str
    index: int
    weight: float
    consensus: float
    adaptability: float
    difficulty: float
    token_loss: float
    pmi: list[float]
    epiphany_step: int | None


@dataclass(frozen=True, slots=True)
class TrainedStudent:
    """A run that ended. `summary` is `summary.json`, empty when the run was stopped early with a checkpoint."""

    folder: Path
    summary: dict[str, Any]

    @property
    def model(self) -> Path:
        """The Hugging Face folder, for `from_pretrained`."""
        return self.folder / "final"


def load_examples(
    source: str | Path,
    *,
    split: str = "train",
    fields: Mapping[str, str] | None = None,
    teachers: Sequence[str] | None = None,
    mislead: int = 0,
    limit: int | None = None,
) -> list[Example]:
    """The questions of a source with their rationales; arguments as in the config's `data` section.

    `source` is a JSONL file, a `datasets` path or hub id, or `task:NAME`. Raises DataError and ConfigError.
    """
    given = {"split": split, "fields": dict(fields or {}), "mislead": mislead, "limit": limit}
    names = None if teachers is None else list(teachers)
    data = DataConfig.model_validate({"train": str(source), "teachers": names, **given})
    return list(readers.read(data.train, data, 0, limit=limit))


def save_examples(examples: Iterable[Example], file: str | Path) -> Path:
    """Write examples as JSONL in the project's schema, from which `load_examples` gives them back; returns the file."""
    lines = []
    for one in examples:
        row = {"id": one.id, "question": one.question, "answer": one.answer}
        lines.append(json.dumps(row | {"rationales": [_row(r) for r in one.rationales]}, ensure_ascii=False) + "\n")
    Path(file).write_text("".join(lines), encoding="utf-8")
    return Path(file)


def score(
    data: str | Path | Iterable[Example],
    student: str | Path | None = None,
    *,
    config: str | Path | None = None,
    overrides: Overrides | None = None,
) -> list[ScoredRationale]:
    """Metrics and weight of every rationale under a student, without training, in this process.

    `data` is a source or examples; `student` is named as `student.model`, and may be left out when `config` (a file, or the name
    of a shipped one) names it. Raises UserError.
    """
    from compact_ds import score as job

    with tempfile.TemporaryDirectory() as folder:
        source = (
            str(data) if isinstance(data, str | Path) else str(save_examples(data, Path(folder) / "examples.jsonl"))
        )
        output = Path(folder) / "scores.jsonl"
        named = None if student is None else str(student)
        job.run(source, named, output, None if config is None else str(config), _words(overrides))
        return cast(
            list[ScoredRationale], [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
        )


def train(
    config: str | Path | Config,
    *,
    overrides: Overrides | None = None,
    callbacks: Sequence[Callback] = (),
    resume: bool = False,
) -> TrainedStudent:
    """Train as a config says: a file, the name of a shipped one, or a `Config`; in this process, as one rank.

    Under a launcher every process calls it. `callbacks` are hooks into the run (`compact_ds.callbacks`); those that the config
    names come after them. Ctrl-C stops between two steps with a checkpoint, from which `resume=True` goes on. Raises UserError.
    """
    settings = _config(config, overrides)
    from compact_ds import train as job
    from compact_ds.run.summary import SUMMARY

    job.main(settings, resume, callbacks=callbacks)
    file = settings.run_dir / SUMMARY
    summary = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return TrainedStudent(settings.run_dir, summary)


def _config(config: str | Path | Config, overrides: Overrides | None) -> Config:
    if not isinstance(config, Config):
        return configuration.load(config, _words(overrides))
    raw = config.model_dump(mode="json")
    for word in _words(overrides):
        configuration.override_key(raw, word)
    return configuration.resolve(raw, "overrides")


def _words(overrides: Overrides | None) -> list[str]:
    """As on the command line; JSON is YAML, whatever characters a name or a path holds."""
    return [f"{key}={json.dumps(value, default=str)}" for key, value in (overrides or {}).items()]


def _row(rationale: Rationale) -> dict[str, Any]:
    row: dict[str, Any] = {"teacher": rationale.teacher, "text": rationale.text}
    if cut(rationale.text)[0] != rationale.steps:
        row["steps"] = list(rationale.steps)
    return row if rationale.is_correct is None else row | {"is_correct": rationale.is_correct}
