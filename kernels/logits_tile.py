"""One tile of logits in registers: the part that the forward and both backward kernels have in common.

Owns the product, bias, scale, soft cap, the mask behind the vocabulary's end, and the order in which programs walk the
tiles. Stores nothing. Importing it needs Triton, but no GPU.

Legend: N rows, V vocabulary, D hidden size; BN, BV and BD are the tile's rows, columns and depth.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
# The interpreter multiplies the bit patterns of bf16 operands as if they were integers (triton 3.9, not supported
# upstream), so there the operands are widened first; compiled code takes them as they are.
INTERPRETED = tl.constexpr(bool(knobs.runtime.interpret))


@triton.jit
def dot(left, right, total):
    """`total + left @ right` with fp32 accumulators; fp32 operands are multiplied as fp32 and not as TF32."""
    if INTERPRETED:
        return total + tl.dot(left.to(tl.float32), right.to(tl.float32))
    return tl.dot(left, right, total, input_precision="ieee")


@triton.jit
def tile_of_program(program, num_row_tiles, num_vocab_tiles, GROUP: tl.constexpr):
    """Row tile and vocabulary tile of a program: GROUP row tiles share each panel of the weight while it is in L2."""
    per_group = GROUP * num_vocab_tiles
    first = (program // per_group) * GROUP
    height = min(num_row_tiles - first, GROUP)
    inside = program % per_group
    return first + inside % height, inside // height


@triton.jit
def cap(x, softcap):
    """softcap * tanh(x / softcap) through exp2, which every target has in hardware."""
    e = tl.exp2(tl.abs(x) * (-2.0 * LOG2E / softcap))
    magnitude = softcap * (1.0 - e) / (1.0 + e)
    return tl.where(x < 0, -magnitude, magnitude)


@triton.jit
def logits_tile(
    hidden, weight, bias, first_column, width, N, V, D, stride_hidden, stride_weight, scale, softcap,
    BN: tl.constexpr, BV: tl.constexpr, BD: tl.constexpr, GROUP: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_CAP: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """This program's tile among `width` columns from `first_column` on: its row and column, and fp32 logits [BN, BV].

    They are -inf in columns from V on. `hidden` and `weight` are tensor descriptors with blocks [BN, BD] and [BV, BD] when TMA,
    pointers otherwise.
    """
    row_tile, vocab_tile = tile_of_program(tl.program_id(0), tl.cdiv(N, BN), tl.cdiv(width, BV), GROUP)
    row, column = row_tile * BN, first_column + vocab_tile * BV
    columns = column + tl.arange(0, BV)
    total = tl.zeros((BN, BV), dtype=tl.float32)
    if TMA:
        for depth in range(0, D, BD):
            total = dot(hidden.load([row, depth]), weight.load([column, depth]).T, total)
    else:
        rows = row + tl.arange(0, BN)
        depths = tl.arange(0, BD)
        # 64-bit: rows * D and columns * D pass 2**31 in real models.
        hidden_at = hidden + rows.to(tl.int64)[:, None] * stride_hidden + depths[None, :]
        weight_at = weight + columns.to(tl.int64)[None, :] * stride_weight + depths[:, None]
        for depth in range(0, D, BD):
            inside = depths < D - depth
            left = tl.load(hidden_at, mask=(rows < N)[:, None] & inside[None, :], other=0.0)
            right = tl.load(weight_at, mask=(columns < V)[None, :] & inside[:, None], other=0.0)
            total = dot(left, right, total)
            hidden_at += BD
            weight_at += BD
    if HAS_BIAS:
        total += tl.load(bias + columns, mask=columns < V, other=0.0).to(tl.float32)[None, :]
    if HAS_SCALE:
        total *= scale
    if HAS_CAP:
        total = cap(total, softcap)
    # After the cap, which would turn -inf into -softcap.
    return row, column, tl.where((columns < V)[None, :], total, float("-inf"))
