"""The backward kernels: gradients of logits recomputed tile by tile from the saved log-sum-exp.

Owns two ways to hidden states, weight and bias. `workspace` writes the gradients of a chunk of the vocabulary to a bounded
buffer and multiplies it by plain matrix products, all in a fixed order, so that two runs agree bit for bit. Beside the buffer
it holds the hidden states' gradient in fp32, and the weight's too unless each slice of it is written once: where the buffer
takes all rows, of bf16 or fp32. `atomic` multiplies the tile while it is in registers and adds into fp32 copies of both
gradients: no buffer of gradients of logits, but the order of additions, and with it the last bits, differ from run to run.

Legend: N rows, V vocabulary, D hidden size, K target slots, B rows of a block, C columns of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from compact_ds.kernels.logits_tile import LOG2E, dot, logits_tile
from compact_ds.kernels.lse_torch import HeadShape
from compact_ds.kernels.operands import compiled_for, operand
from compact_ds.kernels.products import add_product, product
from compact_ds.kernels.tiles import Tiles

# Vocabulary tiles that a chunk should have at least: shorter chunks re-read the hidden states' gradient more often.
CHUNK_TILES = 64

Saved = tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]
Grads = tuple[Tensor | None, Tensor | None, Tensor | None]


@dataclass(frozen=True, slots=True)
class Upstream:
    """Gradients of `lse[N]` and `z[N, K]`, contiguous fp32, times `factor`: a power of two on the device, None for 1."""

    lse_N: Tensor
    z_NK: Tensor
    factor: Tensor | None


def upstream_of(grad_lse_N: Tensor, grad_z_NK: Tensor, dtype: torch.dtype, scale: float) -> Upstream:
    """The upstream for operands of a type, scaled for fp16 so that gradients of logits use its range.

    fp16 ends at 6e-8: a word's probability times the upstream of a mean would be lost there. No gradient of a logit exceeds
    scale (|dlse| + sum_k |dz_k|), which is brought to [2^14, 2^15), below fp16's largest number of 65504. bf16 has the range of
    fp32. Nothing is read on the host.
    """
    if dtype != torch.float16 or not grad_z_NK.numel():
        return Upstream(grad_lse_N.contiguous(), grad_z_NK.contiguous(), None)
    largest = (grad_lse_N.abs() + grad_z_NK.abs().sum(1)).amax() * abs(scale)
    # Clamped, because the exponent of a NaN or of infinity is any number; they reach the gradients themselves.
    exponent = (15 - torch.frexp(largest).exponent).clamp(-126, 126)
    factor = (exponent + 127).bitwise_left_shift(23).view(torch.float32)
    # A product keeps the strides of what it multiplies.
    return Upstream((grad_lse_N * factor).contiguous(), (grad_z_NK * factor).contiguous(), factor)


@triton.jit
def grad_tile(
    x, rows, columns, lse, targets, grad_lse, grad_z, N, V, scale, softcap,
    K: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_CAP: tl.constexpr,
):  # fmt: skip
    """Gradient of a tile of products h w^T, fp32: (p dlse + sum_k dz_k 1[target_k]) through soft cap and scale.

    The target's one is subtracted from its probability in fp32, before anything is rounded. 0 outside [N, V].
    """
    inside = rows < N
    lse_of_row = tl.load(lse + rows, mask=inside, other=0.0)
    upstream = tl.load(grad_lse + rows, mask=inside, other=0.0)
    grad = tl.exp2((x - lse_of_row[:, None]) * LOG2E) * upstream[:, None]
    for k in tl.static_range(K):
        target = tl.load(targets + rows * K + k, mask=inside, other=-1)
        upstream_z = tl.load(grad_z + rows * K + k, mask=inside, other=0.0)
        grad += tl.where(columns[None, :] == target[:, None], upstream_z[:, None], 0.0)
    if HAS_CAP:
        grad *= 1.0 - (x / softcap) * (x / softcap)
    if HAS_SCALE:
        grad *= scale
    return tl.where(inside[:, None] & (columns < V)[None, :], grad, 0.0)


@triton.jit
def grad_logits_chunk(
    hidden, weight, bias, targets, lse, grad_lse, grad_z, grad, first_column, width,
    N, V, D, stride_hidden, stride_weight, scale, softcap,
    K: tl.constexpr, BN: tl.constexpr, BV: tl.constexpr, BD: tl.constexpr, GROUP: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_CAP: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Write `grad[N, width]`, the gradients of logits of the columns from `first_column` on, in `grad`'s type."""
    row, column, x = logits_tile(
        hidden, weight, bias, first_column, width, N, V, D, stride_hidden, stride_weight, scale, softcap,
        BN, BV, BD, GROUP, HAS_BIAS, HAS_SCALE, HAS_CAP, TMA,
    )  # fmt: skip
    rows = (row + tl.arange(0, BN)).to(tl.int64)
    columns = column + tl.arange(0, BV)
    tile = grad_tile(x, rows, columns, lse, targets, grad_lse, grad_z, N, V, scale, softcap, K, HAS_SCALE, HAS_CAP)
    inside = (rows < N)[:, None] & (columns < first_column + width)[None, :]
    at = grad + rows[:, None] * width + (columns - first_column)[None, :]
    tl.store(at, tile.to(grad.dtype.element_ty), mask=inside)


@triton.jit
def add_share(
    left, right, inner, num_inner, stride, total, outer, num_outer, D, HEIGHT: tl.constexpr, BD: tl.constexpr
):
    """Add `left[HEIGHT, inner] @ right[inner, D]` to the rows `outer` of fp32 `total[num_outer, D]`."""
    depths = tl.arange(0, BD)
    for depth in range(0, D, BD):
        inside = (depths < D - depth)[None, :]
        at = right + inner[:, None] * stride + (depth + depths)[None, :]
        factor = tl.load(at, mask=(inner < num_inner)[:, None] & inside, other=0.0)
        share = dot(left, factor, tl.zeros((HEIGHT, BD), tl.float32))
        to = total + outer[:, None] * D + (depth + depths)[None, :]
        tl.atomic_add(to, share, mask=(outer < num_outer)[:, None] & inside, sem="relaxed")


@triton.jit
def grad_fused(
    hidden, weight, bias, targets, lse, grad_lse, grad_z, grad_hidden, grad_weight, grad_bias,
    N, V, D, stride_hidden, stride_weight, scale, softcap,
    K: tl.constexpr, BN: tl.constexpr, BV: tl.constexpr, BD: tl.constexpr, GROUP: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_CAP: tl.constexpr,
    WANTS_HIDDEN: tl.constexpr, WANTS_WEIGHT: tl.constexpr, WANTS_BIAS: tl.constexpr,
):  # fmt: skip
    """Add this tile's share to fp32 `grad_hidden[N, D]`, `grad_weight[V, D]` and `grad_bias[V]`, all zero before."""
    row, column, x = logits_tile(
        hidden, weight, bias, 0, V, N, V, D, stride_hidden, stride_weight, scale, softcap,
        BN, BV, BD, GROUP, HAS_BIAS, HAS_SCALE, HAS_CAP, False,
    )  # fmt: skip
    rows = (row + tl.arange(0, BN)).to(tl.int64)
    columns = (column + tl.arange(0, BV)).to(tl.int64)
    tile = grad_tile(x, rows, columns, lse, targets, grad_lse, grad_z, N, V, scale, softcap, K, HAS_SCALE, HAS_CAP)
    if WANTS_BIAS:
        tl.atomic_add(grad_bias + columns, tl.sum(tile, 0), mask=columns < V, sem="relaxed")
    narrow = tile.to(hidden.dtype.element_ty)
    if WANTS_HIDDEN:
        add_share(narrow, weight, columns, V, stride_weight, grad_hidden, rows, N, D, BN, BD)
    if WANTS_WEIGHT:
        add_share(narrow.T, hidden, rows, N, stride_hidden, grad_weight, columns, V, D, BV, BD)


def workspace_backward(
    saved: Saved, upstream: Upstream, wants: tuple[bool, bool, bool], shape: HeadShape, tiles: Tiles
) -> Grads:
    """`(grad_hidden[N, D], grad_weight[V, D], grad_bias[V])`, None where not wanted; deterministic.

    `saved` is hidden, weight, bias, targets and lse. The buffer of gradients of logits, in the operands' type, takes at most
    `shape.workspace_bytes`: a block of rows by a chunk of the vocabulary. Chunks are the outer loop's inner part because
    what is read and written once a chunk is then the hidden states' gradient and not the (longer) weight's.
    """
    hidden_ND, weight_VD, *_ = saved
    (num_rows, depth), vocabulary = hidden_ND.shape, weight_VD.shape[0]
    block, chunk = _block_and_chunk(num_rows, vocabulary, hidden_ND.element_size(), shape.workspace_bytes, tiles)
    buffer = hidden_ND.new_empty(block * chunk)
    # With one block of rows a slice of the weight's gradient is final when written; with several it is a running sum, and
    # with a factor it may leave fp16's range until that is taken out.
    final = block >= num_rows and upstream.factor is None
    weight_type = weight_VD.dtype if final else torch.float32
    grad_hidden = hidden_ND.new_zeros(num_rows, depth, dtype=torch.float32) if wants[0] else None
    grad_weight = weight_VD.new_zeros(weight_VD.shape, dtype=weight_type) if wants[1] else None
    grad_bias = weight_VD.new_zeros(vocabulary, dtype=torch.float32) if wants[2] else None
    for start in range(0, num_rows, block):
        rows = slice(start, min(start + block, num_rows))
        for first in range(0, vocabulary, chunk):
            words = slice(first, min(first + chunk, vocabulary))
            grad_BC = buffer[: (rows.stop - start) * (words.stop - first)].view(rows.stop - start, -1)
            _launch_chunk(grad_BC, first, rows, saved, upstream, shape, tiles)
            if grad_hidden is not None:
                add_product(grad_hidden[rows], grad_BC, weight_VD[words])
            if grad_weight is not None and final:
                grad_weight[words] = product(grad_BC.T, hidden_ND[rows])
            elif grad_weight is not None:
                add_product(grad_weight[words], grad_BC.T, hidden_ND[rows])
            if grad_bias is not None:
                grad_bias[words] += grad_BC.sum(0, dtype=torch.float32)
    return _finished((grad_hidden, grad_weight, grad_bias), saved, upstream)


def atomic_backward(
    saved: Saved, upstream: Upstream, wants: tuple[bool, bool, bool], shape: HeadShape, tiles: Tiles
) -> Grads:
    """As `workspace_backward` without its buffer; sums in fp32 in an order that changes from run to run."""
    hidden_ND, weight_VD, bias_V, targets_NK, lse_N = saved
    (num_rows, depth), vocabulary = hidden_ND.shape, weight_VD.shape[0]
    grad_hidden = hidden_ND.new_zeros(num_rows, depth, dtype=torch.float32) if wants[0] else None
    grad_weight = weight_VD.new_zeros(vocabulary, depth, dtype=torch.float32) if wants[1] else None
    grad_bias = weight_VD.new_zeros(vocabulary, dtype=torch.float32) if wants[2] else None
    grid = triton.cdiv(num_rows, tiles.rows) * triton.cdiv(vocabulary, tiles.vocab)
    if num_rows and any(wants):
        grad_fused[(grid,)](
            hidden_ND, weight_VD, bias_V, targets_NK, lse_N, upstream.lse_N, upstream.z_NK,
            grad_hidden, grad_weight, grad_bias, num_rows, vocabulary, depth, hidden_ND.stride(0), weight_VD.stride(0),
            shape.scale, shape.softcap or 0.0,
            WANTS_HIDDEN=wants[0], WANTS_WEIGHT=wants[1], WANTS_BIAS=wants[2],
            **compiled_for(tiles, shape, bias_V, targets_NK.shape[1]),
        )  # fmt: skip
    return _finished((grad_hidden, grad_weight, grad_bias), saved, upstream)


def _launch_chunk(
    grad_BC: Tensor, first: int, rows: slice, saved: Saved, upstream: Upstream, shape: HeadShape, tiles: Tiles
) -> None:
    hidden_ND, weight_VD, bias_V, targets_NK, lse_N = saved
    count, width = grad_BC.shape
    grad_logits_chunk[(triton.cdiv(count, tiles.rows) * triton.cdiv(width, tiles.vocab),)](
        operand(hidden_ND[rows], tiles.rows, tiles), operand(weight_VD, tiles.vocab, tiles), bias_V,
        targets_NK[rows], lse_N[rows], upstream.lse_N[rows], upstream.z_NK[rows], grad_BC, first, width,
        count, weight_VD.shape[0], hidden_ND.shape[1], hidden_ND.stride(0), weight_VD.stride(0),
        shape.scale, shape.softcap or 0.0, TMA=tiles.tma, **compiled_for(tiles, shape, bias_V, targets_NK.shape[1]),
    )  # fmt: skip


def _block_and_chunk(
    num_rows: int, vocabulary: int, element_bytes: int, workspace_bytes: int, tiles: Tiles
) -> tuple[int, int]:
    """Rows of a block and columns of a chunk: whole tiles, all rows if a chunk of CHUNK_TILES tiles still fits."""
    elements = max(1, workspace_bytes // element_bytes)
    block = max(tiles.rows, elements // (CHUNK_TILES * tiles.vocab) // tiles.rows * tiles.rows)
    block = max(1, min(block, num_rows))
    chunk = max(1, elements // (block * tiles.vocab)) * tiles.vocab
    return block, min(chunk, vocabulary)


def _finished(grads: Grads, saved: Saved, upstream: Upstream) -> Grads:
    """Gradients without the upstream's factor, in the types of hidden states, weight and bias."""

    def typed(grad: Tensor | None, like: Tensor | None) -> Tensor | None:
        if grad is None or like is None:
            return None
        return (grad if upstream.factor is None else grad / upstream.factor).to(like.dtype)

    return typed(grads[0], saved[0]), typed(grads[1], saved[1]), typed(grads[2], saved[2])
