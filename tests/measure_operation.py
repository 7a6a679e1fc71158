"""Whether generated texts set up the right calculation, whatever they make of it: what a misleading teacher spoils first.

    python tests/measure_operation.py QUESTIONS ROWS.jsonl [OTHER.jsonl]

QUESTIONS is a file of two-number word problems, ROWS what `compact-ds eval --output` wrote, samples or not. A text is right
when its last calculation (`12 + 5`, `$3 * 4`) has two numbers of the question and an operation that give the gold answer.
Prints the share over the questions that have such a calculation, with its bootstrap interval, and, beside OTHER, the
difference on the same questions.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from compact_ds.data.mislead import right_calculations
from compact_ds.evaluation.statistics import interval, paired_difference

_SIGNS = {"+": "+", "-": "-", "\u2212": "-", "\u2013": "-", "*": "*", "x": "*", "\u00d7": "*", "/": "/", "÷": "/"}
_NUMBER = r"\$?(\d[\d,]*(?:\.\d+)?)"
# `290 (total number of bananas) ÷ 2 groups =`: words and remarks may stand behind the numbers.
_WORDS = r"[^\d=?!]{0,80}?"
_CALCULATION = re.compile(rf"{_NUMBER}{_WORDS}\s*([-+*/x\u00d7÷\u2212\u2013])\s*{_NUMBER}{_WORDS}=", re.IGNORECASE)

Setup = tuple[str, float, float]


def right_setups(question: str, answer: str) -> set[Setup]:
    """Every operation on two numbers of the question that gives the answer."""
    return {
        _setup(one.sign, float(one.left.value), float(one.right.value)) for one in right_calculations(question, answer)
    }


def last_setup(text: str) -> Setup | None:
    """The last calculation that the text writes down."""
    found = _CALCULATION.findall(text)
    if not found:
        return None
    left, sign, right = found[-1]
    return _setup(_SIGNS[sign.lower()], float(left.replace(",", "")), float(right.replace(",", "")))


def _setup(sign: str, left: float, right: float) -> Setup:
    if sign in "+*":
        left, right = sorted((left, right))
    return sign, left, right


def shares(questions: Path, rows: Path) -> dict[str, float]:
    """By question, the share of its texts whose last calculation is right."""
    right = {}
    for line in questions.read_text(encoding="utf-8").splitlines():
        example = json.loads(line)
        if setups := right_setups(example["question"], example["answer"]):
            right[example["id"]] = setups
    found = {}
    for line in rows.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["id"] in right:
            texts = [sample["text"] for sample in row.get("samples", [row])]
            found[row["id"]] = sum(last_setup(text) in right[row["id"]] for text in texts) / len(texts)
    return found


if __name__ == "__main__":
    file, *given = (Path(word) for word in sys.argv[1:])
    by_question = [shares(file, one) for one in given]
    for one, found in zip(given, by_question, strict=True):
        print(
            f"{one}: {sum(found.values()) / len(found):.3f} of {len(found)} questions, {interval(list(found.values()))}"
        )
    if len(by_question) > 1:
        pairs = [(value, by_question[1][id]) for id, value in by_question[0].items()]
        values, others = zip(*pairs, strict=True)
        print("difference:", paired_difference(values, others))
