"""Linear layers that train on a prefix of the tokens: probe tokens pass through the same call without a gradient.

Owns the one idea that makes probes cheap. Probes lie behind the trunk in every row; a linear layer multiplies both parts in one
product, and its backward pass multiplies the trunk's alone. A second no-grad forward pass would cost ZeRO-3 another gather of
all parameters and its prefetch trace. An adapter of low rank is part of the same product: it is added where the wide output
lies, and its scale multiplies only what is narrow.

Legend: B rows, L tokens of a row, T of them trained, N tokens of all rows, D and F features, R the adapter's rank.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from compact_ds.kernels.choice import Kernels
from compact_ds.kernels.tree_attention import Ancestry


class TreePass:
    """What the layers must know about the micro-batch that is passing through them.

    It stays set through the backward pass, where checkpointed layers run again.
    """

    def __init__(self) -> None:
        self.tree: Ancestry | None = None
        self.kernels: Kernels = "auto"
        self.attention_calls = 0

    def begin(self, tree: Ancestry) -> None:
        """A new micro-batch starts."""
        self.tree = tree
        self.attention_calls = 0

    @property
    def num_trunk(self) -> int:
        """Tokens of a row that train; those behind them only measure."""
        return 0 if self.tree is None else self.tree.num_trunk


class PrefixLinear(nn.Linear):
    """An `nn.Linear` whose tokens from `tree_pass.num_trunk` on take no part in the backward pass."""

    tree_pass: TreePass

    def forward(self, input: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, F]."""
        if input.ndim != 3 or not torch.is_grad_enabled():
            return functional.linear(input, self.weight, self.bias)
        return prefix_product(input, self.weight, self.bias, self.tree_pass.num_trunk)


def prefix_product(
    input_BLD: Tensor, weight_FD: Tensor, bias_F: Tensor | None, num_trunk: int,
    adapter: tuple[Tensor, Tensor, float] | None = None,
) -> Tensor:  # fmt: skip
    """`x W^T + bias`, [B, L, F], with an adapter `(down_RD, up_FR, scale)` plus `scale * x down^T up^T`.

    Tokens from `num_trunk` on neither give nor take a gradient. All is in the input's type, or in autocast's.
    """
    down_RD, up_FR, scale = adapter or (None, None, 0.0)
    node: Any = _PrefixProduct
    return node.apply(input_BLD, weight_FD, bias_F, down_RD, up_FR, scale, num_trunk)  # type: ignore[no-any-return]


class _PrefixProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input_BLD, weight_FD, bias_F, down_RD, up_FR, scale, num_trunk):  # type: ignore[no-untyped-def]
        device = input_BLD.device.type
        ctx.dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else input_BLD.dtype
        ctx.scale, ctx.num_trunk, low_BLR = scale, num_trunk, None
        weight, bias, down, up = _cast((weight_FD, bias_F, down_RD, up_FR), ctx.dtype)
        input_ND = input_BLD.reshape(-1, input_BLD.shape[2]).to(ctx.dtype)
        out_NF = input_ND @ weight.T if bias is None else torch.addmm(bias, input_ND, weight.T)
        if down is not None:
            low_NR = input_ND @ down.T
            out_NF.addmm_(low_NR, up.T, alpha=scale)
            low_BLR = low_NR.unflatten(0, input_BLD.shape[:2])
        # Under ZeRO-3 a weight is whole only while its module runs; saving the parameter itself lets the hook that
        # gathers it for the backward pass fill this very tensor again.
        ctx.save_for_backward(input_BLD, weight_FD, down_RD, up_FR, low_BLR)
        return out_NF.unflatten(0, input_BLD.shape[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BLF):  # type: ignore[no-untyped-def]
        input_BLD, *saved = ctx.saved_tensors
        weight_FD, down_RD, up_FR, low_BLR = _cast(saved, ctx.dtype)
        trunk, needs = slice(min(ctx.num_trunk, input_BLD.shape[1])), ctx.needs_input_grad
        grad_NF, input_ND = (x[:, trunk].to(ctx.dtype).flatten(0, 1) for x in (grad_BLF, input_BLD))
        low_grad_NR: Any = None if up_FR is None else (grad_NF @ up_FR).mul_(ctx.scale)
        input_grad = None
        if needs[0]:
            input_grad = torch.empty_like(input_BLD, dtype=ctx.dtype, memory_format=torch.contiguous_format)
            input_grad[:, trunk.stop :] = 0
            # Straight to where it belongs, a row at a time because the probes lie between rows.
            for i, row_TD in enumerate(input_grad[:, trunk]):
                at = slice(i * trunk.stop, (i + 1) * trunk.stop)
                torch.mm(grad_NF[at], weight_FD, out=row_TD)
                if low_grad_NR is not None:
                    row_TD.addmm_(low_grad_NR[at], down_RD)
        up_grad = None
        if needs[4]:
            # A tall and narrow product costs a CPU twice what the flat one does.
            low_NR = low_BLR[:, trunk].flatten(0, 1)
            up_grad = (low_NR.T @ grad_NF).mul_(ctx.scale).T.contiguous()
        return (
            input_grad,
            grad_NF.T @ input_ND if needs[1] else None,
            grad_NF.sum(0) if needs[2] else None,
            low_grad_NR.T @ input_ND if needs[3] else None,
            up_grad,
            None,
            None,
        )


def _cast(tensors: Iterable[Tensor | None], dtype: torch.dtype) -> list[Any]:
    return [None if x is None else x.to(dtype) for x in tensors]


def train_on_prefix(model: nn.Module, tree_pass: TreePass) -> None:
    """Turn every plain linear layer into a PrefixLinear in place (same parameters, same names)."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = PrefixLinear
            module.tree_pass = tree_pass  # type: ignore[assignment]
