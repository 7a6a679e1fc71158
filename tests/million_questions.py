"""Writes a synthetic JSONL of many short word problems with two teachers' rationales: `python million_questions.py FILE N`.

One teacher is right; the other errs on every fourth question. Questions are drawn from a fixed seed, so that a file is the same
whenever it is written. Memory does not grow with N.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

WORDS = ("pens", "cups", "maps", "keys", "nuts", "hats")


def question(number: int, draw: random.Random) -> dict[str, Any]:
    """One line of the file."""
    a, b = draw.randint(2, 99), draw.randint(2, 99)
    thing = WORDS[number % len(WORDS)]
    wrong = a + b + 1 if number % 4 == 0 else a + b
    return {
        "id": f"q{number}",
        "question": f"Ann has {a} {thing} and gets {b} more. How many {thing} has she?",
        "answer": str(a + b),
        "rationales": [
            {"teacher": "careful", "text": f"{a} + {b} = {a + b}\nThe answer is {a + b}"},
            {"teacher": "hasty", "text": f"She has {a} + {b} = {wrong} {thing}\nThe answer is {wrong}"},
        ],
    }


def write(file: str | Path, count: int) -> None:
    """`count` questions, a line each."""
    draw = random.Random(0)
    with Path(file).open("w", encoding="utf-8") as out:
        for number in range(count):
            out.write(json.dumps(question(number, draw)) + "\n")


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]))
