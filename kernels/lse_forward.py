"""The forward kernels: one pass over the vocabulary, then the tiles' partial sums merged.

Owns the two kernels and their launch. Each (row tile, vocabulary tile) is one program that writes its rows' largest logit
and sum of exponentials, and the target logits that lie in it; nothing is accumulated across programs, so there are no
atomics and the result does not depend on the order in which they run. Logits never reach memory.

Legend: N rows, V vocabulary, D hidden size, K target slots, T vocabulary tiles; BN, BV, BD a tile's rows, columns, depth.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from compact_ds.kernels.logits_tile import LN2, LOG2E, logits_tile
from compact_ds.kernels.lse_torch import HeadShape
from compact_ds.kernels.operands import FP_FUSION, compiled_for, operand
from compact_ds.kernels.tiles import Tiles

MERGE_ROWS = 64
MERGE_TILES = 16
MERGE_WARPS = 4


@triton.jit
def partial_lse(
    hidden, weight, bias, targets, peak, mass, z, N, V, D, stride_hidden, stride_weight, scale, softcap,
    K: tl.constexpr, BN: tl.constexpr, BV: tl.constexpr, BD: tl.constexpr, GROUP: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_CAP: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Write `peak[T, N]` (largest logit of the tile), `mass[T, N]` (sum of exp(logit - peak)) and this tile's `z[N, K]`.

    `z` of an empty slot is written by the first vocabulary tile, so that no element needs clearing before the launch.
    """
    row, column, x = logits_tile(
        hidden, weight, bias, 0, V, N, V, D, stride_hidden, stride_weight, scale, softcap,
        BN, BV, BD, GROUP, HAS_BIAS, HAS_SCALE, HAS_CAP, TMA,
    )  # fmt: skip
    rows = (row + tl.arange(0, BN)).to(tl.int64)
    columns = column + tl.arange(0, BV)
    for k in tl.static_range(K):
        target = tl.load(targets + rows * K + k, mask=rows < N, other=-1)
        found = tl.sum(tl.where(columns[None, :] == target[:, None], x, 0.0), 1)
        here = (target >= column) & (target < column + BV) & (target < V)
        tl.store(z + rows * K + k, found, mask=(rows < N) & here)
        if column == 0:
            tl.store(z + rows * K + k, tl.zeros((BN,), tl.float32), mask=(rows < N) & (target < 0))
    largest = tl.max(x, 1)
    # A tile of nothing but -inf (forbidden words) has mass 0, not exp(-inf + inf).
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    total = tl.sum(tl.exp2((x - shift[:, None]) * LOG2E), 1)
    at = (column // BV).to(tl.int64) * N + rows
    tl.store(peak + at, largest, mask=rows < N)
    tl.store(mass + at, total, mask=rows < N)


@triton.jit
def merge_lse(peak, mass, lse, N, num_tiles, BN: tl.constexpr, BT: tl.constexpr):
    """`lse[N]` from the partials of all vocabulary tiles, merged in a fixed order."""
    rows = (tl.program_id(0) * BN + tl.arange(0, BN)).to(tl.int64)
    largest = tl.full((BN,), float("-inf"), tl.float32)
    total = tl.zeros((BN,), tl.float32)
    for first in range(0, num_tiles, BT):
        tiles = first + tl.arange(0, BT)
        at = tiles.to(tl.int64)[:, None] * N + rows[None, :]
        inside = (tiles < num_tiles)[:, None] & (rows < N)[None, :]
        peaks = tl.load(peak + at, mask=inside, other=float("-inf"))
        masses = tl.load(mass + at, mask=inside, other=0.0)
        new = tl.maximum(largest, tl.max(peaks, 0))
        shift = tl.where(new == float("-inf"), 0.0, new)
        rescaled = tl.sum(masses * tl.exp2((peaks - shift[None, :]) * LOG2E), 0)
        total = total * tl.exp2((largest - shift) * LOG2E) + rescaled
        largest = new
    tl.store(lse + rows, largest + tl.log2(total) * LN2, mask=rows < N)


def forward(
    hidden_ND: Tensor, weight_VD: Tensor, targets_NK: Tensor, bias_V: Tensor | None, shape: HeadShape, tiles: Tiles
) -> tuple[Tensor, Tensor]:
    """`(lse[N], z[N, K])` in fp32. Operands as `operands.prepared` leaves them; targets int32.

    Rows are taken in blocks whose partials fit in `shape.workspace_bytes`.
    """
    (num_rows, _), vocabulary, slots = hidden_ND.shape, weight_VD.shape[0], targets_NK.shape[1]
    lse_N = hidden_ND.new_empty(num_rows, dtype=torch.float32)
    z_NK = hidden_ND.new_empty(num_rows, slots, dtype=torch.float32)
    num_tiles = triton.cdiv(vocabulary, tiles.vocab)
    block = rows_of_a_block(num_rows, 8 * num_tiles, tiles.rows, shape.workspace_bytes)
    peak_TB, mass_TB = (hidden_ND.new_empty(num_tiles * block, dtype=torch.float32) for _ in range(2))
    weight = operand(weight_VD, tiles.vocab, tiles)
    for start in range(0, num_rows, block):
        rows = slice(start, min(start + block, num_rows))
        count = rows.stop - start
        partial_lse[(triton.cdiv(count, tiles.rows) * num_tiles,)](
            operand(hidden_ND[rows], tiles.rows, tiles), weight, bias_V, targets_NK[rows], peak_TB, mass_TB, z_NK[rows],
            count, vocabulary, hidden_ND.shape[1], hidden_ND.stride(0), weight_VD.stride(0),
            shape.scale, shape.softcap or 0.0, TMA=tiles.tma, **compiled_for(tiles, shape, bias_V, slots),
        )  # fmt: skip
        merge_lse[(triton.cdiv(count, MERGE_ROWS),)](
            peak_TB, mass_TB, lse_N[rows], count, num_tiles, BN=MERGE_ROWS, BT=MERGE_TILES,
            num_warps=MERGE_WARPS, enable_fp_fusion=FP_FUSION,
        )  # fmt: skip
    return lse_N, z_NK


def rows_of_a_block(num_rows: int, bytes_a_row: int, tile_rows: int, workspace_bytes: int) -> int:
    """How many rows to take at a time so that their buffer fits the workspace: whole tiles, at least one."""
    block = max(1, workspace_bytes // (bytes_a_row * tile_rows)) * tile_rows
    return max(1, min(block, num_rows))
