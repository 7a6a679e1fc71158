"""The built-in tasks: small problems on a dial of ten digits, generated from a seed, without a download.

Owns the problems, the split and the order of teachers. What each teacher writes is `arithmetic_teachers`' concern.

A problem has three digits and one operation that is used twice, modulo ten; its kind is the operation. Which problems
are held out does not depend on the seed, so a run with any seed may be evaluated on any other's held-out part; the seed
orders questions and teachers and draws the guesses of the lucky guesser.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product
from typing import Literal

from compact_ds.data import arithmetic_teachers as teachers
from compact_ds.data.arithmetic_teachers import KINDS, MODULUS, Problem
from compact_ds.data.records import Example, Rationale
from compact_ds.errors import DataError, nearest

Part = Literal["train", "eval"]

TASKS: dict[str, tuple[str, ...]] = {
    "arithmetic": teachers.SPECIALISTS,
    "arithmetic_hard": (*teachers.SPECIALISTS, *teachers.EXTRAS),
    **{f"arithmetic_misled_{m}": (*teachers.GOOD[m:], *teachers.MISLEADING[:m]) for m in range(4)},
    **{f"arithmetic_colluding_{m}": (*teachers.GOOD[m:], *teachers.COLLUDING[:m]) for m in (2, 3)},
}
"""Task -> its teachers. `misled_M`: four, M of them always wrong, each by its own rule; `colluding_M`: all M by one rule."""

ROLES = teachers.ROLES
"""Teacher -> its role, for reports and tests; nothing that a student or a weight reads shows it."""

QUESTION = "What does {a} {kind} {b} {kind} {c} make ?"
TRAIN_PER_KIND = 667
EVAL_PER_KIND = 67

_SPLIT_SEED = 20260113
_CLASSIC, _DOSED = (*teachers.SPECIALISTS, "eve"), teachers.MISLEADING
"""Whose mistakes a problem must tell apart: the same for all tasks of a kind, so that these share their problems."""


def examples(task: str, part: Part, seed: int) -> Iterator[Example]:
    """The questions of a part of a task with every teacher's rationale, in an order that the seed gives.

    Raises DataError for a task that does not exist.
    """
    names = _teachers_of(task)
    problems = _problems(part, _DOSED if set(names) & set(teachers.GOOD) else _CLASSIC)
    rng = random.Random(f"{task} {part} {seed}")
    rng.shuffle(problems)
    for number, problem in enumerate(problems):
        order = rng.sample(names, len(names))
        rationales = tuple(_rationale(name, problem, rng) for name in order)
        question = QUESTION.format(a=problem.a, b=problem.b, c=problem.c, kind=problem.kind)
        name = f"{task}-{part}-{number}"
        yield Example(name, question, str(teachers.result(problem)), rationales, f"task:{task}:{part}:{number + 1}")


def vocabulary(task: str) -> list[str]:
    """Every word, split at white space, that a question, a rationale, the cue or an answer of the task can contain.

    Raises DataError for a task that does not exist.
    """
    templates = [QUESTION, teachers.ANSWER, *KINDS]
    for name in _teachers_of(task):
        templates += teachers.templates(name)
    words = {word for template in templates for word in template.split() if not word.startswith("{")}
    return [*(str(digit) for digit in range(MODULUS)), *sorted(words)]


def _teachers_of(task: str) -> tuple[str, ...]:
    if task not in TASKS:
        raise DataError(f"task:{task}", task, "a built-in task", nearest(task, TASKS))
    return TASKS[task]


def _problems(part: Part, wrong: tuple[str, ...]) -> list[Problem]:
    """The part's problems, as many of each kind, in an order that does not depend on the run's seed.

    `wrong` are the teachers whose wrong rules must show.
    """
    rng = random.Random(_SPLIT_SEED)
    chosen: list[Problem] = []
    for kind in KINDS:
        fair = [
            p
            for p in (Problem(kind, *abc) for abc in product(range(MODULUS), repeat=3))
            if teachers.is_telling(p, wrong)
        ]
        rng.shuffle(fair)
        held_out, rest = fair[:EVAL_PER_KIND], fair[EVAL_PER_KIND:]
        chosen += held_out if part == "eval" else rest[:TRAIN_PER_KIND]
    return chosen


def _rationale(teacher: str, problem: Problem, rng: random.Random) -> Rationale:
    lines, answer = teachers.write(teacher, problem, rng)
    steps = tuple(line if at == 0 else f"\n{line}" for at, line in enumerate(lines))
    sentence = "\n" + teachers.ANSWER.format(answer=answer)
    return Rationale(teacher, steps, sentence, is_correct=answer == teachers.result(problem))
