"""How tensors reach the kernels: layouts that they can read, and descriptors where the target has TMA.

Owns the preparation of operands and nothing about what is computed.

Legend: N rows, V vocabulary, D hidden size, K target slots.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compact_ds.kernels.lse_reference import HeadShape
from compact_ds.kernels.tiles import Tiles

ALIGNMENT_BYTES = 16
# Whether a product and a sum may be rounded once. Releases of Triton differ in their default, and so would our last bits.
FP_FUSION = True


def prepared(hidden_ND: Tensor, weight_VD: Tensor, targets_NK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The operands with unit stride along D and targets as contiguous int32; copies only what needs it."""
    hidden_ND, weight_VD = (t if t.stride(-1) == 1 else t.contiguous() for t in (hidden_ND, weight_VD))
    return hidden_ND, weight_VD, targets_NK.to(torch.int32).contiguous()


def takes_descriptors(hidden_ND: Tensor, weight_VD: Tensor) -> bool:
    """Whether TMA can read both: base addresses and row strides are multiples of 16 bytes, and neither is empty."""
    return all(
        t.data_ptr() % ALIGNMENT_BYTES == 0
        and t.stride(0) * t.element_size() % ALIGNMENT_BYTES == 0
        and t.stride(1) == 1
        and t.numel() > 0
        for t in (hidden_ND, weight_VD)
    )


def compiled_for(tiles: Tiles, shape: HeadShape, bias_V: Tensor | None, slots: int) -> dict[str, Any]:
    """What a kernel of the head is compiled for and launched with, by the names of its arguments."""
    return {
        "K": slots,
        "BN": tiles.rows,
        "BV": tiles.vocab,
        "BD": tiles.depth,
        "GROUP": tiles.group,
        "HAS_BIAS": bias_V is not None,
        "HAS_SCALE": shape.scale != 1.0,
        "HAS_CAP": shape.softcap is not None,
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
        "enable_fp_fusion": FP_FUSION,
    }


def operand(matrix: Tensor, block_rows: int, tiles: Tiles) -> Any:
    """The matrix itself, or a host-made descriptor with blocks [block_rows, depth] when the tiles use TMA."""
    if not tiles.tma:
        return matrix
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor.from_tensor(matrix, [block_rows, tiles.depth])
