"""Gradient surgery as its papers write it, on whole float64 vectors, without a Gram matrix: the truth for the tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize, root

from compact_ds.mixer.surgery import Floats


def pcgrad(gradients: Sequence[Floats], draw: np.random.Generator) -> Floats:
    """Algorithm 1 of arXiv 2001.06782."""
    total = np.zeros_like(gradients[0])
    for k, gradient in enumerate(gradients):
        own = gradient.copy()
        for j in draw.permutation(len(gradients)):
            if j != k and own @ gradients[j] < 0:
                own -= own @ gradients[j] / (gradients[j] @ gradients[j]) * gradients[j]
        total += own
    return total


def mgda(gradients: Sequence[Floats], draw: np.random.Generator) -> Floats:
    """K times the hull's point of least norm, by a general solver on the simplex."""
    matrix = np.stack(gradients)
    scale = np.mean(np.sum(matrix**2, axis=1))
    simplex = {"type": "eq", "fun": lambda w: w.sum() - 1}

    def objective(w: Floats) -> tuple[float, Floats]:
        point = w @ matrix
        return point @ point / scale, 2 * matrix @ point / scale

    starts = [np.full(len(matrix), 1 / len(matrix)), *np.eye(len(matrix))]
    found = [
        minimize(objective, start, jac=True, bounds=[(0, 1)] * len(matrix), constraints=[simplex], method="SLSQP",
                 options={"ftol": 1e-16, "maxiter": 1000}).x
        for start in starts
    ]  # fmt: skip
    mix: Floats = len(matrix) * min(found, key=lambda w: objective(w)[0]) @ matrix
    return mix


def cagrad(gradients: Sequence[Floats], draw: np.random.Generator, radius: float = 0.4) -> Floats:
    """K times the d of arXiv 2110.14048, equation 3, solved as it stands: t <= g_k.d, |d - g0| <= radius |g0|, in the span."""
    matrix = np.stack(gradients)
    scale = np.sqrt(np.mean(np.sum(matrix**2, axis=1)))
    basis, upper = np.linalg.qr((matrix / scale).T)
    coordinates = upper.T
    mean = coordinates.mean(0)
    limit = radius**2 * mean @ mean
    constraints = [
        {"type": "ineq", "fun": lambda x: coordinates @ x[:-1] - x[-1]},
        {"type": "ineq", "fun": lambda x: limit - (x[:-1] - mean) @ (x[:-1] - mean)},
    ]
    start = np.append(mean, (coordinates @ mean).min())
    found = minimize(
        lambda x: -x[-1], start, constraints=constraints, method="SLSQP", options={"ftol": 1e-15, "maxiter": 2000}
    )
    mix: Floats = len(matrix) * basis @ found.x[:-1] * scale
    return mix


def nash(gradients: Sequence[Floats], draw: np.random.Generator) -> Floats:
    """K a.g / sum a, with `G a = 1 / a` of arXiv 2202.01017 found by general solvers."""
    matrix = np.stack(gradients)
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)

    def potential(a: Floats) -> tuple[float, Floats]:
        # Its gradient is G a - 1 / a, on vectors.
        point = a @ unit
        return point @ point / 2 - np.log(a).sum(), unit @ point - 1 / a

    start = np.ones(len(matrix))
    rough = minimize(potential, start, jac=True, bounds=[(1e-9, None)] * len(matrix), method="L-BFGS-B")
    found = root(lambda a: potential(a)[1], rough.x, method="hybr", tol=1e-14)
    a = found.x / np.linalg.norm(matrix, axis=1)
    mix: Floats = len(matrix) * (a @ matrix) / a.sum()
    return mix
