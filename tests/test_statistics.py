"""Intervals and tests against scipy, sums over all cases, and cases by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from compact_ds.evaluation.statistics import interval, majority_answer, mcnemar, paired_difference, pass_at_k


def test_the_interval_is_that_of_scipys_bootstrap() -> None:
    values = (np.random.default_rng(3).random(300) < 0.3).astype(float)
    low, high = interval(values.tolist())
    other = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1))
    # Both are quantiles of 10,000 draws with a standard deviation of 0.026: they differ by some 0.0006 by chance.
    assert low == pytest.approx(other.confidence_interval.low, abs=0.004)
    assert high == pytest.approx(other.confidence_interval.high, abs=0.004)
    assert interval(values.tolist()) == (low, high)


def test_the_interval_covers_as_often_as_it_says() -> None:
    draw = np.random.default_rng(7)
    covered = 0
    for _ in range(200):
        low, high = interval(draw.normal(2.0, 1.0, size=60).tolist(), level=0.8, resamples=400)
        covered += low <= 2.0 <= high
    # Binomial(200, 0.8): 160 with a standard deviation of 5.7.
    assert abs(covered - 160) < 18


def test_one_value_is_its_own_interval_and_none_is_refused() -> None:
    assert interval([0.25]) == (0.25, 0.25)
    with pytest.raises(ValueError, match="no values"):
        interval([])


@pytest.mark.parametrize(("only", "only_other"), [(0, 0), (1, 0), (3, 9), (12, 12), (2, 17)])
def test_mcnemar_counts_the_cases_that_differ(only: int, only_other: int) -> None:
    right = [True] * only + [False] * only_other + [True, False]
    other = [False] * only + [True] * only_other + [True, False]
    num = only + only_other
    # All ways in which `num` fair coins fall at least as unevenly.
    far = abs(only - num / 2)
    chance = sum(math.comb(num, heads) for heads in range(num + 1) if abs(heads - num / 2) >= far) / 2**num
    assert mcnemar(right, other) == pytest.approx(chance, rel=1e-9)


def test_a_paired_difference() -> None:
    mean, (low, high) = paired_difference([1, 1, 0, 1], [0, 1, 0, 1])
    assert mean == 0.25
    assert 0 <= low <= mean <= high <= 1


@pytest.mark.parametrize(("num", "right"), [(5, 0), (5, 2), (6, 5), (4, 4)])
def test_pass_at_k_is_the_share_of_all_draws_with_a_right_one(num: int, right: int) -> None:
    for k in range(1, num + 1):
        draws = list(itertools.combinations([True] * right + [False] * (num - right), k))
        assert pass_at_k(num, right, k) == pytest.approx(sum(map(any, draws)) / len(draws), rel=1e-12)


def test_pass_at_k_refuses_more_than_there_are() -> None:
    with pytest.raises(ValueError, match="k=4 of 3"):
        pass_at_k(3, 1, 4)


def test_the_majority_answer() -> None:
    assert majority_answer(["7", None, "8", "8", "7"]) == "7"
    assert majority_answer([None, None]) is None
