"""Adaptability and PMI against hand-computed cases and a float64 loop."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compact_ds.compatibility.adaptability import Kind, adaptability, pmi

# Three rationales with 3, 0 and 2 probes; the first two belong to one question (g[0] = -2), the third to another (-1).
GOLD_P = torch.tensor([-2.5, -1.0, -0.5, -1.5, -3.0])
RATIONALE_P = torch.tensor([0, 0, 0, 2, 2])
GOLD0_R = torch.tensor([-2.0, -2.0, -1.0])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("total", [1.5, 0.0, -2.0]), ("jump", [1.5, 0.0, -0.5]), ("mix", [1.5, 0.0, -1.25])],
)
def test_by_hand(kind: Kind, expected: list[float]) -> None:
    adaptability_R, epiphany_R = adaptability(GOLD_P, RATIONALE_P, GOLD0_R, kind)
    assert adaptability_R.tolist() == expected
    assert epiphany_R.tolist() == [1, -1, 3]


def test_pmi_by_hand() -> None:
    assert pmi(GOLD_P, RATIONALE_P, GOLD0_R).tolist() == [-0.5, 1.0, 1.5, -0.5, -2.0]


def test_of_two_equal_rises_the_first_is_the_epiphany() -> None:
    _, epiphany_R = adaptability(torch.tensor([-1.0, 0.0]), torch.tensor([0, 0]), torch.tensor([-2.0]), "total")
    assert epiphany_R.tolist() == [0]


def test_no_probe_at_all() -> None:
    empty_P = torch.zeros(0)
    adaptability_R, epiphany_R = adaptability(empty_P, empty_P.long(), torch.tensor([-1.0, -2.0]), "mix")
    assert adaptability_R.tolist() == [0.0, 0.0] and epiphany_R.tolist() == [-1, -1]


def test_carries_no_gradient() -> None:
    gold_P = GOLD_P.clone().requires_grad_()
    assert not adaptability(gold_P, RATIONALE_P, GOLD0_R, "jump")[0].requires_grad
    assert not pmi(gold_P, RATIONALE_P, GOLD0_R).requires_grad


LOGS = st.floats(-20, 0, width=32)


@settings(deadline=None)
@given(st.lists(st.tuples(LOGS, st.lists(LOGS, max_size=5)), min_size=1, max_size=5))
def test_equals_a_loop(rationales: list[tuple[float, list[float]]]) -> None:
    gold_P = torch.tensor([g for _, probes in rationales for g in probes])
    rationale_P = torch.tensor([r for r, (_, probes) in enumerate(rationales) for _ in probes], dtype=torch.int64)
    gold0_R = torch.tensor([g0 for g0, _ in rationales])
    totals, jumps, epiphanies, offset = [], [], [], 0
    for g0, probes in rationales:
        # Differences of PMIs, as the formula of the rise cancels g[0] only up to rounding.
        levels = [0.0, *(g - g0 for g in probes)]
        rises = [after - before for before, after in pairwise(levels)]
        totals.append(levels[-1])
        jumps.append(max(rises, default=0.0))
        epiphanies.append(offset + rises.index(max(rises)) if rises else -1)
        offset += len(probes)
    expected = {"total": totals, "jump": jumps, "mix": [(t + j) / 2 for t, j in zip(totals, jumps, strict=True)]}
    kinds: tuple[Kind, ...] = ("total", "jump", "mix")
    for kind in kinds:
        adaptability_R, epiphany_R = adaptability(gold_P, rationale_P, gold0_R, kind)
        # The same float64 operations on the same fp32 inputs: equal bit for bit.
        assert adaptability_R.tolist() == expected[kind]
        assert epiphany_R.tolist() == epiphanies
