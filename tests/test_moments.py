"""Comparison of a layer before and after: CKA by its definition with Gram matrices, angles by scipy, planes by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.linalg import subspace_angles

from compact_ds.evaluation.moments import PairMoments

Floats = npt.NDArray[np.float64]
States = tuple[Floats, Floats]


def taken(before: Floats, after: Floats, sizes: Sequence[int]) -> PairMoments:
    """Moments of two [T, D] arrays given in batches of these sizes."""
    moments = PairMoments(before.shape[1])
    start = 0
    for size in sizes:
        moments.add(torch.tensor(before[start : start + size]), torch.tensor(after[start : start + size]))
        start += size
    assert start == len(before)
    return moments


def hsic(left: Floats, right: Floats) -> float:
    """HSIC of two Gram matrices: tr(K H L H) / (n - 1)^2, with H the centring matrix."""
    num = len(left)
    centring = np.eye(num) - np.full((num, num), 1 / num)
    return float(np.trace(left @ centring @ right @ centring)) / (num - 1) ** 2


@pytest.fixture(scope="module")
def states() -> States:
    """Correlated states with a mean far from zero and uneven spread, as hidden states have."""
    draw = np.random.default_rng(0)
    before = draw.normal(size=(70, 12)) * np.geomspace(30, 0.1, 12) + 100 * draw.normal(size=12)
    after = before @ (np.eye(12) + 0.2 * draw.normal(size=(12, 12))) + 0.5 * draw.normal(size=(70, 12)) + 50
    return before, after


@pytest.mark.parametrize("sizes", [[70], [1] * 70, [3, 0, 40, 27]])
def test_cka_is_that_of_centred_gram_matrices(states: States, sizes: Sequence[int]) -> None:
    before, after = states
    grams = before @ before.T, after @ after.T
    want = hsic(*grams) / math.sqrt(hsic(grams[0], grams[0]) * hsic(grams[1], grams[1]))
    assert 0.2 < want < 0.995
    # float64 sums in another order; the Gram matrices of uncentred states lose some 5 digits of 16.
    assert taken(before, after, sizes).cka == pytest.approx(want, rel=1e-9)


def test_cka_sees_neither_rotation_nor_scale_nor_shift(states: States) -> None:
    before, after = states
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 12)))
    assert taken(before, 3 * before @ rotation - 7, [70]).cka == pytest.approx(1, abs=1e-12)
    turned = taken(before, after @ rotation, [70]).cka
    assert turned == pytest.approx(taken(before, after, [70]).cka, abs=1e-12)
    assert math.isnan(taken(before, np.ones_like(before), [70]).cka)


def test_moments_hold_where_raw_sums_cancel() -> None:
    """States a million spreads away from zero: the plain sum of squares less n times the squared mean is all rounding."""
    draw = np.random.default_rng(2)
    before = draw.normal(size=(50, 4))
    after = before + 0.5 * draw.normal(size=(50, 4))
    want = taken(before, after, [50]).cka
    # The shifted numbers themselves are rounded at 1e-16 * 1e6, a 1e-10 of their spread.
    assert taken(before + 1e6, after + 1e6, [10] * 5).cka == pytest.approx(want, abs=1e-9)


def test_drift_is_the_mean_of_one_less_the_cosine(states: States) -> None:
    before, after = states
    cosine = (before * after).sum(1) / np.linalg.norm(before, axis=1) / np.linalg.norm(after, axis=1)
    assert taken(before, after, [20, 50]).drift == pytest.approx(1 - cosine.mean(), rel=1e-12)
    by_hand = taken(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[0.0, 3.0], [0.0, 5.0]]), [2])
    assert by_hand.drift == pytest.approx(0.5)


@pytest.mark.parametrize("number", [1, 3, 12])
def test_angles_are_those_of_scipy_between_singular_vectors(states: States, number: int) -> None:
    spans = [np.linalg.svd(s - s.mean(0))[2][:number].T for s in states]
    want = np.degrees(subspace_angles(*spans))
    found = taken(*states, [30, 40]).leading(number)
    # An angle of zero is the arcsine of rounding, 1e-8 at most.
    assert np.allclose(found.angles_K, want, atol=1e-5)
    most = (np.linalg.svd(states[1] - states[1].mean(0))[1][:number] ** 2).sum()
    held = (((states[1] - states[1].mean(0)) @ spans[0]) ** 2).sum()
    assert found.kept == pytest.approx(held / most, rel=1e-9)


def test_a_plane_turned_by_thirty_degrees() -> None:
    """Variance 9 along x and 1 along y, turned: the leading direction turns as much and keeps 9 cos^2 + sin^2 of 9."""
    before = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    angle = math.radians(30)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    found = taken(before, before @ turn, [4])
    assert found.leading(1).angles_K == pytest.approx((30,), abs=1e-9)
    assert found.leading(1).kept == pytest.approx((9 * 0.75 + 0.25) / 9)
    assert found.leading(2).angles_K == pytest.approx((0, 0), abs=1e-5)
    # (18 + 2)^2 / (18^2 + 2^2), and a rotation changes none of it.
    assert found.dimensions == pytest.approx((400 / 328, 400 / 328))
