"""Is a rationale's own final answer right? One verdict a rationale, with the reason.

Owns the order in which ways to compare are tried, their time limits, and the job that writes verdicts into a file. What an answer
sentence is and the plain comparisons are `answers`' concern; expressions in LaTeX are `math-verify`'s.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from compact_ds.data.answers import final_answer, same_answer
from compact_ds.data.records import Example
from compact_ds.data.steps import cut
from compact_ds.errors import UserError

SECONDS = 2
"""What an expression may take to be read, and again to be compared."""

_LONGEST = 500
"""Longer answers are texts; an expression of so many characters is a trap for a parser."""

_LISTED = 100
_EXPRESSION = re.compile(r"\\[a-zA-Z]+|[\^_{}]|\d\s*[a-zA-Z]\b|[a-zA-Z]\s*[+*/=-]\s*\w|[<>≤≥]|\bpi\b|√|π")


@dataclass(frozen=True, slots=True)
class Verdict:
    """`answer` is what the rationale concludes, None without a conclusion; `right` whether it is the gold answer; `how` why."""

    answer: str | None
    right: bool
    how: str


def verdict(answer_sentence: str, gold: str) -> Verdict:
    """Judge the conclusion of a rationale.

    Numbers (money, percent, units, fractions, thousands), option letters, yes and no, and text are compared by
    `answers.same_answer`; what remains and looks like an expression by math-verify, within `SECONDS`.
    Raises UserError when that is needed and not installed.
    """
    found = final_answer(answer_sentence)
    if found is None:
        return Verdict(None, False, "no answer sentence")
    if same_answer(found, gold):
        return Verdict(found, True, f"{found!r:.80} says {gold!r:.80}")
    if len(found) <= _LONGEST and len(gold) <= _LONGEST and (_EXPRESSION.search(found) or _EXPRESSION.search(gold)):
        return _by_expression(found, gold)
    return Verdict(found, False, f"{found!r:.80} is not {gold!r:.80}")


def verify(
    examples: Iterable[Example], output: Path | None, jobs: int, explains: bool, total: int | None
) -> dict[str, Any]:
    """Judge every rationale; write the examples with `is_correct` and `answer_found` (and `why`, when `explains`) to `output`.

    Returns totals: per teacher the rationales, right ones and those without an answer; where the source had verdicts, how many
    agree, and the first hundred that do not.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    differ: list[dict[str, Any]] = []
    with (
        _unfinished(output) as stream,
        multiprocessing.get_context("spawn").Pool(jobs) if jobs > 1 else _Here() as pool,
    ):
        for example, found in tqdm(pool.imap(_judge, examples, 32), total=total, desc="verify", unit="question"):
            for rationale, one in zip(example.rationales, found, strict=True):
                without = int(one.answer is None)
                counts[rationale.teacher].update(rationales=1, right=int(one.right), without_answer=without)
                if rationale.is_correct is None:
                    continue
                agrees = rationale.is_correct == one.right
                counts[rationale.teacher].update(given=1, agree=int(agrees))
                if not agrees and len(differ) < _LISTED:
                    row = {"id": example.id, "teacher": rationale.teacher, "given": rationale.is_correct}
                    differ.append(row | {"why": one.how})
            if stream is not None:
                stream.write(json.dumps(_row(example, found, explains), ensure_ascii=False) + "\n")
    teachers = {name: dict(count) for name, count in sorted(counts.items())}
    given = sum(count["given"] for count in counts.values())
    agree = sum(count["agree"] for count in counts.values())
    return {"teachers": teachers, "agreement": agree / given if given else None, "differ": differ}


@contextmanager
def _unfinished(output: Path | None) -> Iterator[TextIO | None]:
    """A stream whose file takes its name when all is written."""
    if output is None:
        yield None
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = output.with_name(output.name + ".unfinished")
    with beside.open("w", encoding="utf-8") as stream:
        yield stream
    os.replace(beside, output)


class _Here:
    """Stands in for a pool of one."""

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def imap(self, function: Any, items: Iterable[Any], chunksize: int) -> Iterator[Any]:
        return map(function, items)


def _judge(example: Example) -> tuple[Example, list[Verdict]]:
    return example, [verdict(rationale.answer_sentence, example.answer) for rationale in example.rationales]


def _row(example: Example, found: list[Verdict], explains: bool) -> dict[str, Any]:
    rationales = []
    for rationale, one in zip(example.rationales, found, strict=True):
        row: dict[str, Any] = {"teacher": rationale.teacher, "text": rationale.text}
        if cut(rationale.text)[0] != rationale.steps:
            row["steps"] = list(rationale.steps)
        row |= {"is_correct": one.right, "answer_found": one.answer}
        rationales.append(row | ({"why": one.how} if explains else {}))
    return {"id": example.id, "question": example.question, "answer": example.answer, "rationales": rationales}


def _by_expression(found: str, gold: str) -> Verdict:
    try:
        from math_verify import parse
        from math_verify import verify as equal
    except ModuleNotFoundError:
        remedy = "pip install 'compact-ds[verify]'"
        raise UserError(
            "data verify", f"an expression ({gold!r:.60}) and no math-verify", "the package", remedy
        ) from None
    try:
        read = [parse(_delimited(text), parsing_timeout=SECONDS) for text in (gold, found)]
        right = all(read) and bool(equal(*read, timeout_seconds=SECONDS))
    except Exception as error:  # whatever a parser of untrusted text may raise is no verdict for it
        return Verdict(found, False, f"{found!r:.80} could not be compared ({type(error).__name__})")
    return Verdict(
        found, right, f"{found!r:.80} {'equals' if right else 'does not equal'} {gold!r:.80} as an expression"
    )


def _delimited(text: str) -> str:
    return text if "$" in text or "\\boxed" in text else f"${text}$"
