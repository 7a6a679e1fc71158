"""`lse_gather` by Triton kernels, as one node of the autograd graph.

Owns what is saved between the passes (the operands and the log-sum-exp) and which kernel runs when. The weights of a row
may be computed from the forward's own result: the backward pass takes any gradient per row, because it recomputes.

Legend: N rows, V vocabulary, D hidden size, K target slots.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from compact_ds.kernels import lse_backward, lse_forward
from compact_ds.kernels.lse_torch import HeadShape
from compact_ds.kernels.operands import prepared, takes_descriptors
from compact_ds.kernels.tiles import Kernel, Tiles, target_of, tiles_for


def lse_gather_triton(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_NK: Tensor,
    bias_V: Tensor | None,
    shape: HeadShape,
    backward: Kernel = "workspace",
) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of every row's logits and the logits of its targets, both fp32; see `lse_gather`, which checks them.

    Operands are such that `operands.unfit` has nothing against them. `backward` is `workspace` or `atomic`, see
    `lse_backward`. `grad_rows` bounds the rows of either.
    """
    return _LseGather.apply(hidden_ND, weight_VD, bias_V, targets_NK, shape, backward)  # type: ignore[no-any-return,no-untyped-call]


class _LseGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, bias_V, targets_NK, shape, backward):  # type: ignore[no-untyped-def]
        hidden, weight, targets, bias = prepared(hidden_ND, weight_VD, targets_NK, bias_V)
        tiles = _tiles("forward", hidden, weight, targets, shape)
        # Triton launches on the current device, which need not be that of the operands.
        with torch.cuda.device_of(hidden):
            lse_N, z_NK = lse_forward.forward(hidden, weight, targets, bias, shape, tiles)
        # Under ZeRO-3 the weight is whole only while its module runs; saving the parameter itself lets the hook that
        # gathers it for the backward pass fill this very tensor again.
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, targets, lse_N)
        ctx.shape, ctx.backward = shape, backward
        return lse_N, z_NK

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_lse_N, grad_z_NK):  # type: ignore[no-untyped-def]
        hidden_ND, weight_VD, bias_V, targets_NK, lse_N = ctx.saved_tensors
        shape, first = ctx.shape, slice(ctx.shape.grad_rows)
        hidden, weight, targets, bias = prepared(hidden_ND[first], weight_VD, targets_NK[first], bias_V)
        run: Any = lse_backward.atomic_backward if ctx.backward == "atomic" else lse_backward.workspace_backward
        tiles = _tiles(ctx.backward, hidden, weight, targets, shape)
        upstream = lse_backward.upstream_of(grad_lse_N[first], grad_z_NK[first], hidden.dtype, shape.scale)
        # Autocast would narrow the fp32 products of the backward pass.
        with torch.autocast(hidden.device.type, enabled=False), torch.cuda.device_of(hidden):
            saved = (hidden, weight, bias, targets, lse_N[first])
            grad_hidden, grad_weight, grad_bias = run(saved, upstream, ctx.needs_input_grad[:3], shape, tiles)
        return _as_given(grad_hidden, hidden_ND), _as_given(grad_weight, weight_VD), grad_bias, None, None, None


def _as_given(grad: Tensor | None, like: Tensor) -> Tensor | None:
    """A matrix's gradient without the columns that fill its depth up, and with zeros for the rows that take none."""
    if grad is None or grad.shape == like.shape:
        return grad
    rows, depth = like.shape
    if grad.shape[0] == rows:
        return grad[:, :depth].contiguous()
    return torch.cat([grad[:, :depth], grad.new_zeros(rows - grad.shape[0], depth)])


def _tiles(kernel: Kernel, hidden: Tensor, weight: Tensor, targets_NK: Tensor, shape: HeadShape) -> Tiles:
    return tiles_for(
        target_of(hidden.device), kernel, hidden.dtype, hidden.shape[0], targets_NK.shape[1],
        capped=shape.softcap is not None, descriptors=takes_descriptors(hidden, weight),
    )  # fmt: skip
