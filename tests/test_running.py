"""Running scales against a plain loop over examples, and law 1: no result depends on the split of a step."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compact_ds.compatibility.running import METRICS, SMALLEST_SCALE, RunningScales

NUMBERS = st.floats(-10, 10, width=32)
# One rationale: C, A, D and its token loss. One example: its rationales. One step: its examples.
RATIONALE = st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS)
STEP = st.lists(st.lists(RATIONALE, max_size=4), min_size=1, max_size=6)
Step = list[list[tuple[float, float, float, float]]]


def tensors(step: Step) -> tuple[Tensor, Tensor, Tensor, int]:
    rows = torch.tensor([row for example in step for row in example], dtype=torch.float32).reshape(-1, 4)
    example_R = torch.tensor([x for x, example in enumerate(step) for _ in example], dtype=torch.int64)
    return rows[:, :3].T, rows[:, 3], example_R, len(step)


def seen(decay: float = 0.9) -> RunningScales:
    """Scales that have a mean loss, so that difficulty counts."""
    scales = RunningScales(decay)
    scales.update(scales.contribution(*tensors([[(0, 0, 0, 1.0)]])))
    return scales


@settings(deadline=None)
@given(STEP)
def test_equals_a_loop(step: Step) -> None:
    scales = RunningScales(0.0)
    for _ in range(2):
        scales.update(scales.contribution(*tensors(step)))
    several = [example for example in step if len(example) > 1]
    freedom = sum(len(example) - 1 for example in several)
    for m in range(3):
        squares = math.fsum(statistics.variance(row[m] for row in e) * (len(e) - 1) for e in several)
        expected = math.sqrt(squares / freedom) if freedom else 0.0
        # Squares of values up to 10 carry float64 rounding near 1e-14, whose root is 1e-7.
        assert scales.scale_M[m].item() == pytest.approx(expected if expected >= SMALLEST_SCALE else 0.0, abs=2e-6)
    losses = [row[3] for example in step for row in example]
    assert scales.mean_loss.item() == pytest.approx(statistics.fmean(losses) if losses else math.inf, abs=1e-12)


@settings(deadline=None)
@given(STEP, st.data())
def test_any_split_gives_the_same_update(step: Step, data: st.DataObject) -> None:
    whole, split = seen(), seen()
    whole.update(whole.contribution(*tensors(step)))
    order = data.draw(st.permutations(range(len(step))))
    part = data.draw(st.lists(st.integers(0, 2), min_size=len(step), max_size=len(step)))
    total = torch.zeros(RunningScales(0.5).size, dtype=torch.float64)
    for p in range(3):
        total += split.contribution(*tensors([step[x] for x in order if part[x] == p]))
    split.update(total)
    # Sums of some tens of float64 squares below 400 in another order.
    torch.testing.assert_close(split.sums, whole.sums, rtol=1e-13, atol=1e-11)


def test_decay_by_hand() -> None:
    scales = RunningScales(0.5)
    scales.update(scales.contribution(*tensors([[(0, 1, 0, 1.0), (0, 3, 0, 3.0)]])))
    assert scales.mean_loss.item() == 2.0
    # torch's square root is a unit in the last place off on some processors.
    assert scales.scale_M.tolist() == pytest.approx([0.0, math.sqrt(2.0), 0.0], rel=4e-16, abs=0)
    scales.update(scales.contribution(*tensors([[(0, 1, 0, 5.0), (0, 1, 0, 5.0), (0, 1, 0, 5.0)]])))
    # Losses: (0.5 * 4 + 15) / (0.5 * 2 + 3); squares: (0.5 * 2 + 0) / (0.5 * 1 + 2).
    assert scales.mean_loss.item() == 17 / 4
    assert scales.scale_M[METRICS.index("adaptability")].item() == pytest.approx(math.sqrt(1 / 2.5), abs=1e-15)


def test_nothing_seen() -> None:
    scales = RunningScales(0.9)
    assert scales.scale_M.tolist() == [0.0, 0.0, 0.0] and scales.mean_loss.item() == math.inf
    scales.update(torch.zeros(RunningScales(0.5).size, dtype=torch.float64))
    assert scales.scale_M.tolist() == [0.0, 0.0, 0.0] and scales.mean_loss.item() == math.inf


def test_single_rationales_leave_the_scale_alone() -> None:
    scales = seen()
    scales.update(scales.contribution(*tensors([[(0, 1, 2, 1.0), (1, 3, 4, 1.0)]])))
    before = scales.scale_M
    scales.update(scales.contribution(*tensors([[(9, 9, 9, 1.0)], [(5, 5, 5, 1.0)]])))
    torch.testing.assert_close(scales.scale_M, before, rtol=1e-15, atol=0)


def test_difficulty_is_not_counted_before_there_is_a_mean_loss() -> None:
    step: Step = [[(0, 1, 0, 1.0), (1, 3, 0, 1.0)]]
    scales = RunningScales(1 - 1e-9)
    scales.update(scales.contribution(*tensors(step)))
    scales.update(scales.contribution(*tensors([[(0, 1, 2, 1.0), (1, 3, 4, 1.0)]])))
    # Had the first step counted, the scale would be 1.
    assert scales.scale_M[METRICS.index("difficulty")].item() == pytest.approx(math.sqrt(2), abs=1e-12)


def test_rounding_noise_is_no_spread() -> None:
    scales = seen()
    scales.update(scales.contribution(*tensors([[(0.1, 1, 0, 1.0), (0.1 + 1e-8, 2, 0, 1.0)]])))
    assert scales.scale_M[0].item() == 0.0 and scales.scale_M[1].item() > 0


def test_a_restored_state_goes_on_bit_for_bit() -> None:
    step = tensors([[(0.1, 1, 0, 1.7), (0.3, 2, 0.5, 1.1)]])
    one = seen()
    one.update(one.contribution(*step))
    other = RunningScales(0.9)
    state = one.state_dict()
    other.load_state_dict(state)
    for scales in (one, other):
        scales.update(scales.contribution(*step))
    assert torch.equal(one.sums, other.sums)
    assert not torch.equal(state["sums"], one.sums)


def test_sums_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        RunningScales(0.5).load_state_dict({"sums": torch.zeros(9)})
