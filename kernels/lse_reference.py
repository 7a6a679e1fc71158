"""What the head computes, by definition: the truth that every implementation of `lse_gather` is tested against.

Owns the description of a head and the naive reference. Nothing trains with it: it holds all logits at once.

Legend: N rows, K target slots a row, V vocabulary, D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

EMPTY = -100


@dataclass(frozen=True, slots=True)
class HeadShape:
    """What besides tensors shapes the head: logits = softcap * tanh(scale * (h W^T + b) / softcap)."""

    softcap: float | None
    scale: float
    grad_rows: int
    workspace_bytes: int


def lse_gather_reference(
    hidden_ND: Tensor, weight_VD: Tensor, targets_NK: Tensor, bias_V: Tensor | None, shape: HeadShape
) -> tuple[Tensor, Tensor]:
    """The same by definition: all logits at once, in the operands' own type, differentiated by autograd."""
    keep_N1 = (torch.arange(hidden_ND.shape[0], device=hidden_ND.device) < shape.grad_rows)[:, None]
    hidden_ND = torch.where(keep_N1, hidden_ND, hidden_ND.detach())
    logits_NV = torch.nn.functional.linear(hidden_ND, weight_VD, bias_V) * shape.scale
    if shape.softcap is not None:
        logits_NV = torch.tanh(logits_NV / shape.softcap) * shape.softcap
    logits_NV = torch.where(keep_N1, logits_NV, logits_NV.detach())
    z_NK = logits_NV.gather(1, targets_NK.clamp(min=0)).masked_fill(targets_NK == EMPTY, 0.0)
    return logits_NV.logsumexp(1), z_NK
