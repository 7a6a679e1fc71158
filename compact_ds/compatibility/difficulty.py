"""Difficulty D: a rationale's token loss against what this student manages now.

Owns the two readings of DESIGN's section 3. The running mean itself is kept by `running`. Legend: `segments`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Kind = Literal["above", "zone"]


@torch.no_grad()
def difficulty(token_loss_R: Tensor, mean_loss: Tensor, kind: Kind, zone: float) -> Tensor:
    """D_k in nats per token, at least 0, float64, [R].

    `token_loss_R` is L_k, `mean_loss` the running mean of it (0-dim). `above`: relu(L - mean), so what the student
    manages now is not penalised. `zone`: |L - (mean + zone)|, the distance from a preferred loss. While `mean_loss` is
    infinite, before anything was seen, D = 0.
    """
    over_R = token_loss_R.double() - mean_loss.double()
    distance_R = over_R.relu() if kind == "above" else (over_R - zone).abs()
    return torch.where(mean_loss.isinf(), 0.0, distance_R)
