"""The schema: one question, its gold answer, and the rationales that teachers wrote for it.

Owns the in-memory records that everything downstream reads. Knows no file format (`readers`), no step rule (`steps`)
and no tensor.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rationale:
    """One teacher's text for one question, cut into steps.

    `steps` and `answer_sentence` are consecutive pieces of the text: joined without a separator they give it back. The
    answer sentence is the teacher's own conclusion, which may be wrong; it is empty when the text has none.
    `is_correct` is the source's verdict: a label for evaluation and the oracle method, never an input of the weights.
    """

    teacher: str
    steps: tuple[str, ...]
    answer_sentence: str
    is_correct: bool | None = None

    @property
    def text(self) -> str:
        """The rationale as its teacher wrote it."""
        return "".join(self.steps) + self.answer_sentence


@dataclass(frozen=True, slots=True)
class Example:
    """One question with its gold answer and its rationales, in the order of the file.

    `where` says where it stands (``train.jsonl:12``), for messages.
    """

    id: str
    question: str
    answer: str
    rationales: tuple[Rationale, ...]
    where: str
