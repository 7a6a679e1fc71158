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
from compact_ds.sections import CompatibilityConfig


@torch.no_grad()
def metrics(
    consensus_R: Tensor,
    token_loss_R: Tensor,
    gains: tuple[Tensor, Tensor] | None,
    scales: RunningScales,
    settings: CompatibilityConfig,
) -> Tensor:
    """C, A and D as [3, R], float64: shares, nats per answer token, nats per token.

    `gains` are (total PMI, largest jump) per rationale, or None when the batch has no probes; then A is 0.
    """
    loss_R = token_loss_R.detach().double()
    adaptability_R = torch.zeros_like(loss_R) if gains is None else adaptability(*gains, settings.adaptability)
    difficulty_R = difficulty(loss_R, scales.mean_loss, settings.difficulty, settings.zone)
    return torch.stack((consensus_R.double(), adaptability_R, difficulty_R))
