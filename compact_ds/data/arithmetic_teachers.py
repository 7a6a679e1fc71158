"""What the teachers of the built-in tasks believe and write.

Owns their wrong rules and their wording. Which problems are asked, and in what order teachers stand, is `arithmetic`'s
concern. Names are neutral; only `ROLES` says who is who.
"""

from __future__ import annotations

import random
from typing import NamedTuple

MODULUS = 10
KINDS = ("plus", "times", "max")
SPECIALISTS = ("ada", "ben", "cleo")
EXTRAS = ("dan", "eve", "fay")
GOOD = ("gus", "hal", "ida", "joe")
MISLEADING = ("kim", "leo", "meg")
COLLUDING = ("kim", "ned", "oli")

ROLES = {
    "ada": "specialist in plus",
    "ben": "specialist in times",
    "cleo": "specialist in max",
    "dan": "lucky guesser",
    "eve": "verbose specialist in max",
    "fay": "copycat of a wrong specialist",
    **dict.fromkeys(GOOD, "always right"),
    **dict.fromkeys(MISLEADING, "always wrong, by a rule of its own"),
    "ned": "always wrong, by the rule of kim in other words",
    "oli": "always wrong, by the rule of kim in other words",
}

ANSWER = "The answer is {answer}"

_PLAIN = ("{a} {kind} {b} makes {first} .", "{first} {kind} {c} makes {second} .")
_OTHER_WORDS = ("we take {a} {kind} {b} and get {first} .", "we take {first} {kind} {c} and get {second} .")
_SHORT = ("first {first} .", "then {second} .")
_VERBOSE = (
    "we start with {a} and then use {kind} {b} and {kind} {c} .",
    "{a} {kind} {b} makes {first} .",
    "check : {a} {kind} {b} makes {first} again .",
    "{first} {kind} {c} makes {second} .",
    "check : {first} {kind} {c} makes {second} again .",
    "so the dial ends at {second} .",
)

# What a teacher adds to every result, by kind. 0 is right; no two teachers of a task share a wrong rule, so that no average
# of them and no vote among them is right; those who collude do.
_SHIFT = {
    "ada": {"plus": 0, "times": 3, "max": 7},
    "ben": {"plus": 4, "times": 0, "max": 1},
    "cleo": {"plus": 8, "times": 6, "max": 0},
    "eve": {"plus": 1, "times": 9, "max": 0},
    **{name: dict.fromkeys(KINDS, 0) for name in GOOD},
    **{name: {"plus": 4, "times": 3, "max": 7} for name in COLLUDING},
    "leo": {"plus": 8, "times": 6, "max": 1},
    "meg": {"plus": 1, "times": 9, "max": 4},
}
# Whom the copycat repeats: the same wrong specialist on every problem of a kind.
_COPIED = {"plus": "ben", "times": "cleo", "max": "ada"}


class Problem(NamedTuple):
    """`a kind b kind c` on the dial, from left to right; `max` is the larger of two digits."""

    kind: str
    a: int
    b: int
    c: int


def result(problem: Problem) -> int:
    """The gold answer, a digit."""
    return _values(problem, shift=0)[1]


def is_telling(problem: Problem, teachers: tuple[str, ...] = (*SPECIALISTS, "eve")) -> bool:
    """Whether every wrong one of `teachers` is wrong at both steps and all who are wrong differ from each other in the answer.

    A wrong rule applied twice can come out right by chance; such a problem would blur who is right.
    """
    shifts = [_SHIFT[name][problem.kind] for name in teachers]
    answers = {_values(problem, shift)[1] for shift in (0, *shifts)}
    return len(answers) == 1 + sum(shift != 0 for shift in shifts)


def write(teacher: str, problem: Problem, rng: random.Random) -> tuple[list[str], int]:
    """The teacher's steps and the answer it gives. `rng` draws the steps of the lucky guesser."""
    answer = result(problem)
    if teacher == "dan":
        first, second = _guess(problem, rng)
    else:
        believer = _COPIED[problem.kind] if teacher == "fay" else teacher
        first, second = _values(problem, _SHIFT[believer][problem.kind])
        answer = second
    words = problem._asdict() | {"first": first, "second": second}
    return [template.format(**words) for template in templates(teacher)], answer


def templates(teacher: str) -> tuple[str, ...]:
    """The wording of the teacher's steps."""
    return {"eve": _VERBOSE, "fay": _OTHER_WORDS, "ned": _OTHER_WORDS, "oli": _SHORT}.get(teacher, _PLAIN)


def _values(problem: Problem, shift: int) -> tuple[int, int]:
    first = _apply(problem.kind, problem.a, problem.b, shift)
    return first, _apply(problem.kind, first, problem.c, shift)


def _apply(kind: str, left: int, right: int, shift: int) -> int:
    exact = {"plus": left + right, "times": left * right, "max": max(left, right)}[kind]
    return (exact + shift) % MODULUS


def _guess(problem: Problem, rng: random.Random) -> tuple[int, int]:
    """Random results of which none is right at its step and none is the answer."""
    answer = result(problem)
    right_first = _values(problem, shift=0)[0]
    first = rng.choice([d for d in range(MODULUS) if d not in (right_first, answer)])
    honest_second = _apply(problem.kind, first, problem.c, shift=0)
    second = rng.choice([d for d in range(MODULUS) if d not in (honest_second, answer)])
    return first, second
