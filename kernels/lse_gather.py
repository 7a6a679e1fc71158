"""The head's primitive: log-sum-exp and target logits of every row, without logits in memory.

Owns the public function, its checks and the choice of an implementation. Knows rows and targets, not teachers: what a row
means, and every weighting, is the caller's.

Legend: N rows, K target slots a row, V vocabulary, D hidden size.
"""

from __future__ import annotations

from torch import Tensor

from compact_ds.kernels.lse_torch import EMPTY, HeadShape, lse_gather_torch

__all__ = ["EMPTY", "lse_gather"]


def lse_gather(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_NK: Tensor,
    bias_V: Tensor | None = None,
    *,
    softcap: float | None = None,
    scale: float = 1.0,
    grad_rows: int | None = None,
    workspace_bytes: int = 64 << 20,
) -> tuple[Tensor, Tensor]:
    """`(lse[N], z[N, K])` in fp32: log-sum-exp of each row's logits and the logits of its K targets.

    A row's negative log-likelihood of slot k is `lse - z[:, k]` nats. Slots that hold EMPTY (-100) give 0 and no gradient.
    Both results are differentiable, with any gradient per row, to hidden states, weight and bias, for the first
    `grad_rows` rows (all of them when None); the others cost no backward pass. `workspace_bytes` bounds the largest buffer
    of logits. Targets are int64 in `[0, V)` or EMPTY. Raises ValueError for shapes that do not fit.
    """
    num_rows = hidden_ND.shape[0]
    if hidden_ND.ndim != 2 or targets_NK.ndim != 2 or targets_NK.shape[0] != num_rows:
        raise ValueError(
            f"hidden must be [N, D] and targets [N, K], got {tuple(hidden_ND.shape)} and {tuple(targets_NK.shape)}"
        )
    if hidden_ND.shape[1] != weight_VD.shape[1]:
        raise ValueError(f"hidden has {hidden_ND.shape[1]} features, the weight {weight_VD.shape[1]}")
    rows = num_rows if grad_rows is None else grad_rows
    if not 0 <= rows <= num_rows:
        raise ValueError(f"grad_rows must be in [0, {num_rows}], got {rows}")
    return lse_gather_torch(hidden_ND, weight_VD, targets_NK, bias_V, HeadShape(softcap, scale, rows, workspace_bytes))
