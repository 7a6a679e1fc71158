"""What a student keeps of what it was not trained on: other domains' multiple choice, and general text.

Owns which measure a file asks for and the names of the figures. The same in training (`evaluation.retention`) and in `eval`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compact_ds.data.readers import read
from compact_ds.data.records import Example
from compact_ds.errors import ConfigError
from compact_ds.evaluation.options import checked_options, score_options
from compact_ds.evaluation.perplexity import perplexity, text_losses, texts_of
from compact_ds.sections import DataConfig
from compact_ds.tree.tokenise import Tokeniser


@dataclass(frozen=True)
class Kept:
    """One file: multiple-choice questions, or texts."""

    name: str
    questions: tuple[Example, ...]
    texts: tuple[str, ...]


def retention_sets(files: Sequence[str], limit: int | None, split: str = "test") -> list[Kept]:
    """The files, read and checked: the first `limit` questions that list options, or pieces of text. Raises UserError.

    `split` is that of a `datasets` path or id.
    """
    names = [_name(file) for file in files]
    for name in names:
        if names.count(name) > 1:
            expected = "files that differ in folder and name"
            raise ConfigError("evaluation.retention", name, expected, "rename one")
    return [_kept(name, file, limit, split) for name, file in zip(names, files, strict=True)]


def measure_retention(
    lm: Any,
    tokeniser: Tokeniser,
    kept: Sequence[Kept],
    batch_size: int,
    share: slice,
    gather: Callable[[Any], list[Any]],
    progress: bool,
) -> dict[str, dict[str, float]]:
    """Figures by name of the file; every rank measures its `share` of the questions and texts and `gather`s the others'.

    Of questions: `accuracy` by the likeliest option's letter, `gold_probability`, `n`. Of texts: those of `perplexity`.
    """
    found: dict[str, dict[str, float]] = {}
    for own in kept:
        if own.questions:
            mine: list[Any] = score_options(lm, tokeniser, own.questions[share], batch_size, "letter", progress)
        else:
            mine = text_losses(lm, tokeniser, own.texts[share], max(1, batch_size // 8), progress)
        rows = [row for part in gather(mine) for row in part]
        found[own.name] = option_figures(rows) if own.questions else perplexity(rows)
    return found


def option_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over questions."""
    num = len(rows)
    accuracy = sum(bool(row["right"]) for row in rows) / num
    return {"accuracy": accuracy, "gold_probability": sum(row["gold_probability"] for row in rows) / num, "n": num}


def drops(before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """What was lost, by file, larger is worse: accuracy before less after; for texts the rise of the loss in nats per token."""
    lost = {}
    for name in after:
        if name in before:
            sign, key = (1, "accuracy") if "accuracy" in after[name] else (-1, "text_loss")
            lost[name] = sign * (before[name][key] - after[name][key])
    return lost


def _kept(name: str, file: str, limit: int | None, split: str) -> Kept:
    path = Path(file).expanduser()
    if path.suffix == ".txt" or (path.is_file() and _holds_texts(path)):
        return Kept(name, (), tuple(_pieces(texts_of(path))[:limit]))
    data = DataConfig(train=file, eval_split=split)
    questions = tuple(read(file, data, 0, limit=limit, is_held_out=True))
    for question in questions:
        checked_options(question)
    return Kept(name, questions, ())


def _holds_texts(path: Path) -> bool:
    """Whether the first line of a file is a text and no question; what can not be read is for the reader to name."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        try:
            first = json.loads(stream.readline())
        except ValueError:
            return False
    return isinstance(first, dict) and "text" in first and "question" not in first


def _pieces(texts: Sequence[str]) -> list[str]:
    """Long texts in parts of some 2,000 characters, at line ends, so that ranks can share one."""
    parts: list[str] = []
    for text in texts:
        part = ""
        for line in text.splitlines(keepends=True):
            part += line
            if len(part) >= 2000:
                parts.append(part)
                part = ""
        parts += [part] if part.strip() else []
    return parts


def _name(file: str) -> str:
    path = Path(file)
    return f"{path.parent.name}/{path.stem}" if path.parent.name else path.stem
