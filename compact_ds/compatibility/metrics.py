"""The three metrics of a micro-batch's rationales, side by side.

Owns the order in which C, A and D travel (`running.METRICS`) and what stands in for a metric that was not measured.
Legend: `segments`; M metrics.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compact_ds.compatibility.adaptability import adaptability
from compact_ds.compatibility.difficulty import difficulty
from compact_ds.compatibility.running import RunningScales
from compact_ds.config import CompatibilityConfig


@torch.no_grad()
def metrics(
    consensus_R: Tensor,
    token_loss_R: Tensor,
    gold: tuple[Tensor, Tensor, Tensor] | None,
    scales: RunningScales,
    settings: CompatibilityConfig,
) -> Tensor:
    """C, A and D as [3, R], float64: shares, nats per answer token, nats per token.

    `gold` is (g_k[s] per probe, the probe's rationale, g[0] per rationale), or None when the batch has no probes; then A is 0.
    """
    loss_R = token_loss_R.detach().double()
    if gold is None:
        adaptability_R = torch.zeros_like(loss_R)
    else:
        gold_P, rationale_P, gold0_R = gold
        adaptability_R, _ = adaptability(gold_P.double(), rationale_P, gold0_R.double(), settings.adaptability)
    difficulty_R = difficulty(loss_R, scales.mean_loss, settings.difficulty, settings.zone)
    return torch.stack((consensus_R.double(), adaptability_R, difficulty_R))
