"""Attention over packed token trees: each token sees exactly its ancestors and itself.

Owns the mask's definition and the attention call. A token's ancestors are told by two numbers: with `order` its place in
a depth-first walk and `end` the place just after its subtree, j is an ancestor of i iff order[j] <= order[i] < end[j].
Tokens may lie in any layout. Probe tokens lie last and take no gradient, so they are a second, cheaper call.

Legend: B rows, L tokens of a row, H query heads, G key/value heads, E head size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def ancestor_mask(order_BL: Tensor, end_BL: Tensor) -> Tensor:
    """Bool [B, 1, L, L], True where the key token (last axis) is the query token or one of its ancestors."""
    query_BL1, key_B1L = order_BL[:, :, None], order_BL[:, None, :]
    return ((key_B1L <= query_BL1) & (query_BL1 < end_BL[:, None, :]))[:, None]


def window_mask(mask_B1LL: Tensor, positions_BL: Tensor, window: int) -> Tensor:
    """The mask without ancestors that lie `window` or more positions back, as sliding-window layers see them."""
    distance_BLL = positions_BL[:, :, None] - positions_BL[:, None, :]
    return mask_B1LL & (distance_BLL < window)[:, None]


def tree_attention(
    query_BHLE: Tensor,
    key_BGLE: Tensor,
    value_BGLE: Tensor,
    mask_B1LL: Tensor,
    num_trunk: int,
    scale: float | None,
    softcap: float | None = None,
) -> Tensor:
    """Attention output [B, H, L, E]; tokens from `num_trunk` on neither give nor take a gradient.

    No token of the trunk may see one after it: the mask's block [:num_trunk, num_trunk:] must be empty.
    """
    trunk = slice(None, num_trunk)
    out_BHTE = _attend(
        query_BHLE[:, :, trunk], key_BGLE[:, :, trunk], value_BGLE[:, :, trunk], mask_B1LL[:, :, trunk, trunk], scale, softcap
    )  # fmt: skip
    if num_trunk == query_BHLE.shape[2]:
        return out_BHTE
    with torch.no_grad():
        rest = slice(num_trunk, None)
        out_BHPE = _attend(query_BHLE[:, :, rest], key_BGLE, value_BGLE, mask_B1LL[:, :, rest], scale, softcap)
    return torch.cat((out_BHTE, out_BHPE), dim=2)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float | None, softcap: float | None
) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    if softcap is None:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scale is None else scale)
    scores = (torch.tanh(scores / softcap) * softcap).masked_fill(~mask, float("-inf"))
    return scores.float().softmax(dim=-1).to(value.dtype) @ value
