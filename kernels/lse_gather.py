"""The head's primitive: log-sum-exp and target logits of every row, without logits in memory.

Owns the public function, its checks and the call of the chosen implementation. Knows rows and targets, not teachers: what a row
means, and every weighting, is the caller's.

Legend: N rows, K target slots a row, V vocabulary, D hidden size.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from compact_ds.kernels.choice import Kernels, choose
from compact_ds.kernels.lse_torch import EMPTY, HeadShape, lse_gather_torch
from compact_ds.kernels.operands import unfit

__all__ = ["EMPTY", "lse_gather"]

Backward = Literal["workspace", "atomic"]
# A GPU's chunk must keep its matrix units busy; a CPU's should stay in its caches.
_WORKSPACE_BYTES = {"triton": 256 << 20, "torch": 64 << 20}


def lse_gather(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_NK: Tensor,
    bias_V: Tensor | None = None,
    *,
    softcap: float | None = None,
    scale: float = 1.0,
    grad_rows: int | None = None,
    kernels: Kernels = "auto",
    backward: Backward = "workspace",
    workspace_bytes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`(lse[N], z[N, K])` in fp32: log-sum-exp of each row's logits and the logits of its K targets.

    A row's negative log-likelihood of slot k is `lse - z[:, k]` nats. Slots that hold EMPTY (-100) give 0 and no gradient.
    Both results are differentiable, with any gradient per row, to hidden states, weight and bias, for the first `grad_rows`
    rows (all of them when None); the others cost no backward pass.

    Targets are integers in `[0, V)` or EMPTY. `kernels` is `auto`, `torch` or `triton`, as `choice.choose` reads it; `backward`
    only matters to Triton: `workspace` repeats bit for bit, `atomic` has no buffer of gradients of logits, but fp32 copies of
    the gradients of both sides. `workspace_bytes` bounds the buffer of logits or of their gradients, and nothing else: where
    it does not hold all rows, or for float16, `workspace` keeps an fp32 copy of the weight's gradient besides.

    Raises ValueError for shapes, types, devices and settings that do not fit and targets out of range (on a GPU the latter
    fails as a device assertion, so as not to wait for the device), ConfigError for kernels that cannot run here.
    """
    _check_shapes(hidden_ND, weight_VD, targets_NK, bias_V)
    num_rows = hidden_ND.shape[0]
    rows = num_rows if grad_rows is None else grad_rows
    if not 0 <= rows <= num_rows:
        raise ValueError(f"grad_rows must be in [0, {num_rows}], got {rows}")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap must be positive or None, got {softcap}")
    if backward not in get_args(Backward):
        raise ValueError(f"backward must be workspace or atomic, got {backward!r}")
    _check_targets(targets_NK, weight_VD.shape[0])
    path = choose(kernels, hidden_ND.device, hidden_ND.dtype, unfit(hidden_ND, weight_VD, targets_NK.shape[1]))
    shape = HeadShape(softcap, scale, rows, workspace_bytes or _WORKSPACE_BYTES[path])
    if path == "triton":
        from compact_ds.kernels.lse_triton import lse_gather_triton

        return lse_gather_triton(hidden_ND, weight_VD, targets_NK, bias_V, shape, backward)
    return lse_gather_torch(hidden_ND, weight_VD, targets_NK, bias_V, shape)


def _check_shapes(hidden_ND: Tensor, weight_VD: Tensor, targets_NK: Tensor, bias_V: Tensor | None) -> None:
    if hidden_ND.ndim != 2 or targets_NK.ndim != 2 or targets_NK.shape[0] != hidden_ND.shape[0]:
        raise ValueError(
            f"hidden must be [N, D] and targets [N, K], got {tuple(hidden_ND.shape)} and {tuple(targets_NK.shape)}"
        )
    if weight_VD.ndim != 2:
        raise ValueError(f"the weight must be [V, D], got {tuple(weight_VD.shape)}")
    if hidden_ND.shape[1] != weight_VD.shape[1]:
        raise ValueError(f"hidden has {hidden_ND.shape[1]} features, the weight {weight_VD.shape[1]}")
    if bias_V is not None and bias_V.shape != weight_VD.shape[:1]:
        raise ValueError(f"the bias must be [{weight_VD.shape[0]}], one a word, got {tuple(bias_V.shape)}")
    for name, tensor in (("the weight", weight_VD), ("targets", targets_NK), ("the bias", bias_V)):
        if tensor is not None and tensor.device != hidden_ND.device:
            raise ValueError(f"{name} must be on the device of hidden, {hidden_ND.device}, got {tensor.device}")


def _check_targets(targets_NK: Tensor, vocabulary: int) -> None:
    if targets_NK.is_floating_point() or targets_NK.is_complex() or targets_NK.dtype == torch.bool:
        raise ValueError(f"targets must be integers, got {targets_NK.dtype}")
    fits_NK = ((targets_NK >= 0) & (targets_NK < vocabulary)) | (targets_NK == EMPTY)
    if targets_NK.is_cuda:
        torch._assert_async(fits_NK.all())
    elif not bool(fits_NK.all()):
        found = int(targets_NK[~fits_NK][0])
        raise ValueError(f"target {found} is neither in [0, {vocabulary}) nor EMPTY ({EMPTY})")
