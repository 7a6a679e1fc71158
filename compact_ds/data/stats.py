"""Figures of a data set: what each teacher wrote, how long, how often right by its own answer, how often alone.

Owns the counts and their table. Judges an answer as `answers` does; measures nothing with a model.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from rich.table import Table

from compact_ds.data.answers import final_answer, same_answer
from compact_ds.data.overlap import near_duplicates
from compact_ds.data.records import Example
from compact_ds.terminal_table import terminal_table

_HEADINGS = (
    "teacher", "ratio-\nnales", "covered", "words", "words\np95", "steps", "right", "esti-\nmated", "no\nanswer", "agree-\nment",
    "alike",
)  # fmt: skip


@dataclass
class _Tally:
    """What is counted of one teacher."""

    questions: int = 0
    words: list[int] = field(default_factory=list)
    steps: int = 0
    right: int = 0
    no_answer: int = 0
    agreements: int = 0
    comparisons: int = 0
    near_duplicates: int = 0
    scripts: Counter[str] = field(default_factory=Counter)


def stats(examples: Iterable[Example]) -> dict[str, object]:
    """Totals, and per teacher under `teachers`: a JSON-able dictionary.

    `covered` is the share of questions the teacher answers; `words` are counted at white space, the 95th percentile by
    the nearest rank; `right` is the share of rationales whose own answer is the gold one; `agreement` the share of
    other teachers' rationales for the same question that give the same answer, None where nobody else answered;
    `near_duplicates` the share of rationales that another teacher wrote almost word for word; `scripts` the shares of letters by
    script (LATIN, CJK, CYRILLIC, ...), which shows a language that was not meant to be there.
    """
    tallies: dict[str, _Tally] = defaultdict(_Tally)
    questions = unanswered = 0
    for example in examples:
        questions += 1
        unanswered += not example.rationales
        _count(example, tallies)
    return {
        "questions": questions,
        "rationales": sum(len(tally.words) for tally in tallies.values()),
        "questions_without_rationale": unanswered,
        "teachers": {name: _figures(tally, questions) for name, tally in sorted(tallies.items())},
    }


def table(figures: dict[str, object]) -> Table:
    """The dictionary of `stats` as a table for the terminal, one teacher a row, totals in the caption."""
    caption = (
        f"{figures['questions']} questions ({figures['questions_without_rationale']} without a rationale), "
        f"{figures['rationales']} rationales"
    )
    doubled: Any = figures.get("doubled_questions", [])
    contaminated: Any = figures.get("contaminated", {})
    copied: Any = figures.get("copies", {})
    caption += f", {len(doubled)} questions asked twice" if doubled else ""
    caption += "".join(f"\n{len(rows)} questions stand in {test} too" for test, rows in contaminated.items())
    caption += "".join(
        f"\n{teacher} and {other} are copies: one voice" for teacher, other in copied.items() if teacher != other
    )
    teachers: Any = figures["teachers"]
    estimated: Any = figures.get("estimated", {})
    return terminal_table(_HEADINGS, [_row(name, row, estimated) for name, row in teachers.items()], caption)


def _row(name: str, row: dict[str, Any], estimated: dict[str, float]) -> list[str]:
    """Cells under _HEADINGS."""
    return [
        name,
        str(row["rationales"]),
        f"{row['covered']:.3f}",
        f"{row['mean_words']:.1f}",
        str(row["p95_words"]),
        f"{row['mean_steps']:.2f}",
        f"{row['right']:.3f}",
        f"{estimated[name]:.3f}" if name in estimated else "-",
        str(row["no_answer"]),
        "-" if row["agreement"] is None else f"{row['agreement']:.3f}",
        f"{row['near_duplicates']:.3f}",
    ]


def _count(example: Example, tallies: dict[str, _Tally]) -> None:
    answers = [(rationale.teacher, final_answer(rationale.answer_sentence)) for rationale in example.rationales]
    for teacher in {teacher for teacher, _ in answers}:
        tallies[teacher].questions += 1
    alike = {i for pair in near_duplicates(example.rationales) for i in pair}
    for i, (rationale, (teacher, answer)) in enumerate(zip(example.rationales, answers, strict=True)):
        tally = tallies[teacher]
        tally.near_duplicates += i in alike
        tally.scripts.update(_scripts(rationale.text))
        tally.words.append(len(rationale.text.split()))
        tally.steps += len(rationale.steps)
        tally.right += same_answer(answer, example.answer)
        tally.no_answer += answer is None
        others = [other for name, other in answers if name != teacher]
        tally.comparisons += len(others)
        tally.agreements += sum(answer is not None and same_answer(other, answer) for other in others)


def _figures(tally: _Tally, questions: int) -> dict[str, object]:
    count = len(tally.words)
    return {
        "rationales": count,
        "covered": tally.questions / questions,
        "mean_words": sum(tally.words) / count,
        "p95_words": sorted(tally.words)[math.ceil(0.95 * count) - 1],
        "mean_steps": tally.steps / count,
        "right": tally.right / count,
        "no_answer": tally.no_answer,
        "agreement": tally.agreements / tally.comparisons if tally.comparisons else None,
        "near_duplicates": tally.near_duplicates / count,
        "scripts": {name: n / tally.scripts.total() for name, n in tally.scripts.most_common() if n},
    }


def _scripts(text: str) -> Counter[str]:
    """Letters of the text's first thousand characters by script."""
    return Counter(_script(letter) for letter in text[:1000] if letter.isalpha())


@lru_cache(maxsize=65536)
def _script(letter: str) -> str:
    return unicodedata.name(letter, "UNKNOWN").split()[0]
