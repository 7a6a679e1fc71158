"""From the Gram matrix of the teachers' gradients to one coefficient a teacher: sum, and four ways to settle conflicts.

Owns the solvers. Every one of them needs inner products only, so the gradients may be shards: the mixed gradient is
`sum_k c_k g_k`. The gradients already carry the weights of the method. Coefficients are scaled so that K equal gradients
give their sum, whatever the solver, and a learning rate keeps its meaning.

Legend: K gradients.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, nnls

from compact_ds.plugins import Registry

Floats = npt.NDArray[np.float64]

Solver = Callable[[Floats, np.random.Generator, float], Floats]
"""From the Gram matrix [K, K] (mean diagonal 1), a source of draws that all ranks share, and `mixer.cagrad_radius`, to c [K]."""

_NEWTON_STEPS = 100

_NNLS_STEPS = 100
"""A gradient, at most. Scipy's own limit of 3 raises for dozens of gradients whose lengths are many decades apart."""


def coefficients(name: str, gram_KK: Floats, *, draw: np.random.Generator, radius: float) -> Floats:
    """c_K of the solver `name`, for finite gradients none of which is zero.

    `draw` orders PCGrad's projections; `radius` is CAGrad's c. One gradient is its own mix whatever the solver.
    """
    if len(gram_KK) == 1:
        return np.ones(1)
    # Inner products of gradients may be 1e-12: solvers stop at absolute tolerances.
    scaled_KK: Floats = gram_KK / np.trace(gram_KK) * len(gram_KK)
    solver = _SOLVERS.get(name) or _ADDED.get(name)
    assert solver is not None, name
    return solver(scaled_KK, draw, radius)


def project_away(coefficients_K: Floats, gram_KK: Floats, reference: int, margin: float = 0.0) -> Floats:
    """The nearest mix m with `m.r >= margin r.r`, r being gradient number `reference`.

    With margin 0 the mix loses its part against r: A-GEM, equation 11 (arXiv 1812.00420). The margin is the memory strength
    of GEM (arXiv 1706.08840). `coefficients_K` may be nonzero at `reference` itself.
    """
    along = float(gram_KK[reference] @ coefficients_K)
    length = float(gram_KK[reference, reference])
    if length <= 0 or along >= margin * length:
        return coefficients_K
    projected_K: Floats = coefficients_K.copy()
    projected_K[reference] += margin - along / length
    return projected_K


def _sum(gram_KK: Floats, draw: np.random.Generator, radius: float) -> Floats:
    return np.ones(len(gram_KK))


def _pcgrad(gram_KK: Floats, draw: np.random.Generator, radius: float) -> Floats:
    """Each gradient loses its part against every other in a random order, then all are summed.

    Algorithm 1 of PCGrad (arXiv 2001.06782), in coordinates of the given gradients.
    """
    num = len(gram_KK)
    total_K = np.zeros(num)
    for k in range(num):
        own_K = np.zeros(num)
        own_K[k] = 1.0
        for j in draw.permutation(num):
            if j != k:
                own_K = project_away(own_K, gram_KK, int(j))
        total_K += own_K
    return total_K


def _mgda(gram_KK: Floats, draw: np.random.Generator, radius: float) -> Floats:
    """K times the point of least norm in the gradients' convex hull (MGDA, arXiv 1810.04650, equation 3)."""
    return len(gram_KK) * least_norm_point(gram_KK)


def least_norm_point(gram_KK: Floats) -> Floats:
    """Weights on the simplex of the hull's point of least norm, exact for a singular Gram matrix too.

    Non-negative least squares of `[R; m 1] w = [0; m]` with `R'R = G`: for any m > 0 its solution is a multiple of the
    point sought, since along a ray `s u` the optimum `m^2 q / (q + m^2)` grows with `q = u'Gu`.
    """
    value_K, vector_KK = np.linalg.eigh(gram_KK)
    root_KK = np.sqrt(np.clip(value_K, 0.0, None))[:, None] * vector_KK.T
    weight = np.sqrt(np.trace(gram_KK) / len(gram_KK))
    rows = np.vstack([root_KK, np.full(len(gram_KK), weight)])
    target = np.append(np.zeros(len(gram_KK)), weight)
    solution_K, _ = nnls(rows, target, maxiter=_NNLS_STEPS * len(gram_KK))
    return np.asarray(solution_K / solution_K.sum())


def _cagrad(gram_KK: Floats, draw: np.random.Generator, radius: float) -> Floats:
    """K times CAGrad's update: the direction within `radius |g0|` of the mean g0 whose worst inner product is largest.

    Solved in its dual, min over the simplex of `g_w.g0 + radius |g0| |g_w|` (arXiv 2110.14048, equation 4).
    """
    num = len(gram_KK)
    mean_K = np.full(num, 1.0 / num)
    bound = radius * np.sqrt(max(float(mean_K @ gram_KK @ mean_K), 0.0))
    if bound == 0:
        return np.ones(num)

    def dual(w_K: Floats) -> tuple[float, Floats]:
        image_K = gram_KK @ w_K
        norm = np.sqrt(max(float(w_K @ image_K), 1e-24))
        return float(mean_K @ image_K) + bound * norm, gram_KK @ mean_K + bound * image_K / norm

    simplex = {"type": "eq", "fun": lambda w_K: w_K.sum() - 1, "jac": np.ones_like}
    starts = [mean_K, least_norm_point(gram_KK)]
    found = [
        minimize(dual, start_K, jac=True, method="SLSQP", bounds=[(0, 1)] * num, constraints=[simplex],
                 options={"ftol": 1e-15, "maxiter": 500})
        for start_K in starts
    ]  # fmt: skip
    w_K = np.clip(min(found, key=lambda one: float(one.fun)).x, 0, None)
    w_K /= w_K.sum()
    norm = np.sqrt(max(float(w_K @ gram_KK @ w_K), 0.0))
    direction_K = mean_K if norm < 1e-12 else mean_K + bound / norm * w_K
    return num * direction_K


def _nash(gram_KK: Floats, draw: np.random.Generator, radius: float) -> Floats:
    """The Nash bargaining solution `G a = 1 / a`, scaled to sum to K (Nash-MTL, arXiv 2202.01017, claim 3.1).

    It is where the convex `a'Ga / 2 - sum log a` is least, which is self-concordant: Newton's method with the step
    `1 / (1 + decrement)` reaches it from anywhere.
    """
    # In units of each gradient's own norm, where the solution is a root of the cosines.
    norm_K = np.sqrt(np.diag(gram_KK))
    # Gradients that cancel exactly have no solution; the ridge bounds it.
    cosine_KK = gram_KK / np.outer(norm_K, norm_K) + 1e-10 * np.eye(len(gram_KK))
    a_K = np.ones(len(gram_KK))
    for _ in range(_NEWTON_STEPS):
        slope_K = cosine_KK @ a_K - 1.0 / a_K
        move_K = np.linalg.solve(cosine_KK + np.diag(a_K**-2.0), slope_K)
        decrement = np.sqrt(max(float(slope_K @ move_K), 0.0))
        a_K = a_K - move_K / (1.0 + decrement if decrement > 0.25 else 1.0)
        if decrement < 1e-12:
            break
    a_K /= norm_K
    return np.asarray(len(a_K) * a_K / a_K.sum())


_SOLVERS: dict[str, Solver] = {
    "sum": _sum,
    "pcgrad": _pcgrad,
    "cagrad": _cagrad,
    "mgda": _mgda,
    "nash": _nash,
}

_ADDED: Registry[Solver] = Registry("solver", tuple(_SOLVERS))


def add_solver(name: str, solver: Solver) -> None:
    """Make a solver of yours known as `mixer.solver: NAME`. Every rank calls it with the same matrix and must get the same.

    Raises ConfigError for a name that is taken.
    """
    _ADDED.add(name, solver)
