"""The words of a misleading rationale, in the manner of the large language models whose rationales it stands beside.

Owns templates only; which numbers and which operation is `mislead`'s concern.
"""

from __future__ import annotations

import random
import re

_ASKED = re.compile(
    r"\bhow (?:many|much)\s+(?:more\s+)?(?:"
    r"(.{1,60}?)\s+(?:did|does|do|are|is|was|were|will|would|has|have|had|can|could|should|must|than|in)\b|([a-z]+))",
    re.IGNORECASE,
)
_NO_NOUN = re.compile(
    r".*[{}.?!].*|(?:farther|further|taller|longer|shorter|heavier|older|younger|fewer|less|did|does)\b.*"
)

_OPENINGS = (
    "To determine {what}, we need to {verb}.",
    "To find {what}, we {verb}.",
    "The problem gives us {left} and {right}. To get {what}, we {verb}.",
    "Let's find {what}. We are given {left} and {right}, so we can {verb}.",
    "We know two quantities: {left} and {right}. We get {what} when we {verb}.",
)
_WORKINGS = (
    "The calculation is done as follows: {equation}.",
    "So we have {equation}.",
    "This can be represented mathematically as {equation}.",
    "That gives {equation}.",
    "Let's plug in the values: {equation}.",
)
_CLOSINGS = (
    "Therefore, {what} is {result}.",
    "Thus, we get {counted}.",
    "So we end up with {counted}.",
    "",
)
_VERBS = {
    "+": ("add {b} to {a}", "add the two numbers {a} and {b}", "put {a} and {b} together"),
    "-": ("subtract {b} from {a}", "take {b} away from {a}", "find the difference between {a} and {b}"),
    "*": ("multiply {a} by {b}", "take {a} times {b}", "find the product of {a} and {b}"),
    "/": ("divide {a} by {b}", "split {a} into {b} equal parts", "find how often {b} goes into {a}"),
}
_SIGNS = {"+": ("+",), "-": ("-",), "*": ("*", "x", "\u00d7"), "/": ("/", "÷")}


def write(numbers: tuple[str, str, str, str], nouns: tuple[str, str], question: str, rng: random.Random) -> str:
    """A rationale that calculates `a sign b = result` for the question and answers `result`.

    `numbers` are a, sign (+, -, * or /), b and result; `nouns` follow a and b where they are not empty.
    """
    a, sign, b, result = numbers
    left, right = (f"{number} {noun}".strip() for number, noun in zip((a, b), nouns, strict=True))
    asked = _asked(question)
    words = {
        "what": f"the number of {asked}" if asked else "the result",
        "counted": f"{result} {asked}".strip(),
        "left": left,
        "right": right,
        "verb": rng.choice(_VERBS[sign]).format(a=a, b=b),
        "equation": f"{a} {rng.choice(_SIGNS[sign])} {b} = {result}",
        "result": result,
    }
    sentences = [rng.choice(kind).format(**words) for kind in (_OPENINGS, _WORKINGS, _CLOSINGS)]
    return " ".join([*(sentence for sentence in sentences if sentence), f"The answer is {result}"])


def _asked(question: str) -> str:
    """What the question asks the number of; empty when it does not say."""
    asked = list(_ASKED.finditer(question))
    found = (asked[-1].group(1) or asked[-1].group(2)).strip() if asked else ""
    # Braces would be read as a template's.
    return "" if not found or _NO_NOUN.fullmatch(found) else found
