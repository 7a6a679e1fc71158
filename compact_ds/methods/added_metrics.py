"""Metrics that users add beside consensus, adaptability and difficulty: functions of what a micro-batch shows.

Owns their registry and how they join the three, which are `compatibility`'s. Legend: `compatibility.segments`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from compact_ds.methods.evidence import Evidence
from compact_ds.plugins import Registry

Metric = Callable[[Evidence], Tensor]
"""One value a rationale, [R]; a function of the rationales of its own example alone, so that no weight depends on the split."""

_TAKEN = (
    "consensus", "adaptability", "difficulty", "token_loss", "weight", "weight_right", "weight_wrong", "step", "lr", "loss",
    "grad_norm", "examples", "tokens", "right_share", "step_seconds", "seconds", "traffic_bytes", "gradient_norm",
    "gradient_cosine", "retention_agreement", "reference_loss", "id", "teacher", "index", "pmi", "epiphany_step", "train",
    "evaluation", "outcome",
)  # fmt: skip
"""What stands beside the metrics in `metrics.jsonl`, in scores and among TensorBoard's tags."""

_ADDED: Registry[Metric] = Registry("metric", _TAKEN)


def add_metric(name: str, metric: Metric) -> None:
    """Make a metric of yours known as `compatibility.added: {NAME: coefficient}`. Raises ConfigError for a name that is taken."""
    _ADDED.add(name, metric)


@torch.no_grad()
def with_added(evidence: Evidence, names: Iterable[str]) -> Evidence:
    """The evidence with a row a name after the three in `metrics_MR`. The config has seen to it that all names are known."""
    rows = [evidence.metrics_MR.double()]
    for name in names:
        metric = _ADDED.get(name)
        assert metric is not None, name
        rows.append(metric(evidence).to(rows[0])[None])
    return replace(evidence, metrics_MR=torch.cat(rows)) if len(rows) > 1 else evidence
