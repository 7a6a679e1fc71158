"""What the teachers' gradients do to one another, from their inner products.

Owns the instruments' definitions; it never sees a gradient. Legend: V gradients of a step.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from compact_ds.mixer.gradient_mode import Wanted
from compact_ds.mixer.surgery import Floats


def diagnose(found: Sequence[Wanted], gram_VV: Floats, coefficient_V: Floats) -> dict[str, dict[str, float]]:
    """By instrument, then by teacher (or group); only finite and nonzero gradients take part.

    - `gradient_norm`: |g_k|, of the teacher's weighted loss.
    - `gradient_cosine`: of every pair, under `a | b`; negative is a conflict.
    - `update_share`: the part of the update m that teacher k's contribution makes along it, `c_k g_k.m / m.m`. The shares sum
      to 1 unless the retention guard took something out.
    - `effective_teachers`: `1 / sum p^2` with p the positive shares scaled to sum to 1, under `all`.
    - `answer_agreement`, `retention_agreement`: cosine with the gradient of the gold answers' and the retention batch's loss;
      a negative one of the latter is forgetting while it happens. The update's own stands under `update`.
    """
    square_V = np.diag(gram_VV)
    seen = [v for v in range(len(found)) if np.isfinite(square_V[v]) and square_V[v] > 0]
    norm = {v: math.sqrt(square_V[v]) for v in seen}
    gram = {(a, b): float(gram_VV[a, b]) for a in seen for b in seen}
    by_group = sum(one.updates for one in found) > 1 or len([1 for one in found if one.reference is None]) == 1
    teachers = [v for v in seen if found[v].reference is None and found[v].updates == by_group]
    mixed = _update(coefficient_V, seen, gram)
    # In loss mode one gradient is the update, and every teacher's is a part of it with coefficient 1.
    part = {v: float(coefficient_V[v]) if by_group else 1.0 for v in teachers}
    against = {v: _inner(coefficient_V, seen, gram, v) for v in seen}
    report: dict[str, dict[str, float]] = {
        "gradient_norm": {found[v].name: norm[v] for v in teachers},
        "gradient_cosine": {
            f"{found[a].name} | {found[b].name}": gram[a, b] / norm[a] / norm[b]
            for a, b in itertools.combinations(teachers, 2)
        },
    }
    if mixed > 0:
        report["update_share"] = {found[v].name: part[v] * against[v] / mixed for v in teachers}
        share = np.clip(list(report["update_share"].values()), 0.0, None)
        if share.sum() > 0:
            report["effective_teachers"] = {"all": float(share.sum() ** 2 / (share**2).sum())}
    for v in seen:
        if (reference := found[v].reference) is not None:
            agreement = {found[k].name: gram[k, v] / norm[k] / norm[v] for k in teachers}
            if mixed > 0:
                agreement["update"] = against[v] / math.sqrt(mixed) / norm[v]
            report[f"{reference}_agreement"] = agreement
    return report


def _inner(coefficient_V: Floats, seen: list[int], gram: dict[tuple[int, int], float], v: int) -> float:
    return sum(float(coefficient_V[k]) * gram[k, v] for k in seen)


def _update(coefficient_V: Floats, seen: list[int], gram: dict[tuple[int, int], float]) -> float:
    """The update's squared norm."""
    return sum(float(coefficient_V[v]) * _inner(coefficient_V, seen, gram, v) for v in seen)
