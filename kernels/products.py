"""Matrix products of 16-bit operands that are summed in fp32, on whatever release of torch is there.

Owns which of torch's ways is taken. Used by the backward passes, which sum a gradient over blocks or chunks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

Add = Callable[[Tensor, Tensor, Tensor], object]


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """fp32 `total` += left @ right, accumulated in fp32 whatever the operands' type."""
    if left.dtype == torch.float32:
        total.addmm_(left, right)
    else:
        adder(left.device, left.dtype)(total, left, right)


def product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right, rounded once to the operands' type or not at all."""
    # Without a GPU (the interpreter) a narrow product would be rounded at every partial sum.
    return left @ right if left.is_cuda else left.float() @ right.float()


@functools.cache
def adder(device: torch.device, dtype: torch.dtype) -> Add:
    """The first of the ways that this torch has on a device for operands of a 16-bit type, tried once on one element.

    An `out_dtype` came to products with torch 2.8, on CUDA alone, and until 2.10 `addmm` refused a total that is wider than its
    operands. Releases and backends differ too much for a table of versions to be right.
    """
    for add in (_at_once, _apart):
        total, one = torch.ones(1, 1, device=device), torch.ones(1, 1, device=device, dtype=dtype)
        try:
            add(total, one, one)
        except (AttributeError, TypeError, RuntimeError):  # no such overload, no such argument, refused
            continue
        # The one time that the device is waited for.
        if total.item() == 2.0:
            return add
    return _widened


def _at_once(total: Tensor, left: Tensor, right: Tensor) -> None:
    torch.ops.aten.addmm.dtype_out(total, left, right, torch.float32, out=total)


def _apart(total: Tensor, left: Tensor, right: Tensor) -> None:
    total.add_(torch.mm(left, right, out_dtype=torch.float32))


def _widened(total: Tensor, left: Tensor, right: Tensor) -> None:
    total.addmm_(left.float(), right.float())
