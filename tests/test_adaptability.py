"""Adaptability, from rows of the head through segments and chains to A, against hand-computed cases and a float64 loop."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compact_ds.compatibility.adaptability import Kind, adaptability
from compact_ds.kernels.segment_scores import plan_scores, segment_scores


def _gains(rationales: list[tuple[float, list[float]]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Total, jump and epiphany of rationales given as (g[0], g[1], ...), one answer token a probe."""
    gold_S = torch.tensor([g0 for g0, _ in rationales] + [g for _, probes in rationales for g in probes])
    lengths = torch.tensor([0, *(len(probes) for _, probes in rationales)])
    plan = plan_scores(
        len(gold_S),
        1,
        torch.arange(len(gold_S) + 1),
        base_C=torch.arange(len(rationales)),
        chain_C1=lengths.cumsum(0) + len(rationales),
    )
    scores = segment_scores(torch.zeros(len(gold_S)), gold_S[:, None], plan, kernels="torch")
    return scores.total_C, scores.jump_C, scores.step_C


# Three rationales with 3, 0 and 2 probes.
BY_HAND = [(-2.0, [-2.5, -1.0, -0.5]), (-2.0, []), (-1.0, [-1.5, -3.0])]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("total", [1.5, 0.0, -2.0]), ("jump", [1.5, 0.0, -0.5]), ("mix", [1.5, 0.0, -1.25])],
)
def test_by_hand(kind: Kind, expected: list[float]) -> None:
    total_R, jump_R, epiphany_R = _gains(BY_HAND)
    assert adaptability(total_R, jump_R, kind).tolist() == expected
    assert epiphany_R.tolist() == [1, -1, 0]


def test_of_two_equal_rises_the_first_is_the_epiphany() -> None:
    assert _gains([(-2.0, [-1.0, 0.0])])[2].tolist() == [0]


def test_carries_no_gradient() -> None:
    total_R = torch.ones(2, requires_grad=True)
    assert not adaptability(total_R, total_R, "mix").requires_grad


LOGS = st.floats(-20, 0, width=32)


@settings(deadline=None)
@given(st.lists(st.tuples(LOGS, st.lists(LOGS, max_size=5)), min_size=1, max_size=5))
def test_equals_a_loop(rationales: list[tuple[float, list[float]]]) -> None:
    total_R, jump_R, epiphany_R = _gains(rationales)
    for i, (g0, probes) in enumerate(rationales):
        levels = [g0, *probes]
        rises = [after - before for before, after in pairwise(levels)]
        total, jump = levels[-1] - levels[0], max(rises, default=0.0)
        kinds: tuple[tuple[Kind, float], ...] = (("total", total), ("jump", jump), ("mix", (total + jump) / 2))
        for kind, expected in kinds:
            # One fp32 difference of two numbers below 20, whose last bit is 2^-19.
            assert float(adaptability(total_R, jump_R, kind)[i]) == pytest.approx(expected, abs=4e-6)
        if not rises:
            assert int(epiphany_R[i]) == -1
        else:
            # Rises closer than fp32 tells apart may change places.
            assert rises[int(epiphany_R[i])] == pytest.approx(jump, abs=4e-6)
