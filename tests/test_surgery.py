"""The solvers against their papers on whole vectors, and their textbook properties."""

import naive_surgery
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compact_ds.mixer.surgery import Floats, coefficients, least_norm_point, project_away

NAMES = ("sum", "pcgrad", "cagrad", "mgda", "nash")


def gradients(seed: int, num: int, size: int = 30, opposed: float = 0.0) -> Floats:
    """Vectors of very different lengths; `opposed` pulls each against the first."""
    draw = np.random.default_rng(seed)
    found = draw.normal(size=(num, size)) * draw.uniform(0.1, 10, size=(num, 1))
    found[1:] -= opposed * found[0] / np.linalg.norm(found[0]) * np.linalg.norm(found[1:], axis=1, keepdims=True)
    return 1e-4 * found


def mix(name: str, vectors: Floats, radius: float = 0.4) -> Floats:
    found = coefficients(name, vectors @ vectors.T, draw=np.random.default_rng(7), radius=radius)
    return found @ vectors


CASES = [(seed, num, opposed) for seed in range(6) for num in (2, 3, 5, 16) for opposed in (0.0, 0.5, 1.5)]


@pytest.mark.parametrize("name", ["pcgrad", "mgda", "cagrad", "nash"])
def test_on_inner_products_equals_the_paper_on_vectors(name: str) -> None:
    for seed, num, opposed in CASES:
        vectors = gradients(seed, num, opposed=opposed)
        want = getattr(naive_surgery, name)(list(vectors), np.random.default_rng(7))
        # pcgrad is arithmetic; the other two are compared with a general solver of the primal, which stops at about 1e-7.
        scale = num * np.abs(vectors).max()
        tolerance = 1e-12 if name == "pcgrad" else 1e-5
        assert np.abs(mix(name, vectors) - want).max() < tolerance * scale, (seed, num, opposed)


def test_nash_shares_utility_evenly() -> None:
    for seed, num, opposed in CASES:
        vectors = gradients(seed, num, opposed=opposed)
        found = coefficients("nash", vectors @ vectors.T, draw=np.random.default_rng(0), radius=0.4)
        # Claim 3.1 of arXiv 2202.01017: G a = 1 / a up to the common scale, so a_k (G a)_k is the same for every k.
        utility = found * (vectors @ (found @ vectors))
        assert np.ptp(utility) < 1e-6 * utility.max() and found.min() > 0 and found.sum() == pytest.approx(num)


@pytest.mark.parametrize("name", NAMES)
def test_equal_gradients_give_their_sum_whatever_the_solver(name: str) -> None:
    vectors = np.tile(gradients(0, 1), (4, 1))
    extra = 1.4 if name == "cagrad" else 1.0
    # CAGrad goes `radius` beyond the mean, along it.
    assert np.allclose(mix(name, vectors), extra * vectors.sum(0), rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_one_gradient_is_its_own_mix(name: str) -> None:
    vectors = gradients(3, 1)
    assert np.array_equal(mix(name, vectors), vectors[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_the_scale_of_the_gradients_changes_no_coefficient(name: str, scale: float) -> None:
    vectors = gradients(1, 4, opposed=0.5)
    given_1, given_s = (
        coefficients(name, v @ v.T, draw=np.random.default_rng(7), radius=0.4) for v in (vectors, scale * vectors)
    )
    assert np.allclose(given_1, given_s, rtol=1e-5)


def test_pcgrad_of_two_opposes_neither() -> None:
    for seed in range(20):
        vectors = gradients(seed, 2, opposed=1.0)
        assert (vectors @ mix("pcgrad", vectors) >= -1e-12 * (vectors**2).sum(1)).all()


def test_after_each_projection_pcgrad_opposes_that_teacher_no_more() -> None:
    for seed, num, opposed in CASES:
        vectors = gradients(seed, num, opposed=opposed)
        gram = vectors @ vectors.T
        for k in range(num):
            own = np.eye(num)[k]
            for j in np.random.default_rng(seed).permutation(num):
                if j != k:
                    own = project_away(own, gram, int(j))
                    assert own @ gram[j] >= -1e-9 * np.sqrt(gram[k, k] * gram[j, j])


def test_pcgrad_leaves_gradients_without_conflict_alone() -> None:
    vectors = np.abs(gradients(2, 4))
    assert np.allclose(mix("pcgrad", vectors), vectors.sum(0), rtol=1e-12)


def test_mgda_is_the_common_descent_direction_or_none() -> None:
    for seed, num, opposed in CASES:
        vectors = gradients(seed, num, opposed=opposed)
        point = mix("mgda", vectors) / num
        # Every g_k.d >= |d|^2 at the hull's point of least norm (its optimality condition).
        assert (vectors @ point >= point @ point - 1e-9 * (vectors**2).sum(1).max()).all()


def test_the_least_norm_point_of_many_gradients_decades_apart() -> None:
    for seed in range(5):
        draw = np.random.default_rng(seed)
        vectors = draw.normal(size=(32, 60)) * 10.0 ** draw.uniform(-8, 0, size=(32, 1))
        point = least_norm_point(vectors @ vectors.T) @ vectors
        # No vector of a hull's point of least norm has a smaller part along it than the point itself.
        assert (vectors @ point).min() > point @ point - 1e-12 * np.square(vectors).sum(1).mean(), seed


def test_the_least_norm_point_of_opposite_gradients_is_zero() -> None:
    vectors = np.array([[1.0, 0.0], [-3.0, 0.0]])
    weights = least_norm_point(vectors @ vectors.T)
    assert np.allclose(weights, [0.75, 0.25]) and np.allclose(weights @ vectors, 0, atol=1e-9)


def test_cagrad_keeps_its_distance_from_the_mean() -> None:
    for seed, num, opposed in CASES:
        vectors = gradients(seed, num, opposed=opposed)
        mean = vectors.mean(0)
        assert np.linalg.norm(mix("cagrad", vectors) / num - mean) <= 0.4 * np.linalg.norm(mean) * (1 + 1e-9)


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 5))
def test_projection_opposes_the_reference_no_more(seed: int, num: int) -> None:
    vectors = gradients(seed, num + 1)
    gram = vectors @ vectors.T
    start = np.append(np.random.default_rng(seed).normal(size=num), 0.0)
    found = project_away(start, gram, num)
    assert found @ gram[num] >= -1e-9 * gram[num, num]
    if start @ gram[num] >= 0:
        assert np.array_equal(found, start)


@pytest.mark.parametrize("name", NAMES)
def test_exactly_opposite_gradients_make_no_nan(name: str) -> None:
    vectors = np.array([[1.0, 2.0], [-1.0, -2.0]])
    assert np.isfinite(mix(name, vectors)).all()
