"""Fixed prompts on which two students are compared: questions with the rationales of each teacher, in tokens.

Owns which tokens count. Where two students' states on them lie is `latent_space`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from compact_ds.data.records import Example
from compact_ds.tree.tokenise import Ints, Tokeniser


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question's ids, with a teacher's rationale behind it or without one.

    States are compared from token `first` on. The rationale begins at `start`; `question` numbers the questions of a source.
    """

    ids: Ints
    first: int
    start: int
    question: int
    teacher: str | None = None


def prompts_of(examples: Sequence[Example], tokeniser: Tokeniser, max_tokens: int) -> tuple[list[Prompt], int]:
    """One prompt a rationale, or the bare question where there is none, and how many were cut at `max_tokens`.

    A question counts once, whatever the number of its rationales. What all questions of the source begin with does not count at
    all (a chat template, but at least the first token): its states say nothing of the source, and the first token's are so
    large in most models that they alone would decide every figure (arXiv 2402.17762).
    """
    questions = [tokeniser.prompt(example.question) for example in examples]
    shared = _shared(questions)
    found = []
    for number, (example, question) in enumerate(zip(examples, questions, strict=True)):
        if not example.rationales:
            found.append(Prompt(question, shared, len(question), number))
        for place, rationale in enumerate(example.rationales):
            ids, _ = tokeniser.rationale(rationale)
            whole = np.concatenate((question, ids))
            first = len(question) if place else shared
            found.append(Prompt(whole, first, len(question), number, rationale.teacher))
    cut = [replace(prompt, ids=prompt.ids[:max_tokens]) for prompt in found]
    return cut, sum(len(prompt.ids) > max_tokens for prompt in found)


def _shared(questions: Sequence[Ints]) -> int:
    """Tokens that all questions begin with, at least 1; 1 when there is nothing to compare them with."""
    if len(questions) < 2:
        return 1
    shortest = min(map(len, questions))
    same = [len({int(ids[i]) for ids in questions}) == 1 for i in range(shortest)]
    return max(1, same.index(False) if False in same else shortest)
