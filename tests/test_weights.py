"""Weights against a plain loop, hand-computed cases, and the properties that training rests on."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compact_ds.compatibility.running import RunningScales
from compact_ds.compatibility.weights import uniform_weights, weights
from compact_ds.sections import CompatibilityConfig

NUMBERS = st.floats(-5, 5, width=32)
# One rationale: its teacher and C, A, D.
RATIONALE = st.tuples(st.integers(0, 3), NUMBERS, NUMBERS, NUMBERS)
BATCH = st.lists(st.lists(RATIONALE, min_size=1, max_size=5), min_size=1, max_size=5)
SETTINGS = st.builds(
    CompatibilityConfig,
    alpha=st.floats(0, 2),
    beta=st.floats(0, 2),
    gamma=st.floats(0, 2),
    tau=st.floats(0.1, 2),
    floor=st.floats(0, 1),
    warmup=st.just(0),
)
Batch = list[list[tuple[int, float, float, float]]]


def tensors(batch: Batch) -> tuple[Tensor, Tensor, Tensor, int]:
    rows = [row for example in batch for row in example]
    metrics_MR = torch.tensor([row[1:] for row in rows], dtype=torch.float32).reshape(-1, 3).T
    example_R = torch.tensor([x for x, example in enumerate(batch) for _ in example], dtype=torch.int64)
    return metrics_MR, example_R, torch.tensor([row[0] for row in rows], dtype=torch.int64), len(batch)


def scales_of(*scale_M: float) -> RunningScales:
    scales = RunningScales(0.9)
    scales.update(torch.tensor([*(s * s for s in scale_M), 1, 1, 1, 2.0, 1], dtype=torch.float64))
    return scales


def loop(batch: Batch, scale_M: list[float], settings: CompatibilityConfig) -> list[float]:
    found = []
    for example in batch:
        given_by = Counter(row[0] for row in example)
        prior = [1 / given_by[row[0]] for row in example]
        uniform = [p / len(given_by) for p in prior]
        logits = []
        for row, p in zip(example, prior, strict=True):
            score = 0.0
            for m, coefficient in enumerate((settings.alpha, settings.beta, -settings.gamma)):
                mean = math.fsum(u * other[1 + m] for u, other in zip(uniform, example, strict=True))
                score += coefficient * (row[1 + m] - mean) / scale_M[m] if scale_M[m] else 0.0
            logits.append(math.log(p) + score / settings.tau)
        powers = [math.exp(z - max(logits)) for z in logits]
        found += [
            (1 - settings.floor) * power / math.fsum(powers) + settings.floor * u
            for power, u in zip(powers, uniform, strict=True)
        ]
    return found


@settings(deadline=None)
@given(BATCH, SETTINGS, st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=3, max_size=3))
def test_equals_a_loop_and_sums_to_one(batch: Batch, settings: CompatibilityConfig, scale_M: list[float]) -> None:
    weight_R = weights(*tensors(batch), scales_of(*scale_M), settings, step=0)
    assert weight_R.dtype == torch.float32
    # fp32 rounding of a number up to 1; the arithmetic before it is float64.
    torch.testing.assert_close(weight_R, torch.tensor(loop(batch, scale_M, settings)), rtol=0, atol=1e-6)
    total_X = torch.zeros(len(batch)).index_add(0, tensors(batch)[1], weight_R)
    torch.testing.assert_close(total_X, torch.ones(len(batch)), rtol=0, atol=1e-6)


@settings(deadline=None)
@given(BATCH, SETTINGS, st.data())
def test_order_and_split_of_the_batch_do_not_matter(
    batch: Batch, settings: CompatibilityConfig, data: st.DataObject
) -> None:
    scales = scales_of(0.5, 1.0, 2.0)
    orders = [data.draw(st.permutations(range(len(example)))) for example in batch]
    examples = data.draw(st.permutations(range(len(batch))))
    weight_R = weights(*tensors(batch), scales, settings, step=0)
    start = [sum(len(example) for example in batch[:x]) for x in range(len(batch))]
    for x in examples:
        alone_R = weights(*tensors([[batch[x][r] for r in orders[x]]]), scales, settings, step=0)
        expected_R = weight_R[torch.tensor([start[x] + r for r in orders[x]])]
        # Another order of float64 additions, then the same rounding to fp32 or its neighbour.
        torch.testing.assert_close(alone_R, expected_R, rtol=0, atol=2e-7)


@pytest.mark.parametrize(("term", "m"), [("alpha", 0), ("beta", 1), ("gamma", 2)])
def test_a_term_is_switched_off_by_its_coefficient(term: str, m: int) -> None:
    batch: Batch = [[(0, 1.0, 2.0, 3.0), (1, 2.0, 0.0, 1.0)]]
    settings = CompatibilityConfig.model_validate({"alpha": 1, "beta": 1, "gamma": 1, "warmup": 0, term: 0.0})
    metrics_MR, example_R, teacher_R, num_examples = tensors(batch)
    rest = (example_R, teacher_R, num_examples)
    expected_R = weights(metrics_MR, *rest, scales_of(1, 1, 1), settings, step=0)
    metrics_MR[m, 0] = math.nan
    assert torch.equal(weights(metrics_MR, *rest, scales_of(1, 1, 1), settings, step=0), expected_R)
    switched_on = settings.model_copy(update={term: 1.0})
    assert not weights(metrics_MR, *rest, scales_of(1, 1, 1), switched_on, step=0).isfinite().all()


def test_signs_by_hand() -> None:
    settings = CompatibilityConfig(alpha=1, beta=1, gamma=1, tau=2, warmup=0)
    for m, sign in enumerate((1, 1, -1)):
        first: list[float] = [0.0, 0.0, 0.0]
        first[m] = 3.0
        c, a, d = first
        weight_R = weights(*tensors([[(0, c, a, d), (1, 0.0, 0.0, 0.0)]]), scales_of(1.5, 1.5, 1.5), settings, step=0)
        # A difference of 3 / 1.5 = 2 scales, at tau 2: a log-ratio of 1.
        assert math.log(weight_R[0] / weight_R[1]) == pytest.approx(sign, abs=1e-6)


def test_a_teacher_counts_once_however_often_it_answers() -> None:
    settings = CompatibilityConfig(alpha=0, beta=1, gamma=0, tau=1, warmup=0)
    once = weights(*tensors([[(0, 0, 1.0, 0), (1, 0, 0.0, 0)]]), scales_of(1, 1, 1), settings, step=0)
    thrice = [(0, 0, 1.0, 0)] * 3
    often = weights(*tensors([[*thrice, (1, 0, 0.0, 0)]]), scales_of(1, 1, 1), settings, step=0)
    torch.testing.assert_close(often[:3], once[0].expand(3) / 3, rtol=0, atol=1e-7)
    assert often[3].item() == pytest.approx(once[1].item(), abs=1e-7)


def test_floor_and_warmup() -> None:
    batch: Batch = [[(0, 0, 100.0, 0), (1, 0, 0.0, 0), (2, 0, 0.0, 0)]]
    settings = CompatibilityConfig(floor=0.3, warmup=5)
    early = weights(*tensors(batch), scales_of(1, 1, 1), settings, step=4)
    torch.testing.assert_close(early, torch.full((3,), 1 / 3), rtol=0, atol=1e-7)
    late = weights(*tensors(batch), scales_of(1, 1, 1), settings, step=5)
    torch.testing.assert_close(late, torch.tensor([0.8, 0.1, 0.1]), rtol=0, atol=1e-7)


def test_nothing_seen_gives_uniform_weights() -> None:
    batch: Batch = [[(0, 1, 2, 3), (1, 4, 5, 6)]]
    assert weights(*tensors(batch), RunningScales(0.9), CompatibilityConfig(warmup=0), step=0).tolist() == [0.5, 0.5]


def test_far_apart_scores_stay_finite() -> None:
    batch: Batch = [[(0, 0, 1e6, 0), (1, 0, -1e6, 0)]]
    assert weights(*tensors(batch), scales_of(1, 1, 1), CompatibilityConfig(warmup=0), step=0).tolist() == [1.0, 0.0]


def test_a_bad_metric_stays_in_its_example() -> None:
    batch: Batch = [[(0, 0, math.nan, 0), (1, 0, 0.0, 0)], [(0, 0, 1.0, 0), (1, 0, 1.0, 0)]]
    weight_R = weights(*tensors(batch), scales_of(1, 1, 1), CompatibilityConfig(warmup=0), step=0)
    assert weight_R[:2].isnan().all() and weight_R[2:].tolist() == [0.5, 0.5]


def test_uniform_by_hand() -> None:
    # One example of teachers 4, 4, 7; an example without rationales; one of teacher 4 alone.
    example_R, teacher_R = torch.tensor([0, 0, 0, 2]), torch.tensor([4, 4, 7, 4])
    assert uniform_weights(example_R, teacher_R, 3).tolist() == [0.25, 0.25, 0.5, 1.0]


def test_no_rationale_at_all() -> None:
    empty_R = torch.zeros(0, dtype=torch.int64)
    found = weights(torch.zeros(3, 0), empty_R, empty_R, 2, scales_of(1, 1, 1), CompatibilityConfig(warmup=0), step=0)
    assert found.tolist() == []


def test_carries_no_gradient() -> None:
    metrics_MR, example_R, teacher_R, num_examples = tensors([[(0, 1, 2, 3), (1, 4, 5, 6)]])
    metrics_MR.requires_grad_()
    found = weights(
        metrics_MR, example_R, teacher_R, num_examples, scales_of(1, 1, 1), CompatibilityConfig(warmup=0), step=0
    )
    assert not found.requires_grad
