"""How sure a figure is: intervals by bootstrap, paired tests of two models on the same questions, and figures of many samples.

Owns the formulas, over plain numbers. What is counted is the callers' concern.

Legend: Q questions, B resamples.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.special import bdtr

_RESAMPLES = 10_000
_SEED = 20260113
_AT_ONCE = 1 << 22
"""Numbers drawn at a time."""


def interval(values_Q: Sequence[float], level: float = 0.95, resamples: int = _RESAMPLES) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over questions (Efron 1979); the same input gives the same interval.

    Raises ValueError without values.
    """
    mean_B = _resampled_means(np.asarray(values_Q, dtype=np.float64), resamples)
    low, high = np.quantile(mean_B, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mcnemar(right_Q: Sequence[bool], other_Q: Sequence[bool]) -> float:
    """Exact two-sided p of two models being equally often right on the same questions (McNemar 1947, by the binomial).

    Only questions on which they differ count; 1 where there is none.
    """
    pairs = list(zip(right_Q, other_Q, strict=True))
    only, only_other = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    if only + only_other == 0:
        return 1.0
    # Half the differences are expected on either side, so the two tails are equal.
    return min(1.0, 2 * float(bdtr(min(only, only_other), only + only_other, 0.5)))


def paired_difference(
    values_Q: Sequence[float], other_Q: Sequence[float], level: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """Mean of `values - other` over questions, and its bootstrap interval. Raises ValueError on unequal lengths."""
    difference_Q = [a - b for a, b in zip(values_Q, other_Q, strict=True)]
    return float(np.mean(difference_Q)), interval(difference_Q, level)


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """Unbiased chance that one of k samples is right, from `num_right` of `num_samples` (arXiv 2107.03374, equation 1).

    Raises ValueError when k is not within 1..num_samples.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"k={k} of {num_samples} samples")
    return 1.0 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def majority_answer(answers: Sequence[str | None]) -> str | None:
    """The most frequent answer, of those as frequent the one given first; None when no sample has one (arXiv 2203.11171)."""
    counted = Counter(answer for answer in answers if answer is not None)
    return counted.most_common(1)[0][0] if counted else None


def _resampled_means(values_Q: np.ndarray, resamples: int) -> np.ndarray:
    num = len(values_Q)
    if num == 0:
        raise ValueError("no values")
    draw = np.random.default_rng(_SEED)
    means = []
    for start in range(0, resamples, max(1, _AT_ONCE // num)):
        size = min(max(1, _AT_ONCE // num), resamples - start)
        means.append(values_Q[draw.integers(num, size=(size, num))].mean(1))
    return np.concatenate(means)
