"""What ranks add up in a step, against plain sums over rationales, and the loss whose gradient is the weighted mix."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compact_ds.compatibility.running import RunningScales
from compact_ds.mixer.agreement import Agreed, Agreement, right_share, teacher_means
from compact_ds.mixer.loss_mode import weighted_loss

TEACHERS = ("ada", "ben", "cleo")
METRICS = ("weight", "consensus", "adaptability", "difficulty", "token_loss")


class Row(NamedTuple):
    """A rationale of a step."""

    teacher: int
    weight: float
    consensus: float
    adaptability: float
    difficulty: float
    token_loss: float
    right: float


NUMBER = st.floats(-8, 8, width=32)
ROW = st.builds(
    Row, st.integers(0, 2), st.floats(0, 1, width=32), NUMBER, NUMBER, NUMBER, NUMBER, st.sampled_from([0.0, 1.0])
)


def add(agreement: Agreement, rows: Sequence[Row], counts: tuple[int, int], share: float = 0.0) -> None:
    columns = [torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True)]
    teacher_R, weight_R, c_R, a_R, d_R, loss_R, right_R = columns
    labels = (teacher_R.long(), right_R.float())
    shares = torch.full((RunningScales(0.5).size,), share, dtype=torch.float64)
    agreement.add(torch.stack((c_R, a_R, d_R)), loss_R.float(), weight_R.float(), labels, counts, shares)


def agreed(*parts: tuple[Sequence[Row], tuple[int, int]]) -> Agreed:
    """The sums over ranks of which each has one part."""
    total = torch.zeros_like(Agreement(3, torch.device("cpu")).vector)
    for rows, counts in parts:
        agreement = Agreement(3, torch.device("cpu"))
        add(agreement, rows, counts)
        total += agreement.vector
    whole = Agreement(3, torch.device("cpu"))
    whole.vector.copy_(total)
    return whole.read(TEACHERS)


@settings(deadline=None)
@given(st.lists(ROW, min_size=1, max_size=20))
def test_means_equal_a_loop(rows: list[Row]) -> None:
    result = agreed((rows, (len(rows), 5)))
    means = teacher_means(result)
    for t, teacher in enumerate(TEACHERS):
        own = [row for row in rows if row.teacher == t]
        groups = {name: [getattr(row, name) for row in own] for name in METRICS}
        groups["weight_right"] = [row.weight for row in own if row.right]
        groups["weight_wrong"] = [row.weight for row in own if not row.right]
        for name, values in groups.items():
            assert (teacher in means[name]) == bool(values)
            if values:
                # Float64 sums of up to 20 values; a weight on wrong ones is a difference of two sums.
                assert means[name][teacher] == pytest.approx(fmean(values), abs=1e-13)
    share = math.fsum(row.weight for row in rows if row.right) / len(rows)
    assert right_share(result) == pytest.approx(share, abs=1e-13)
    assert result.loss == pytest.approx(math.fsum(row.weight * row.token_loss for row in rows), abs=1e-12)


@settings(deadline=None)
@given(st.lists(ROW, min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_any_split_over_micro_batches_and_ranks_gives_the_same(rows: list[Row], random: random.Random) -> None:
    whole = Agreement(3, torch.device("cpu"))
    add(whole, rows, (len(rows), 7 * len(rows)), share=6.0)
    ranks = [Agreement(3, torch.device("cpu")) for _ in range(3)]
    parts: list[list[Row]] = [[] for _ in range(6)]
    for row in random.sample(rows, len(rows)):
        random.choice(parts).append(row)
    filled = [part for part in parts if part]
    for p, part in enumerate(filled):
        add(ranks[p % 3], part, (len(part), 7 * len(part)), share=6.0 / len(filled))
    total = sum((rank.vector for rank in ranks), torch.zeros_like(whole.vector))
    assert whole.scales_total.tolist() == [6.0] * RunningScales(0.5).size
    # Float64 sums of 20 numbers up to 8 in another order.
    torch.testing.assert_close(total, whole.vector, rtol=0, atol=1e-12)


def test_counts_are_exact() -> None:
    row = Row(0, 0.5, 0.0, 0.0, 0.0, 2.0, 1.0)
    result = agreed(([row], (1, 2**24 + 1)), ([row], (2, 2**40)))
    # fp32 holds whole numbers up to 2**24 only.
    assert (result.examples, result.tokens, result.loss) == (3, 2**40 + 2**24 + 1, 2.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_rationale_with_anything_that_is_no_number_counts_as_unfit_once(bad: float) -> None:
    good = Row(0, 0.5, 0.25, 1.0, 0.5, 2.0, 1.0)
    for name in METRICS:
        broken: dict[str, Any] = {name: bad}
        rows = [good, good._replace(**broken), good._replace(teacher=1), good._replace(teacher=2, **broken)]
        assert agreed((rows, (2, 8)), ([good], (1, 3))).num_unfit == 2, name
    everywhere = Row(0, bad, bad, bad, bad, bad, 1.0)
    assert agreed(([everywhere, good], (1, 3))).num_unfit == 1
    assert agreed(([good], (1, 3))).num_unfit == 0


def test_one_rank_that_asks_to_stop_stops_all() -> None:
    row = Row(1, 1.0, 0.0, 0.0, 0.0, 2.0, 0.0)
    ranks = [Agreement(3, torch.device("cpu")) for _ in range(4)]
    for agreement in ranks:
        add(agreement, [row], (1, 3))
        assert not agreement.read(TEACHERS).stop
    ranks[2].request_stop()
    whole = Agreement(3, torch.device("cpu"))
    whole.vector.copy_(sum((agreement.vector for agreement in ranks), torch.zeros_like(whole.vector)))
    result = whole.read(TEACHERS)
    assert result.stop
    assert (result.num_unfit, result.examples, result.tokens, result.loss) == (0, 4, 12, 8.0)


def test_right_share_by_hand() -> None:
    rows = [Row(0, 0.75, 0, 0, 0, 1, 1.0), Row(1, 0.25, 0, 0, 0, 1, 0.0), Row(0, 0.5, 0, 0, 0, 1, 0.0)]
    rows.append(Row(2, 0.5, 0, 0, 0, 1, 1.0))
    # Two examples: 0.75 of the first and 0.5 of the second lie on right ones.
    assert right_share(agreed((rows, (2, 9)))) == 0.625
    assert right_share(Agreement(3, torch.device("cpu")).read(TEACHERS)) == 0.0


def test_means_by_hand() -> None:
    rows = [Row(0, 0.75, 0.5, 1, -1, 2, 1.0), Row(0, 0.25, 0.0, 3, 1, 4, 0.0), Row(2, 1.0, 0.25, 0, 0, 1, 1.0)]
    means = teacher_means(agreed((rows[:1], (1, 4)), (rows[1:], (1, 5))))
    assert means == {
        "weight": {"ada": 0.5, "cleo": 1.0}, "consensus": {"ada": 0.25, "cleo": 0.25},
        "adaptability": {"ada": 2.0, "cleo": 0.0}, "difficulty": {"ada": 0.0, "cleo": 0.0},
        "token_loss": {"ada": 3.0, "cleo": 1.0}, "weight_right": {"ada": 0.75, "cleo": 1.0}, "weight_wrong": {"ada": 0.25},
    }  # fmt: skip


def test_one_backward_gives_the_weighted_sum_of_the_teachers_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(6, generator=generator, dtype=torch.float64)
    inputs_RI = torch.randn(4, 6, generator=generator, dtype=torch.float64)

    def losses(parameter: Tensor) -> Tensor:
        return (inputs_RI @ parameter).tanh() ** 2

    parameter = start.clone().requires_grad_()
    weight_R = torch.tensor([0.5, 0.25, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    loss = weighted_loss(losses(parameter), weight_R)
    loss.backward()
    expected, total = torch.zeros_like(start), 0.0
    for r, weight in enumerate(weight_R.tolist()):
        alone = start.clone().requires_grad_()
        one = losses(alone)[r]
        (gradient,) = torch.autograd.grad(one, alone)
        expected += weight * gradient
        total += weight * one.item()
    assert weight_R.grad is None
    # Float64 sums of four gradients near 1.
    torch.testing.assert_close(parameter.grad, expected, rtol=0, atol=1e-14)
    assert loss.item() == pytest.approx(total, abs=1e-15)
