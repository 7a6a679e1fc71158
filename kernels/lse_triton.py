"""`lse_gather` by Triton kernels, as one node of the autograd graph.

Owns what is saved between the passes (the operands and the log-sum-exp) and which kernel runs when. The weights of a row
may be computed from the forward's own result: the backward pass takes any gradient per row, because it recomputes.

Legend: N rows, V vocabulary, D hidden size, K target slots.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compact_ds.kernels import lse_backward, lse_forward
from compact_ds.kernels.lse_torch import HeadShape
from compact_ds.kernels.operands import prepared, takes_descriptors
from compact_ds.kernels.tiles import SLOTS, Kernel, Tiles, target_of, tiles_for


def lse_gather_triton(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_NK: Tensor,
    bias_V: Tensor | None,
    shape: HeadShape,
    backward: Kernel = "workspace",
) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of every row's logits and the logits of its targets, both fp32; see `lse_gather`. K is 1, 2 or 4.

    `backward` is `workspace` or `atomic`, see `lse_backward`. `grad_rows` bounds the rows of either.
    """
    if backward == "forward" or targets_NK.shape[1] not in SLOTS:
        raise ValueError(
            f"backward={backward!r} with {targets_NK.shape[1]} target slots: workspace or atomic, 1, 2 or 4"
        )
    if hidden_ND.dtype != weight_VD.dtype:
        raise ValueError(f"hidden states are {hidden_ND.dtype}, the weight is {weight_VD.dtype}: the types must agree")
    return _LseGather.apply(hidden_ND, weight_VD, bias_V, targets_NK, shape, backward)  # type: ignore[no-any-return,no-untyped-call]


class _LseGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, bias_V, targets_NK, shape, backward):  # type: ignore[no-untyped-def]
        hidden, weight, targets = prepared(hidden_ND, weight_VD, targets_NK)
        tiles = _tiles("forward", hidden, weight, targets, shape)
        lse_N, z_NK = lse_forward.forward(hidden, weight, targets, bias_V, shape, tiles)
        # Under ZeRO-3 the weight is whole only while its module runs; saving the parameter itself lets the hook that
        # gathers it for the backward pass fill this very tensor again.
        ctx.save_for_backward(hidden, weight_VD, bias_V, targets, lse_N)
        ctx.shape, ctx.backward = shape, backward
        return lse_N, z_NK

    @staticmethod
    def backward(ctx, grad_lse_N, grad_z_NK):  # type: ignore[no-untyped-def]
        hidden, weight_VD, bias_V, targets, lse_N = ctx.saved_tensors
        rows = slice(ctx.shape.grad_rows)
        num_rows = hidden[rows].shape[0]
        _, weight, targets = prepared(hidden, weight_VD, targets)
        saved = (hidden[rows], weight, bias_V, targets[rows], lse_N[rows])
        run: Any = lse_backward.atomic_backward if ctx.backward == "atomic" else lse_backward.workspace_backward
        tiles = _tiles(ctx.backward, hidden[rows], weight, targets, ctx.shape)
        upstream = (grad_lse_N[rows].contiguous(), grad_z_NK[rows].contiguous())
        # Autocast would narrow the fp32 products of the backward pass.
        with torch.autocast(hidden.device.type, enabled=False):
            grad_hidden, grad_weight, grad_bias = run(saved, *upstream, ctx.needs_input_grad[:3], ctx.shape, tiles)
        if grad_hidden is not None and num_rows < hidden.shape[0]:
            grad_hidden = torch.cat([grad_hidden, grad_hidden.new_zeros(hidden.shape[0] - num_rows, hidden.shape[1])])
        return grad_hidden, grad_weight, grad_bias, None, None, None


def _tiles(kernel: Kernel, hidden: Tensor, weight: Tensor, targets_NK: Tensor, shape: HeadShape) -> Tiles:
    return tiles_for(
        target_of(hidden.device), kernel, hidden.dtype, hidden.shape[0], targets_NK.shape[1],
        capped=shape.softcap is not None, descriptors=takes_descriptors(hidden, weight),
    )  # fmt: skip
