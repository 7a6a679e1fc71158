"""`lse_gather` in plain PyTorch: chunked over rows, fp32 inside, logits recomputed in the backward pass.

Owns the portable implementation (the one that CPUs train with) and the naive reference it is tested against. The public
function and the choice between implementations are in `lse_gather`.

Legend: N rows, K target slots a row, V vocabulary, D hidden size, C rows of a chunk.
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


def lse_gather_torch(
    hidden_ND: Tensor, weight_VD: Tensor, targets_NK: Tensor, bias_V: Tensor | None, shape: HeadShape
) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of every row's logits and the logits of its targets, both fp32; see `lse_gather`."""
    return _LseGather.apply(hidden_ND, weight_VD, bias_V, targets_NK, shape)  # type: ignore[no-any-return,no-untyped-call]


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


class _LseGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, bias_V, targets_NK, shape):  # type: ignore[no-untyped-def]
        num_rows = hidden_ND.shape[0]
        lse_N = hidden_ND.new_empty(num_rows, dtype=torch.float32)
        z_NK = hidden_ND.new_empty(targets_NK.shape, dtype=torch.float32)
        for rows in _chunks(num_rows, weight_VD.shape[0], shape.workspace_bytes):
            logits_CV = _logits(hidden_ND[rows], weight_VD, bias_V, shape)
            targets_CK = targets_NK[rows]
            z_NK[rows] = logits_CV.gather(1, targets_CK.clamp(min=0)).masked_fill_(targets_CK == EMPTY, 0.0)
            lse_N[rows] = logits_CV.logsumexp(1)
        # Under ZeRO-3 the weight is whole only while its module runs; saving the parameter itself lets the hook that
        # gathers it for the backward pass fill this very tensor again.
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, targets_NK, lse_N)
        ctx.shape = shape
        return lse_N, z_NK

    @staticmethod
    def backward(ctx, grad_lse_N, grad_z_NK):  # type: ignore[no-untyped-def]
        hidden_ND, weight_VD, bias_V, targets_NK, lse_N = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_hidden_ND = torch.zeros_like(hidden_ND) if wants_hidden else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if wants_weight else None
        grad_bias_V = torch.zeros_like(bias_V, dtype=torch.float32) if wants_bias else None
        for rows in _chunks(ctx.shape.grad_rows, weight_VD.shape[0], ctx.shape.workspace_bytes):
            hidden_CD = hidden_ND[rows]
            grad_CV = _grad_logits(
                _logits(hidden_CD, weight_VD, bias_V, ctx.shape),
                lse_N[rows], targets_NK[rows], grad_lse_N[rows], grad_z_NK[rows], ctx.shape,
            )  # fmt: skip
            if grad_hidden_ND is not None:
                grad_hidden_ND[rows] = (grad_CV @ weight_VD.float()).to(hidden_ND.dtype)
            if grad_weight_VD is not None:
                grad_weight_VD.addmm_(grad_CV.T, hidden_CD.float())
            if grad_bias_V is not None:
                grad_bias_V += grad_CV.sum(0)
        return (
            grad_hidden_ND,
            None if grad_weight_VD is None else grad_weight_VD.to(weight_VD.dtype),
            None if grad_bias_V is None else grad_bias_V.to(bias_V.dtype),
            None,
            None,
        )


def _chunks(num_rows: int, vocabulary: int, workspace_bytes: int) -> list[slice]:
    size = max(1, workspace_bytes // (4 * vocabulary))
    return [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]


def _logits(hidden_CD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, shape: HeadShape) -> Tensor:
    logits_CV = hidden_CD.float() @ weight_VD.float().T
    if bias_V is not None:
        logits_CV += bias_V.float()
    if shape.scale != 1.0:
        logits_CV *= shape.scale
    if shape.softcap is not None:
        logits_CV.div_(shape.softcap).tanh_().mul_(shape.softcap)
    return logits_CV


def _grad_logits(
    logits_CV: Tensor, lse_C: Tensor, targets_CK: Tensor, grad_lse_C: Tensor, grad_z_CK: Tensor, shape: HeadShape
) -> Tensor:
    slope_CV = 1 - (logits_CV / shape.softcap).square() if shape.softcap is not None else None
    grad_CV = logits_CV.sub_(lse_C[:, None]).exp_().mul_(grad_lse_C[:, None])
    grad_CV.scatter_add_(1, targets_CK.clamp(min=0), grad_z_CK.masked_fill(targets_CK == EMPTY, 0.0))
    if slope_CV is not None:
        grad_CV.mul_(slope_CV)
    return grad_CV.mul_(shape.scale) if shape.scale != 1.0 else grad_CV
