"""Adds misleading teachers to word problems by rule: the right two numbers, another operation, a fluent rationale.

Owns which operation is put in the right one's place and how the rationale reads. The teachers are called `mislead-1`,
`mislead-2` and so on. A question whose gold answer no two of its numbers give by one operation gets no such rationale.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from typing import NamedTuple

from compact_ds.data.answers import same_answer
from compact_ds.data.mislead_wording import write
from compact_ds.data.records import Example, Rationale
from compact_ds.data.steps import cut

_NUMBER = re.compile(
    r"(?<![\w.,-])\$?(?P<value>\d{1,3}(?:,\d{3}){1,3}(?:\.\d{1,6})?|\d{1,12}(?:\.\d{1,6})?)(?P<noun>(?:\s+[a-z]{2,}){1,3}?(?<=s)\b)?(?!\d)"
)
_NOT_A_NOUN = re.compile(
    r"of|in|on|at|to|from|for|and|or|but|with|by|was|were|is|are|had|has|have|more|less|fewer|farther|each|every|per|after|"
    r"before|than|then|s?he|they|it|who|that|if|times|as|the|do|did|does|would|will|additional|extra"
)


class Quantity(NamedTuple):
    """A number of the question and the plural noun that follows it (`22 bottle caps`), empty when none does."""

    value: Fraction
    noun: str


class Calculation(NamedTuple):
    """`left sign right = result`."""

    left: Quantity
    sign: str
    right: Quantity
    result: Fraction


def mislead(example: Example, count: int, seed: int) -> Example:
    """The example with up to `count` more rationales, each by another wrong operation with another wrong result.

    They stand behind the given ones and are marked `is_correct=False`. Positive whole results come first. The wording
    depends on the example, the teacher and the seed. A question that cannot be served is given back as it is.
    """
    wrong = wrong_calculations(example.question, example.answer, random.Random(f"{seed} {example.id}"))
    added = [
        _rationale(f"mislead-{number}", calculation, example, seed)
        for number, calculation in zip(range(1, count + 1), wrong, strict=False)
    ]
    return replace(example, rationales=(*example.rationales, *added)) if added else example


def wrong_calculations(question: str, answer: str, rng: random.Random) -> list[Calculation]:
    """Other operations on the two numbers that give the gold answer, best first, each with another wrong result."""
    right = next(right_calculations(question, answer), None)
    if right is None:
        return []
    kept: dict[str, Calculation] = {}
    for calculation in _calculations(right.left, right.right):
        text = written(calculation.result)
        vanishes = calculation.result and text in ("0", "-0")
        if not vanishes and not same_answer(text, answer):
            # Two orders of one operation, or two operations on 2 and 2, can have one result.
            kept.setdefault(text, calculation)
    shuffled = rng.sample(list(kept.values()), len(kept))
    return sorted(shuffled, key=lambda calculation: _oddness(calculation.result))


def right_calculations(question: str, answer: str) -> Iterator[Calculation]:
    """Every operation on two numbers of the question that gives the answer."""
    for pair in combinations(_quantities(question), 2):
        for calculation in _calculations(*pair):
            if same_answer(written(calculation.result), answer):
                yield calculation


def _quantities(question: str) -> Iterator[Quantity]:
    for match in _NUMBER.finditer(question):
        words = (match["noun"] or "").split()
        noun = "" if any(_NOT_A_NOUN.fullmatch(word) for word in words) else " ".join(words)
        yield Quantity(Fraction(match["value"].replace(",", "")), noun)


def _calculations(left: Quantity, right: Quantity) -> Iterator[Calculation]:
    """All four operations on two numbers, in both orders where the order matters."""
    yield Calculation(left, "+", right, left.value + right.value)
    yield Calculation(left, "*", right, left.value * right.value)
    for first, second in ((left, right), (right, left)):
        yield Calculation(first, "-", second, first.value - second.value)
        if second.value:
            yield Calculation(first, "/", second, first.value / second.value)


def _oddness(result: Fraction) -> int:
    """How unlikely a result looks as an answer: 0 for a positive whole number."""
    if result > 0:
        return 0 if result.denominator == 1 else 1
    return 2


def written(value: Fraction) -> str:
    """The number as a teacher writes it: whole, or with at most two decimals."""
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.2f}".rstrip("0").rstrip(".")


def _rationale(teacher: str, calculation: Calculation, example: Example, seed: int) -> Rationale:
    left, sign, right, result = calculation
    numbers = written(left.value), sign, written(right.value), written(result)
    rng = random.Random(f"{seed} {example.id} {teacher}")
    text = write(numbers, (left.noun, right.noun), example.question, rng)
    steps, answer_sentence = cut(text)
    return Rationale(teacher, steps, answer_sentence, is_correct=False)
