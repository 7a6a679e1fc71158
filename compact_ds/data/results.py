"""What the steps of a rationale come to, as numbers, and whether they arrive at an answer.

Owns how a result is read from a step. What an answer is, and when two are the same, is `data.answers`; where a step ends is
`data.steps`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

# Bounded, because teacher text may hold digits without end and Python refuses to convert so many.
_NUMBER = r"(?:\d{1,3}(?:,\d{3}){1,9}|\d{1,30}(?!\d))(?:\.\d{1,30})?|\.\d{1,30}"
_ANY_NUMBER = re.compile(rf"(?<![\w.])-?(?:{_NUMBER})")
# What follows must not make the number the start of a longer right-hand side: 290 = 145 x 2 states no result.
_RESULT = re.compile(rf"=\s*[$€£]?\s*(-?\s?[$€£]?(?:{_NUMBER}))(?![\d,.]*\d)(?!\s*[-+*/\u00d7\u00f7^x]\s*[$(]?\d)")
ENUMERATOR = re.compile(r"\A\s*(?:[-*•]\s+|(?:step\s*)?\d+\s*[.):]\s+)*", re.IGNORECASE)


def results(step: str) -> list[Fraction]:
    """What the step's equations come to, else its last number."""
    text = ENUMERATOR.sub("", step)
    return [_value(match) for match in _RESULT.findall(text) or _ANY_NUMBER.findall(text)[-1:]]


def arrives(steps: Sequence[str], answer: str) -> bool:
    """Whether the steps lead to the answer: it is a result of one of them, given that they and it are about numbers."""
    stated = _ANY_NUMBER.findall(answer)
    found = {result for step in steps for result in results(step)}
    return len(stated) != 1 or not found or _value(stated[0]) in found


def numbers(text: str) -> set[Fraction]:
    """Every number that the text states."""
    return {_value(match) for match in _ANY_NUMBER.findall(text)}


def _value(text: str) -> Fraction:
    return Fraction(re.sub(r"[\s,$€£]", "", text))
