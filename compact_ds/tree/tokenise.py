"""From an Example to a Record: the token ids of question, rationales and probe, with the place where each step ends.

Owns how text becomes tokens, the chat template included, the same way for training, probing and evaluation. Does not
choose rationales or probes and builds no tree.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from compact_ds.data.chat_prompt import chat_prompt
from compact_ds.data.records import Example, Rationale
from compact_ds.errors import DataError

Ints = npt.NDArray[np.int32]

UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class RationaleTokens:
    """One rationale in tokens, its end-of-text token included.

    `step_ends` counts the tokens up to and including each step. `verdict` is the file's (1, 0 or UNKNOWN), `answer_right`
    whether the teacher's own answer equals the gold one (1, 0): both are labels for reports and the oracle. `votes` is how many
    teachers of the example give this rationale's answer, 0 when it has none.
    """

    teacher: int
    ids: Ints
    step_ends: Ints
    consensus: float
    verdict: int
    answer_right: int
    votes: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """One example in tokens. The last `answer_tokens` of `probe_ids` are the gold answer, the others the cue."""

    id: str
    where: str
    prompt_ids: Ints
    probe_ids: Ints
    answer_tokens: int
    rationales: tuple[RationaleTokens, ...]


class Tokeniser:
    """A student's tokenizer with the rules by which questions, rationales and probes become ids."""

    def __init__(self, tokenizer: Any, cue: str) -> None:
        self.tokenizer, self.cue = tokenizer, cue

    @property
    def fingerprint(self) -> str:
        """Changes with whatever changes the ids: vocabulary, merges, chat template, special tokens, cue."""
        backend = self.tokenizer.backend_tokenizer.to_str()
        parts = (backend, str(self.tokenizer.chat_template), str(self.tokenizer.eos_token), self.cue)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def prompt_text(self, question: str) -> str:
        """The question as the student sees it, in the chat template when there is one."""
        if self.tokenizer.chat_template is None:
            return question + "\n"
        return chat_prompt(self.tokenizer, [{"role": "user", "content": question}])

    def prompt(self, question: str) -> Ints:
        """Ids of the question; the template brings its own special tokens, plain text gets the tokenizer's."""
        plain = self.tokenizer.chat_template is None
        return _ints(
            self.tokenizer(self.prompt_text(question), add_special_tokens=False)["input_ids"], self._bos(plain)
        )

    def rationale(self, rationale: Rationale) -> tuple[Ints, Ints]:
        """Ids of the whole text, tokenised in one go as plain fine-tuning does, and the count at the end of each step."""
        encoded = self.tokenizer(rationale.text, add_special_tokens=False, return_offsets_mapping=True)
        starts = np.array([start for start, _ in encoded["offset_mapping"]], dtype=np.int64)
        boundaries, begin = [], 0
        for step in rationale.steps:
            boundaries.append(begin + len(step.rstrip()))
            begin += len(step)
        ends = np.searchsorted(starts, np.array(boundaries, dtype=np.int64), side="left").astype(np.int32)
        eos = self.tokenizer.eos_token_id
        return _ints([*encoded["input_ids"], *([] if eos is None else [eos])]), ends

    def probe(self, answer: str, where: str) -> tuple[Ints, int]:
        """Ids of the cue and the gold answer, and how many of them are the answer's. Raises DataError."""
        encoded = self.tokenizer(self.cue + answer, add_special_tokens=False, return_offsets_mapping=True)
        of_answer = [end > len(self.cue) for _, end in encoded["offset_mapping"]]
        if not any(of_answer) or of_answer[0]:
            raise DataError(
                where, self.cue + answer, "a cue and an answer that have tokens", "change data.cue or the answer"
            )
        return _ints(encoded["input_ids"]), len(of_answer) - of_answer.index(True)

    def _bos(self, plain: bool) -> list[int]:
        bos = self.tokenizer.bos_token_id
        adds = plain and bos is not None and self.tokenizer("a")["input_ids"][:1] == [bos]
        return [bos] if adds else []


def tokenise(
    example: Example,
    tokeniser: Tokeniser,
    teachers: dict[str, int],
    consensus: list[float],
    answers_right: list[bool],
    answer_votes: list[int] | None = None,
) -> Record:
    """The record of an example; `consensus` and the others have one entry a rationale, no votes are 0. Raises DataError."""
    probe_ids, answer_tokens = tokeniser.probe(example.answer, example.where)
    rationales = []
    votes = [0] * len(answers_right) if answer_votes is None else answer_votes
    for rationale, value, right, count in zip(example.rationales, consensus, answers_right, votes, strict=True):
        ids, ends = tokeniser.rationale(rationale)
        verdict = UNKNOWN if rationale.is_correct is None else int(rationale.is_correct)
        rationales.append(RationaleTokens(teachers[rationale.teacher], ids, ends, value, verdict, int(right), count))
    prompt_ids = tokeniser.prompt(example.question)
    return Record(example.id, example.where, prompt_ids, probe_ids, answer_tokens, tuple(rationales))


def _ints(ids: list[int], before: list[int] | None = None) -> Ints:
    return np.array([*(before or []), *ids], dtype=np.int32)
