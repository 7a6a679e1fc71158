"""Attention over packed token trees by FlexAttention: no mask in memory, and blocks in which nobody sees anybody are skipped.

Owns the block mask of a tree, found without a dense mask, and the one compiled call. Knows query and key tokens of a walk;
which tokens train is `tree_attention`'s. FlexAttention has no backward pass on CPU.

Legend: B rows, Q query tokens, K key tokens, H query heads, G key/value heads, E head size, M query blocks, N key blocks,
T tokens of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor
from torch.fx.experimental import _config as shapes
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention

BLOCK = 128
HEAD_SIZES = range(16, 257)
"""Smaller ones do not fill a tensor-core tile, larger ones do not fit the shared memory of a GPU at FlexAttention's tiles."""

# Inductor compiles other code for one block, and for fewer queries than a block, than for more. Rows so short are padded.
_SHORTEST = BLOCK + 1

_Mask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def block_mask(
    order_BQ: Tensor, order_BK: Tensor, end_BK: Tensor, near: tuple[Tensor, Tensor] | None = None
) -> BlockMask:
    """The mask in which query q sees key k iff order_BK[k] <= order_BQ[q] < end_BK[k].

    With `near = (floor_BQ, position_BK)` also position_BK[k] > floor_BQ[q]. Every query must see some key. Takes O(Q K / 128^2)
    memory: blocks are chosen by the ranges of their numbers. A block that is visited in vain costs time and nothing else;
    for trunks laid out as a walk there is none.
    """
    order_BQ = _lengthened(order_BQ, None)
    # No query's place in the walk reaches a key that stands past all of them.
    order_BK, end_BK = _lengthened(order_BK, torch.iinfo(torch.int32).max), _lengthened(end_BK, 0)
    (q_low, q_high), (k_low, k_high) = _range_BM1(order_BQ), _range_BM1(order_BK)
    end_low, end_high = _range_BM1(end_BK)
    some_BMN = (k_low.mT <= q_high) & (q_low < end_high.mT)
    every_BMN = (k_high.mT <= q_low) & (q_high < end_low.mT)
    sees = _ancestor(order_BQ, order_BK, end_BK)
    if near is not None:
        floor_BQ, position_BK = _lengthened(near[0], None), _lengthened(near[1], 0)
        (floor_low, floor_high), (position_low, position_high) = _range_BM1(floor_BQ), _range_BM1(position_BK)
        some_BMN &= position_high.mT > floor_low
        every_BMN &= position_low.mT > floor_high
        sees = _near_ancestor(sees, floor_BQ, position_BK)
    num_queries, num_keys = order_BQ.shape[1], order_BK.shape[1]
    # Blocks that the end of the row cuts are checked token by token, as FlexAttention's own masks are.
    every_BMN[:, num_queries // BLOCK :] = False
    every_BMN[:, :, num_keys // BLOCK :] = False
    return BlockMask.from_kv_blocks(
        *_listed(some_BMN & ~every_BMN), *_listed(every_BMN), BLOCK, sees, seq_lengths=(num_queries, num_keys)
    )


def flex_tree_attention(
    query_BHQE: Tensor,
    key_BGKE: Tensor,
    value_BGKE: Tensor,
    mask: BlockMask,
    scale: float | None,
    softcap: float | None,
) -> Tensor:
    """Attention output [B, H, Q, E]. Compiles on the first call, and not again for other lengths or numbers of rows.

    The one exception is a single row, which has a program of its own. torch raises for a head size outside HEAD_SIZES on a
    GPU, and for a gradient on CPU.
    """
    num_queries = query_BHQE.shape[2]
    query_BHQE, key_BGKE, value_BGKE = _plain(query_BHQE), _plain(key_BGKE), _plain(value_BGKE)
    with _constants_fixed_sizes_free():
        out = _compiled()(query_BHQE, key_BGKE, value_BGKE, _capped(softcap), mask, scale, True)
    return out[:, :, :num_queries]


@contextmanager
def _constants_fixed_sizes_free() -> Iterator[None]:
    """How torch is to generalise what it compiles: over every size, over no constant of the model (`scale`, `softcap`).

    By default sizes that are equal in the first call (rows and heads, say) are held equal for good. The limit on programs
    counts one for each pair of constants, with and without window, gradient and a second row.
    """
    # Loads in seconds, which only those who compile need wait for.
    from torch._dynamo import config as dynamo

    # The kernels of a GPU take such constants as part of the program only.
    with shapes.patch(use_duck_shape=False), dynamo.patch(specialize_float=True, recompile_limit=64):  # type: ignore[attr-defined]
        yield


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Tensor]:
    # fullgraph: past torch's limit of programs it raises, where it would quietly go on with all scores in memory.
    return torch.compile(flex_attention, dynamic=True, fullgraph=True)


@lru_cache
def _capped(softcap: float | None) -> Callable[..., Tensor] | None:
    if softcap is None:
        return None

    def capped(score: Tensor, row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return torch.tanh(score / softcap) * softcap

    return capped


def _plain(x_BHLE: Tensor) -> Tensor:
    """A copy in memory order, at least _SHORTEST long, in the graph only where gradients are on.

    torch compiles anew for every pattern of strides, and a slice of a transposed tensor has many: another one in a single
    row, in a row without probes, with one head, after padding.
    """
    if not torch.is_grad_enabled():
        x_BHLE = x_BHLE.detach()
    missing = _SHORTEST - x_BHLE.shape[2]
    if missing > 0:
        x_BHLE = functional.pad(x_BHLE, (0, 0, 0, missing))
    return x_BHLE.clone(memory_format=torch.contiguous_format)


def _ancestor(order_BQ: Tensor, order_BK: Tensor, end_BK: Tensor) -> _Mask:
    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        place = order_BQ[row, query]
        return (order_BK[row, key] <= place) & (place < end_BK[row, key])

    return sees


def _near_ancestor(ancestor: _Mask, floor_BQ: Tensor, position_BK: Tensor) -> _Mask:
    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return ancestor(row, head, query, key) & (position_BK[row, key] > floor_BQ[row, query])

    return sees


def _lengthened(x_BL: Tensor, fill: int | None) -> Tensor:
    """int32, at least _SHORTEST long; `fill` None repeats the last token."""
    # A format asked for by name also sets the stride of a single row, which torch would compile anew for.
    x_BL = x_BL.to(torch.int32, memory_format=torch.contiguous_format, copy=True)
    missing = _SHORTEST - x_BL.shape[1]
    if missing <= 0:
        return x_BL
    tail = x_BL[:, -1:].expand(-1, missing) if fill is None else x_BL.new_full((x_BL.shape[0], missing), fill)
    return torch.cat((x_BL, tail), dim=1)


def _range_BM1(x_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest number of each block, [B, M, 1]."""
    missing = -x_BL.shape[1] % BLOCK
    blocks_BMT = torch.cat((x_BL, x_BL[:, -1:].expand(-1, missing)), dim=1).unflatten(1, (-1, BLOCK))
    return blocks_BMT.amin(2, keepdim=True), blocks_BMT.amax(2, keepdim=True)


def _listed(blocks_BMN: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks each query block visits, [B, 1, M], and which come first in [B, 1, M, N]."""
    blocks_B1MN = blocks_BMN[:, None].to(torch.int8)
    indices_B1MN = blocks_B1MN.argsort(dim=-1, descending=True, stable=True)
    return blocks_B1MN.sum(-1, dtype=torch.int32), indices_B1MN.to(torch.int32)
