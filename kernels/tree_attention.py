"""Attention over packed token trees: each token sees exactly its ancestors and itself.

Owns the mask's definition, the attention call, and which implementation runs it. A token's ancestors are told by two numbers:
with `order` its place in a depth-first walk and `end` the place just after its subtree, j is an ancestor of i iff
order[j] <= order[i] < end[j]. Tokens may lie in any layout. Probe tokens lie last and take no gradient, so they are a second,
cheaper call.

Legend: B rows, L tokens of a row, T trunk tokens, P probe tokens, H query heads, G key/value heads, E head size.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask

from compact_ds.errors import ConfigError
from compact_ds.kernels import tree_flex
from compact_ds.kernels.choice import Kernels
from compact_ds.kernels.span_attention import span_attention
from compact_ds.kernels.tree_spans import Bundles, TreePlace, make_bundles

Backend = Literal["flex", "sdpa"]


@lru_cache
def choose(kernels: Kernels, device_type: str, head_size: int) -> Backend:
    """What computes tree attention for the setting `kernels`: `flex` (FlexAttention) or `sdpa` (a dense mask, everywhere).

    `auto` and `triton` take flex on a GPU; `auto` falls back where flex cannot run. On CPU it is sdpa for every setting,
    because FlexAttention has no backward pass there. The first rank logs each choice once. Raises ConfigError when `triton`
    is asked for on a GPU that cannot have it.
    """
    obstacle = _obstacle(device_type, head_size)
    if kernels == "triton" and device_type == "cuda" and obstacle is not None:
        raise ConfigError(
            "kernels", kernels, f"a student and an install that flex can serve ({obstacle})", "set kernels=auto"
        )
    backend: Backend = "sdpa" if kernels == "torch" or obstacle is not None else "flex"
    reason = "" if kernels == "torch" or obstacle is None else f": {obstacle}"
    if os.environ.get("RANK", "0") == "0":
        logging.getLogger(__name__).info("tree attention: %s (kernels=%s, %s)%s", backend, kernels, device_type, reason)
    return backend


def _obstacle(device_type: str, head_size: int) -> str | None:
    """Why flex cannot train here, or None."""
    if device_type != "cuda":
        return "FlexAttention has no backward pass off the GPU"
    if head_size not in tree_flex.HEAD_SIZES:
        sizes = f"{tree_flex.HEAD_SIZES.start} to {tree_flex.HEAD_SIZES.stop - 1}"
        return f"FlexAttention takes a head size of {sizes}, this student's is {head_size}"
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    return None


@dataclass(frozen=True, slots=True)
class Ancestry:
    """Who sees whom in a micro-batch, and where its trunks end. Masks are made on first use and kept, one per window.

    No token of the trunk may see one after it, that is, from `num_trunk` on. Where `places` of all trees are known, dense
    attention goes branch by branch.
    """

    order_BL: Tensor
    end_BL: Tensor
    positions_BL: Tensor
    num_trunk: int
    places: tuple[TreePlace, ...] = ()
    _bundles: dict[int | None, Bundles] = field(default_factory=dict, repr=False)
    _dense: dict[int | None, Tensor] = field(default_factory=dict, repr=False)
    _blocks: dict[tuple[int | None, bool], BlockMask] = field(default_factory=dict, repr=False)

    def dense(self, window: int | None) -> Tensor:
        """Bool [B, 1, L, L]; with a window, ancestors that lie `window` or more positions back are not seen."""
        if window not in self._dense:
            if window is None:
                self._dense[window] = ancestor_mask(self.order_BL, self.end_BL)
            else:
                self._dense[window] = window_mask(self.dense(None), self.positions_BL, window)
        return self._dense[window]

    def bundles(self, window: int | None) -> Bundles:
        """The same mask for the root, branches and leaves of each place."""
        if window not in self._bundles:
            order_T, end_T, position_T = self.order_BL.flatten(), self.end_BL.flatten(), self.positions_BL.flatten()

            def sees(query_NS: Tensor, key_NK: Tensor) -> Tensor:
                order_NS1, order_N1K = order_T[query_NS, None], order_T[key_NK][:, None]
                mask_NSK = (order_N1K <= order_NS1) & (order_NS1 < end_T[key_NK][:, None])
                if window is None:
                    return mask_NSK
                return mask_NSK & (position_T[query_NS, None] - position_T[key_NK][:, None] < window)

            shape = (self.order_BL.shape[0], self.order_BL.shape[1])
            self._bundles[window] = make_bundles(self.places, shape, sees, self.order_BL.device)
        return self._bundles[window]

    def blocks(self, window: int | None, probes: bool) -> BlockMask:
        """The same mask for FlexAttention: the trunk's [T, T], or with `probes` the probes' [P, L]."""
        key = (window, probes)
        if key not in self._blocks:
            queries = slice(self.num_trunk, None) if probes else slice(None, self.num_trunk)
            keys = slice(None) if probes else queries
            near = None
            if window is not None:
                near = (self.positions_BL[:, queries] - window, self.positions_BL[:, keys])
            self._blocks[key] = tree_flex.block_mask(
                self.order_BL[:, queries], self.order_BL[:, keys], self.end_BL[:, keys], near
            )
        return self._blocks[key]


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
    tree: Ancestry,
    backend: Backend,
    *,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attention output [B, H, L, E]; tokens from `tree.num_trunk` on neither give nor take a gradient.

    `scale` multiplies the scores (None: E ** -0.5), `softcap` bounds them by tanh. `flex` holds no mask or scores in memory.
    """
    if backend == "sdpa" and tree.places:
        scale = query_BHLE.shape[3] ** -0.5 if scale is None else scale
        return span_attention(query_BHLE, key_BGLE, value_BGLE, tree.bundles(window), scale, softcap)
    trunk, rest = slice(None, tree.num_trunk), slice(tree.num_trunk, None)
    trunk_qkv = (query_BHLE[:, :, trunk], key_BGLE[:, :, trunk], value_BGLE[:, :, trunk])
    if backend == "flex":
        out_BHTE = tree_flex.flex_tree_attention(*trunk_qkv, tree.blocks(window, probes=False), scale, softcap)
    else:
        out_BHTE = _dense_attention(*trunk_qkv, tree.dense(window)[:, :, trunk, trunk], scale, softcap)
    if tree.num_trunk == query_BHLE.shape[2]:
        return out_BHTE
    with torch.no_grad():
        rest_qkv = (query_BHLE[:, :, rest], key_BGLE, value_BGLE)
        if backend == "flex":
            out_BHPE = tree_flex.flex_tree_attention(*rest_qkv, tree.blocks(window, probes=True), scale, softcap)
        else:
            out_BHPE = _dense_attention(*rest_qkv, tree.dense(window)[:, :, rest], scale, softcap)
    return torch.cat((out_BHTE, out_BHPE), dim=2)


def _dense_attention(
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
