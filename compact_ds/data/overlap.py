"""What a file shares with itself and with test files: doubled questions, near-duplicate rationales, contamination.

Owns n-grams of words and the two shares made of them. Two texts are compared as sets of hashed n-grams, so order beyond n words,
case, punctuation and white space do not matter.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import combinations

from compact_ds.data.records import Example, Rationale

NEAR = 0.8
"""Rationales whose 5-grams have at least this Jaccard likeness are near-duplicates."""

_WORD = re.compile(r"\w+")
_SHORT = 5


def ngrams(text: str, n: int) -> frozenset[int]:
    """Hashes of the n-grams of words; a shorter text is one gram of all its words, a text without words has none."""
    words = _WORD.findall(text.casefold())
    if not words:
        return frozenset()
    return frozenset(_hash(words[i : i + n]) for i in range(max(1, len(words) - n + 1)))


def likeness(one: frozenset[int], other: frozenset[int]) -> float:
    """Jaccard likeness of two sets of n-grams; 0 for two empty ones."""
    either = len(one | other)
    return len(one & other) / either if either else 0.0


def near_duplicates(rationales: Sequence[Rationale]) -> list[tuple[int, int]]:
    """Pairs of rationales of one question that different teachers wrote, all but equal in words."""
    grams = [ngrams(rationale.text, _SHORT) for rationale in rationales]
    return [
        (i, j)
        for i, j in combinations(range(len(rationales)), 2)
        if rationales[i].teacher != rationales[j].teacher and likeness(grams[i], grams[j]) >= NEAR
    ]


def doubled_questions(examples: Iterable[Example]) -> list[list[str]]:
    """Ids of examples that ask the same words."""
    places: dict[int, list[str]] = defaultdict(list)
    for example in examples:
        places[_hash(_WORD.findall(example.question.casefold()))].append(example.id)
    return [ids for ids in places.values() if len(ids) > 1]


def contaminated(
    train: Iterable[Example], test: Iterable[Example], n: int = 8, share: float = 0.5
) -> list[Mapping[str, object]]:
    """Training questions of whose n-grams at least `share` stand in one test question: `id`, `test_id`, `share`.

    A question of fewer than n words counts when it is the same word for word. Memory: the n-grams of the test questions.
    """
    places: dict[int, set[str]] = defaultdict(set)
    for example in test:
        for gram in ngrams(example.question, n):
            places[gram].add(example.id)
    found: list[Mapping[str, object]] = []
    for example in train:
        grams = ngrams(example.question, n)
        hits: dict[str, int] = defaultdict(int)
        for gram in grams & places.keys():
            for test_id in places[gram]:
                hits[test_id] += 1
        if hits:
            test_id = max(sorted(hits), key=lambda name: hits[name])
            if hits[test_id] >= share * len(grams):
                found.append({"id": example.id, "test_id": test_id, "share": hits[test_id] / len(grams)})
    return found


def _hash(words: Sequence[str]) -> int:
    return int.from_bytes(blake2b(" ".join(words).encode("utf-8", "replace"), digest_size=8).digest(), "big")
