"""How tensors reach the kernels: layouts that they can read, and descriptors where the target has TMA.

Owns the preparation of operands and nothing about what is computed.

Legend: N rows, V vocabulary, D hidden size, K target slots.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compact_ds.kernels.lse_reference import HeadShape
from compact_ds.kernels.tiles import SLOTS, Tiles

ALIGNMENT_BYTES = 16
# Triton compiles another kernel where a size is no multiple of 16, one that loads element by element and spills.
ALIGNMENT_ELEMENTS = 16
TYPES = (torch.bfloat16, torch.float16, torch.float32)
# Whether a product and a sum may be rounded once. Releases of Triton differ in their default, and so would our last bits.
FP_FUSION = True


def unfit(hidden_ND: Tensor, weight_VD: Tensor, slots: int) -> str | None:
    """Why the kernels cannot take these operands, or None."""
    if hidden_ND.dtype != weight_VD.dtype:
        return f"hidden states are {hidden_ND.dtype}, the weight is {weight_VD.dtype}: the types must agree"
    if hidden_ND.dtype not in TYPES:
        return f"operands are {hidden_ND.dtype}: bfloat16, float16 or float32"
    if slots not in SLOTS:
        return f"{slots} target slots a row: 1, 2 or 4"
    return None


def prepared(
    hidden_ND: Tensor, weight_VD: Tensor, targets_NK: Tensor, bias_V: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Hidden states, weight, targets and bias as the kernels read them; copies only what needs it.

    Targets and bias are contiguous, targets int32. Rows of both matrices begin at multiples of 16 bytes and their strides and
    the depth are multiples of 16 elements, so that no other kernels are launched than those that `shipped` lists: a depth
    that is no such multiple is filled up with zeros, which change no logit. Gradients then have the longer depth.
    """
    depth = -(-weight_VD.shape[1] // ALIGNMENT_ELEMENTS) * ALIGNMENT_ELEMENTS
    hidden_ND, weight_VD = _aligned(hidden_ND, depth), _aligned(weight_VD, depth)
    targets_NK = targets_NK.to(torch.int32).contiguous()
    return hidden_ND, weight_VD, targets_NK, None if bias_V is None else bias_V.contiguous()


def _aligned(matrix: Tensor, depth: int) -> Tensor:
    if (
        matrix.shape[1] == depth
        and matrix.stride(1) == 1
        and matrix.stride(0) % ALIGNMENT_ELEMENTS == 0
        and matrix.data_ptr() % ALIGNMENT_BYTES == 0
    ):
        return matrix
    # Not `contiguous`, which leaves a single row with whatever stride it has.
    copy = matrix.new_zeros(matrix.shape[0], depth)
    copy[:, : matrix.shape[1]] = matrix
    return copy


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
