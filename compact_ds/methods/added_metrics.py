"""Metrics that users add beside consensus, adaptability and difficulty: functions of what a micro-batch shows.

Owns their registry and their sum. The three metrics of the method are `compatibility`'s. Legend: `compatibility.segments`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from compact_ds.methods.evidence import Evidence
from compact_ds.plugins import Registry

Metric = Callable[[Evidence], Tensor]
"""One value a rationale, [R]; a function of the rationales of its own example alone, so that no weight depends on the split."""

_ADDED: Registry[Metric] = Registry("metric", ("consensus", "adaptability", "difficulty"))


def add_metric(name: str, metric: Metric) -> None:
    """Make a metric of yours known as `compatibility.added: {NAME: coefficient}`. Raises ConfigError for a name that is taken."""
    _ADDED.add(name, metric)


@torch.no_grad()
def added_score(evidence: Evidence, coefficients: Mapping[str, float]) -> Tensor | None:
    """Sum of coefficient times metric, [R] float64; None without any. The config has seen to it that all are known."""
    total_R = None
    for name, coefficient in coefficients.items():
        metric = _ADDED.get(name)
        assert metric is not None, name
        term_R = coefficient * metric(evidence).double()
        total_R = term_R if total_R is None else total_R + term_R
    return total_R
