"""The rationales at both ends of a step's weights, by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from compact_ds.optimizer_step.ends import ends
from compact_ds.tree.tokenise import RationaleTokens, Record

NOTHING = np.zeros(0, dtype=np.int32)


def _batches(*teachers: list[int]) -> Any:
    """One micro-batch of questions with a rationale of each of these teachers."""
    records = [
        Record(f"q{i}", "", NOTHING, NOTHING, 1, tuple(RationaleTokens(t, NOTHING, NOTHING, 0.0, 1, 1) for t in own))
        for i, own in enumerate(teachers)
    ]
    places = tuple((e, r) for e, own in enumerate(teachers) for r in range(len(own)))
    return SimpleNamespace(batches=[SimpleNamespace(places_R=places, counts=True)], records=[records])


def test_the_ends_are_those_furthest_from_an_equal_share() -> None:
    found = ends(_batches([0, 1], [0, 1, 2]), torch.tensor([0.4, 0.6, 0.1, 0.3, 0.6]), ("ann", "ben", "cleo"))
    assert found is not None
    assert [(one.id, one.teacher) for one in found] == [("q1", "cleo"), ("q1", "ann")]
    assert [one.equal for one in found] == pytest.approx([1 / 3, 1 / 3])


def test_a_teacher_who_answers_twice_has_half_its_share_for_each() -> None:
    batches = _batches([0, 0, 1])
    # What the warm-up gives: nobody is more compatible than another.
    assert ends(batches, torch.tensor([0.25, 0.25, 0.5]), ("ann", "ben")) is None
    found = ends(batches, torch.tensor([0.3, 0.2, 0.5]), ("ann", "ben"))
    assert found is not None
    assert [value for one in found for value in (one.weight, one.equal)] == pytest.approx([0.3, 0.25, 0.2, 0.25])
