"""`lse_gather` in plain PyTorch: a tile of logits at a time, fp32 inside, logits recomputed in the backward pass.

Owns the portable implementation, the one that CPUs train with. The naive definition it is tested against is in
`lse_reference`; the public function and the choice between implementations are in `lse_gather`.

A tile stays in the processor's cache from its product to its last use, so that the passes over its elements cost little
beside the products, and it lies in one buffer from the first to the last, so that no memory is asked of the system. Words
are the outer loop: the gradient of a word is written once, and only that of the hidden states is read again. Every product
writes into memory that is given to it, which is also what keeps autocast from rounding it.

Legend: N rows, R the first rows, that take a gradient, K target slots a row, V vocabulary, D hidden size, B rows of a tile,
C words of a tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from compact_ds.kernels.lse_reference import EMPTY, HeadShape, lse_gather_reference

__all__ = ["EMPTY", "HeadShape", "lse_gather_reference", "lse_gather_torch"]

# Rows and words: 4 MiB, which stays in a shared cache beside the operands, and large enough that the products run at the
# rate of those of all logits. Between 512 and 4096 rows nothing else was faster (`tests/measure_head.py`).
CPU_TILE = 1024, 1024


def lse_gather_torch(
    hidden_ND: Tensor, weight_VD: Tensor, targets_NK: Tensor, bias_V: Tensor | None, shape: HeadShape
) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of every row's logits and the logits of its targets, both fp32; see `lse_gather`."""
    head = (weight_VD,) if bias_V is None else (weight_VD, bias_V)
    frozen = torch.is_grad_enabled() and hidden_ND.requires_grad and not any(t.requires_grad for t in head)
    node: Any = _FrozenHead if frozen else _Head
    return node.apply(hidden_ND, weight_VD, bias_V, targets_NK, shape)  # type: ignore[no-any-return]


class _Head(torch.autograd.Function):
    """Any of hidden states, weight and bias may take a gradient: 8NVD multiplications and additions with the forward pass."""

    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, bias_V, targets_NK, shape):  # type: ignore[no-untyped-def]
        lse_N, z_NK = _scan(hidden_ND, weight_VD, bias_V, targets_NK, shape, None)
        # Under ZeRO-3 the weight is whole only while its module runs; saving the parameter itself lets the hook that
        # gathers it for the backward pass fill this very tensor again.
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, targets_NK, lse_N)
        ctx.shape = shape
        return lse_N, z_NK

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_lse_N, grad_z_NK):  # type: ignore[no-untyped-def]
        grads = _gradients(ctx.saved_tensors, grad_lse_N, grad_z_NK, ctx.needs_input_grad[:3], ctx.shape)
        return *grads, None, None


class _FrozenHead(torch.autograd.Function):
    """Only hidden states take a gradient: 4NVD in all, because a row's gradient is known but for its weights.

    d lse_i / d h_i = sum_v p_iv W_v is summed beside the log-sum-exp; the backward pass scales it.
    """

    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, bias_V, targets_NK, shape):  # type: ignore[no-untyped-def]
        mean_RD = hidden_ND.new_zeros((shape.grad_rows, hidden_ND.shape[1]), dtype=torch.float32)
        lse_N, z_NK = _scan(hidden_ND, weight_VD, bias_V, targets_NK, shape, mean_RD)
        # The parameter itself, as in `_Head`.
        ctx.save_for_backward(hidden_ND, weight_VD, targets_NK, z_NK, mean_RD)
        ctx.shape = shape
        return lse_N, z_NK

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_lse_N, grad_z_NK):  # type: ignore[no-untyped-def]
        hidden_ND, weight_VD, targets_NK, z_NK, mean_RD = ctx.saved_tensors
        shape = ctx.shape
        first = slice(shape.grad_rows)
        targets_RK = targets_NK[first]
        weights_RK = grad_z_NK[first].masked_fill(targets_RK == EMPTY, 0.0)
        if shape.softcap is not None:
            weights_RK = weights_RK * (1 - (z_NK[first] / shape.softcap).square())
        grad_RD = mean_RD * grad_lse_N[first, None]
        for targets_R, weights_R in zip(targets_RK.clamp(min=0).T, weights_RK.T, strict=True):
            grad_RD.addcmul_(weight_VD[targets_R].float(), weights_R[:, None])
        grad_ND = torch.zeros_like(hidden_ND)
        grad_ND[first] = grad_RD.mul_(shape.scale)
        return grad_ND, None, None, None, None


def _scan(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_NK: Tensor,
    shape: HeadShape,
    mean_RD: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`(lse[N], z[N, K])`, and in place `mean_RD` = sum_v p_v W_v times the softcap's slope when it is given.

    Online softmax (Milakov and Gimelshein 2018): a running maximum and the sum of exponentials below it.
    """
    num_rows = hidden_ND.shape[0]
    z_NK = hidden_ND.new_zeros(targets_NK.shape, dtype=torch.float32)
    max_N = hidden_ND.new_full((num_rows,), -torch.inf, dtype=torch.float32)
    sum_N = torch.zeros_like(max_N)
    hidden_ND = hidden_ND.float()
    tiles = _Tiles(num_rows, weight_VD, bias_V, shape)
    for words, weight_CD, bias_C in tiles.columns():
        for rows in tiles.rows():
            logits_BC, slope_BC = tiles.logits(hidden_ND[rows], weight_CD, bias_C, mean_RD is not None)
            inside_BK, places_BK = _places(targets_NK[rows], words)
            z_NK[rows] = torch.where(inside_BK, logits_BC.gather(1, places_BK), z_NK[rows])
            max_B = torch.maximum(max_N[rows], logits_BC.amax(1))
            # A row whose words so far are all forbidden has no finite maximum to subtract.
            below_B = torch.where(max_B.isfinite(), max_B, 0.0)
            decay_B = (max_N[rows] - below_B).exp_()
            exp_BC = logits_BC.sub_(below_B[:, None]).exp_()
            sum_N[rows] = (sum_N[rows] * decay_B).add_(exp_BC.sum(1))
            max_N[rows] = max_B
            if mean_RD is not None and rows.start < shape.grad_rows:
                mean_BD = mean_RD[rows]
                size = mean_BD.shape[0]
                weights_BC = exp_BC[:size] if slope_BC is None else exp_BC[:size].mul_(slope_BC[:size])
                mean_BD.mul_(decay_B[:size, None]).addmm_(weights_BC, weight_CD)
    if mean_RD is not None:
        mean_RD.div_(sum_N[: shape.grad_rows, None])
    return max_N.add_(sum_N.log_()), z_NK


def _gradients(
    saved: tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor],
    grad_lse_N: Tensor,
    grad_z_NK: Tensor,
    wanted: tuple[bool, bool, bool],
    shape: HeadShape,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of hidden states, weight and bias, each None unless wanted, in the operands' types."""
    hidden_ND, weight_VD, bias_V, targets_NK, lse_N = saved
    num_rows = shape.grad_rows
    hidden_RD = hidden_ND[:num_rows].float()
    grad_lse_N, grad_z_NK = grad_lse_N * shape.scale, grad_z_NK * shape.scale
    grad_hidden_RD = torch.zeros_like(hidden_RD) if wanted[0] else None
    # The first tile of rows overwrites it: zeroed only if there is none, because a pass over it costs as much as a tile's.
    new = torch.empty if num_rows else torch.zeros
    grad_weight_VD = new(weight_VD.shape, dtype=weight_VD.dtype, device=weight_VD.device) if wanted[1] else None
    grad_bias_V = torch.zeros_like(bias_V, dtype=torch.float32) if bias_V is not None and wanted[2] else None
    tiles = _Tiles(num_rows, weight_VD, bias_V, shape)
    for words, weight_CD, bias_C in tiles.columns():
        grad_CD = None if grad_weight_VD is None else _fp32(grad_weight_VD[words])
        for rows in tiles.rows():
            logits_BC, slope_BC = tiles.logits(hidden_RD[rows], weight_CD, bias_C, True)
            grad_BC = logits_BC.sub_(lse_N[rows, None]).exp_().mul_(grad_lse_N[rows, None])
            inside_BK, places_BK = _places(targets_NK[rows], words)
            grad_BC.scatter_add_(1, places_BK, torch.where(inside_BK, grad_z_NK[rows], 0.0))
            if slope_BC is not None:
                grad_BC.mul_(slope_BC)
            if grad_hidden_RD is not None:
                grad_hidden_RD[rows].addmm_(grad_BC, weight_CD)
            if grad_CD is not None:
                grad_CD.addmm_(grad_BC.T, hidden_RD[rows], beta=float(rows.start > 0))
            if grad_bias_V is not None:
                grad_bias_V[words] += grad_BC.sum(0)
        if grad_weight_VD is not None and grad_CD is not None and grad_weight_VD.dtype != torch.float32:
            grad_weight_VD[words] = grad_CD
    return (
        None if grad_hidden_RD is None else _padded(grad_hidden_RD, hidden_ND),
        grad_weight_VD,
        grad_bias_V if grad_bias_V is None or bias_V is None else grad_bias_V.to(bias_V.dtype),
    )


def _padded(grad_RD: Tensor, hidden_ND: Tensor) -> Tensor:
    """The gradient of the first rows in the type of the hidden states, and zeros for the rest."""
    if grad_RD.shape == hidden_ND.shape:
        return grad_RD.to(hidden_ND.dtype)
    grad_ND = torch.zeros_like(hidden_ND)
    grad_ND[: grad_RD.shape[0]] = grad_RD
    return grad_ND


def _fp32(grad_CD: Tensor) -> Tensor:
    return grad_CD if grad_CD.dtype == torch.float32 else torch.empty_like(grad_CD, dtype=torch.float32)


def _places(targets_BK: Tensor, words: slice) -> tuple[Tensor, Tensor]:
    """Which targets are words of the tile, and their columns; any column for those that are not."""
    places_BK = targets_BK.long() - words.start  # gather takes no narrower ids in older releases of torch
    inside_BK = (places_BK >= 0) & (targets_BK < words.stop)
    return inside_BK, places_BK.masked_fill_(~inside_BK, 0)


class _Tiles:
    """Tiles of logits of `num_rows` rows, all in one buffer: a tile is valid until the next is asked for."""

    def __init__(self, num_rows: int, weight_VD: Tensor, bias_V: Tensor | None, shape: HeadShape) -> None:
        self.num_rows, self.weight_VD, self.bias_V, self.shape = num_rows, weight_VD, bias_V, shape
        elements = max(1, shape.workspace_bytes // 4)
        # A processor without such a cache gains from fewer and larger products.
        most_rows, most_words = CPU_TILE if weight_VD.device.type == "cpu" else (elements, elements)
        self.tile_rows = max(1, min(num_rows, most_rows, elements))
        self.tile_words = max(1, min(weight_VD.shape[0], most_words, elements // self.tile_rows))
        if weight_VD.dtype != torch.float32:
            # Its copy in fp32 is a buffer as well, and the larger one where there are fewer rows than features.
            self.tile_words = max(1, min(self.tile_words, elements // max(1, weight_VD.shape[1])))
        self.buffers = [
            weight_VD.new_empty(self.tile_rows * self.tile_words, dtype=torch.float32)
            for _ in range(1 if shape.softcap is None else 2)
        ]

    def rows(self) -> list[slice]:
        """The rows of each tile, in order."""
        return _slices(self.num_rows, self.tile_rows)

    def columns(self) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """The words of each tile with their weight and bias in fp32; none without rows."""
        for words in _slices(self.weight_VD.shape[0] if self.num_rows else 0, self.tile_words):
            yield words, self.weight_VD[words].float(), None if self.bias_V is None else self.bias_V[words].float()

    def logits(
        self, hidden_BD: Tensor, weight_CD: Tensor, bias_C: Tensor | None, with_slope: bool
    ) -> tuple[Tensor, Tensor | None]:
        """A tile of logits and, if asked and capped, the slope of the cap there."""
        size = hidden_BD.shape[0], weight_CD.shape[0]
        logits_BC = self.buffers[0][: size[0] * size[1]].view(size)
        softcap = self.shape.softcap
        scale = self.shape.scale if softcap is None else self.shape.scale / softcap
        torch.addmm(logits_BC, hidden_BD, weight_CD.T, beta=0, alpha=scale, out=logits_BC)
        if bias_C is not None:
            logits_BC.add_(bias_C, alpha=scale)
        if softcap is None:
            return logits_BC, None
        logits_BC.tanh_()
        slope_BC = None
        if with_slope:
            slope_BC = torch.mul(logits_BC, logits_BC, out=self.buffers[1][: logits_BC.numel()].view(size))
            slope_BC.neg_().add_(1.0)
        return logits_BC.mul_(softcap), slope_BC


def _slices(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]
