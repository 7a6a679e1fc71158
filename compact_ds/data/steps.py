"""Cuts a rationale into steps and the teacher's own answer sentence, without losing a character.

Owns what a step is, where the conclusion starts and how a long chain is thinned to fewer steps. Sentence ends are
`sentences`' concern, the wording of a conclusion `answers`'.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from compact_ds.data.answers import BOXED, CONCLUSION
from compact_ds.data.sentences import pieces

_LINK = (
    r"(?:so|thus|hence|therefore|then|and|finally|consequently|overall|in\s+conclusion|in\s+total|as\s+a\s+result|this\s+means"
    r"|which\s+means|that\s+means|means|we\s+(?:get|find|conclude|know)|i\s+(?:think|believe)|that|because|since)"
)
# What may stand between a step and the announcement of an answer and belongs to the announcement.
_LEAD_IN = re.compile(rf"(?:[\s,;:\u2014\u2013-]|\*\*|__|\b{_LINK}\b)*\Z", re.IGNORECASE)
_LONGEST_LEAD_IN = 60
# A lead-in of so few words without a number ("Looking again,") says nothing that a probe could learn from.
_EMPTY_WORDS = 3


def cut(text: str, known_steps: Sequence[str] | None = None) -> tuple[tuple[str, ...], str]:
    """The steps of a rationale and its answer sentence: `"".join(steps) + answer_sentence == text`.

    White space goes with what follows it; no step is blank. The answer sentence is empty when the text ends in none;
    the steps are when it is nothing else; of several answer sentences in a row at the end none is a step.
    `known_steps` are the source's own: they are looked up in order in the text, what stands between two of them goes
    with the later one and what follows the last is the answer sentence. Raises ValueError naming the one that is not
    there.
    """
    if known_steps is None:
        starts = _starts(pieces(text))
        end = _answer_start(text)
    else:
        starts, end = _find(text, known_steps)
        end = min(end, _answer_start(text))
    if not end:
        return (), text
    inner = [start for start in starts if 0 < start < end]
    steps = tuple(text[low:high] for low, high in pairwise([0, *inner, end]))
    return steps, text[end:]


def thinned(steps: Sequence[str], most: int) -> tuple[str, ...]:
    """At most `most` steps: adjacent ones merged, so that the text is the same and only boundaries go.

    A step closes at the first boundary at which it has so many characters, the fewest that leave `most` steps: asides
    ("Wait.") join what follows, long steps stay as they are, and boundaries are spread over the whole chain.
    """
    if len(steps) <= most:
        return tuple(steps)
    low, high = 0, sum(map(len, steps))
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_merged(steps, middle)) <= most else (middle + 1, high)
    return _merged(steps, low)


def _merged(steps: Sequence[str], length: int) -> tuple[str, ...]:
    """Adjacent steps joined until each has `length` characters; what remains at the end is the last."""
    found: list[list[str]] = []
    size = length
    for step in steps:
        if size >= length:
            found.append([])
            size = 0
        found[-1].append(step)
        size += len(step)
    return tuple("".join(parts) for parts in found)


def _starts(found: Sequence[str]) -> list[int]:
    starts, place = [], 0
    for piece in found:
        starts.append(place)
        place += len(piece)
    return starts


def _find(text: str, known_steps: Sequence[str]) -> tuple[list[int], int]:
    """Where each known step starts, with the gap before it, and where the last one ends."""
    starts, place = [], 0
    for number, step in enumerate(known_steps, start=1):
        words = step.strip()
        here = text.find(words, place)
        if not words or here < 0:
            raise ValueError(f"step {number} ({step[:80]!r}) is not in the text after the step before it")
        starts.append(place)
        place = here + len(words)
    return starts, place if text[place:].strip() else len(text)


def _answer_start(text: str) -> int:
    """Where the answer sentences at the end start, with the white space before them; the length of the text if none."""
    found = pieces(text)
    end = len(text)
    while found:
        piece = found.pop()
        place = _conclusion(piece)
        if place is None:
            break
        end -= len(piece) - place
        if place:
            break
    # White space alone is no step.
    return end if text[:end].strip() else 0


def _conclusion(piece: str) -> int | None:
    """Where in a sentence its conclusion starts, lead-in included; None when the sentence does not conclude."""
    match = CONCLUSION.search(piece)
    if match is None:
        # A box announces with its whole sentence: half a formula is no step.
        return 0 if BOXED.search(piece) else None
    if not piece[match.end() :].strip():
        return None
    lead_in = _LEAD_IN.search(piece, max(0, match.start() - _LONGEST_LEAD_IN), match.start())
    place = lead_in.start() if lead_in else match.start()
    before = piece[:place]
    if len(before.split()) <= _EMPTY_WORDS and not re.search(r"\d", before):
        return 0
    return place
