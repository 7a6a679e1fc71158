"""Tree attention bundle by bundle, for devices whose attention computes what a mask forbids.

Owns the forward and backward computation over the spans that `tree_spans` bundles. One autograd node has all spans of a layer:
it gathers queries and keys out of the row itself and gathers gradients back, where a node a span would cut, join and zero whole
rows. As in FlashAttention probabilities are made again in the backward pass, from the log-sum-exp of their scores, and scores are
in fp32 whatever the model computes in. They are in units of ln 2, because the library's exp2, unlike its exp, is as fast for what
a mask forbids as for the rest.

Legend: B rows, L tokens of a row, T = B * L, U = T + 1 with a token of zeros behind, H query heads, G key/value heads, J query
heads of each of these, E head size; N spans of a bundle, S query tokens of each, K keys; Q = S * J, M = G * N matrices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from compact_ds.kernels.tree_spans import Bundle, Bundles

_LOG2_E = math.log2(math.e)


def span_attention(
    query_BHLE: Tensor, key_BGLE: Tensor, value_BGLE: Tensor, bundles: Bundles, scale: float, softcap: float | None
) -> Tensor:
    """Output [B, H, L, E], E being the values', 0 for tokens of no span; leaves neither give nor take a gradient."""
    node: Any = _SpanAttention
    return node.apply(query_BHLE, key_BGLE, value_BGLE, bundles, scale, softcap)  # type: ignore[no-any-return]


class _SpanAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query_BHLE, key_BGLE, value_BGLE, bundles, scale, softcap):  # type: ignore[no-untyped-def]
        parts = _Parts(query_BHLE, key_BGLE, value_BGLE, scale, softcap)
        outs, lses = [], []
        for bundle in (*bundles.trunk, *bundles.leaves):
            query_MQE, key_MKE, value_MKE = parts.of(bundle)
            score_GNSJK, _ = parts.scores(query_MQE, key_MKE, bundle)
            max_GNSJ1 = score_GNSJK.amax(4, keepdim=True)
            weight_GNSJK = score_GNSJK.sub_(max_GNSJ1).exp2_()
            sum_GNSJ1 = weight_GNSJK.sum(4, keepdim=True)
            out_MQE = torch.bmm(_matrices(weight_GNSJK), value_MKE)
            outs.append(out_MQE.div_(_matrices(sum_GNSJ1)))
            lses.append(sum_GNSJ1.log2_().add_(max_GNSJ1))
        out_BLHE = _gathered(outs, bundles.query_slot_T, query_BHLE, parts.num_groups)
        ctx.save_for_backward(query_BHLE, key_BGLE, value_BGLE, out_BLHE, *lses[: len(bundles.trunk)])
        ctx.options = bundles, scale, softcap
        return out_BLHE.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BHLE):  # type: ignore[no-untyped-def]
        query_BHLE, key_BGLE, value_BGLE, out_BLHE, *lses = ctx.saved_tensors
        bundles, scale, softcap = ctx.options
        parts = _Parts(query_BHLE, key_BGLE, value_BGLE, scale, softcap)
        grad_GUJE = _by_group(grad_BHLE, parts.num_groups)
        # What the softmax takes off a query's gradients, whose weights add up to 1.
        shift_GUJ1 = (grad_GUJE * _by_group(out_BLHE.transpose(1, 2), parts.num_groups)).sum(3, keepdim=True)
        queries, keys, values = [], [], []
        for bundle, lse_GNSJ1 in zip(bundles.trunk, lses, strict=True):
            query_MQE, key_MKE, value_MKE = parts.of(bundle)
            score_GNSJK, slope_GNSJK = parts.scores(query_MQE, key_MKE, bundle)
            weight_MQK = _matrices(score_GNSJK.sub_(lse_GNSJ1).exp2_())
            grad_MQE, shift_MQ1 = (_taken(x, bundle.query_NS) for x in (grad_GUJE, shift_GUJ1))
            values.append(torch.bmm(weight_MQK.transpose(1, 2), grad_MQE))
            grad_MQK = torch.bmm(grad_MQE, value_MKE.transpose(1, 2)).sub_(shift_MQ1).mul_(weight_MQK)
            if slope_GNSJK is not None:
                grad_MQK.mul_(_matrices(slope_GNSJK))
            queries.append(torch.bmm(grad_MQK, key_MKE))
            keys.append(torch.bmm(grad_MQK.transpose(1, 2), query_MQE))
        query_BLHE = _gathered(queries, bundles.trunk_slot_T, query_BHLE, parts.num_groups, scale)
        # The queries above have the scale in them, and the unit.
        key_BLGE = _summed(keys, bundles, key_BGLE, 1 / _LOG2_E)
        value_BLGE = _summed(values, bundles, value_BGLE)
        return *(x.transpose(1, 2) for x in (query_BLHE, key_BLGE, value_BLGE)), None, None, None


class _Parts:
    """A layer's queries, keys and values in fp32, laid out so that any bundle of them is one gather away."""

    def __init__(
        self, query_BHLE: Tensor, key_BGLE: Tensor, value_BGLE: Tensor, scale: float, softcap: float | None
    ) -> None:
        self.num_groups = key_BGLE.shape[1]
        self._query_GUJE = _by_group(query_BHLE, self.num_groups).mul_(scale * _LOG2_E)
        self._key_GUJE, self._value_GUJE = (_by_group(x, self.num_groups) for x in (key_BGLE, value_BGLE))
        self._softcap = None if softcap is None else softcap * _LOG2_E

    def of(self, bundle: Bundle) -> tuple[Tensor, Tensor, Tensor]:
        """A bundle's queries [M, Q, E], scale and unit in them, keys and values [M, K, E]."""
        query_MQE = _taken(self._query_GUJE, bundle.query_NS)
        return query_MQE, _taken(self._key_GUJE, bundle.key_NK), _taken(self._value_GUJE, bundle.key_NK)

    def scores(self, query_MQE: Tensor, key_MKE: Tensor, bundle: Bundle) -> tuple[Tensor, Tensor | None]:
        """A bundle's masked scores in units of ln 2, [G, N, S, J, K], and their slope where they are capped."""
        score_MQK = torch.bmm(query_MQE, key_MKE.transpose(1, 2))
        num_spans, length = bundle.query_NS.shape
        score_GNSJK = score_MQK.view(self.num_groups, num_spans, length, -1, score_MQK.shape[2])
        slope_GNSJK = None
        if self._softcap is not None:
            score_GNSJK.div_(self._softcap).tanh_()
            slope_GNSJK = 1 - score_GNSJK.square()
            score_GNSJK.mul_(self._softcap)
        return score_GNSJK.add_(bundle.mask_NS1K), slope_GNSJK


def _by_group(x_BHLE: Tensor, num_groups: int) -> Tensor:
    """[G, U, J, E] in fp32, the token behind the last one zero."""
    num_rows, num_heads, length, size = x_BHLE.shape
    wide = torch.promote_types(x_BHLE.dtype, torch.float32)
    x_GUJE = x_BHLE.new_empty((num_groups, num_rows * length + 1, num_heads // num_groups, size), dtype=wide)
    x_GUJE[:, -1] = 0
    x_BGJLE = x_BHLE.unflatten(1, (num_groups, -1))
    x_GUJE[:, :-1].unflatten(1, (num_rows, length)).copy_(x_BGJLE.permute(1, 0, 3, 2, 4))
    return x_GUJE


def _taken(x_GUJE: Tensor, tokens_NS: Tensor) -> Tensor:
    """[G * N, S * J, E]: the tokens of each span."""
    num_groups, _, per_group, size = x_GUJE.shape
    taken = x_GUJE.flatten(2).index_select(1, tokens_NS.flatten())
    return taken.view(num_groups * tokens_NS.shape[0], tokens_NS.shape[1] * per_group, size)


def _matrices(x_GNSJK: Tensor) -> Tensor:
    return x_GNSJK.flatten(2, 3).flatten(0, 1)


def _listed(parts: Sequence[Tensor], num_groups: int, token_size: int, num_zeros: int) -> Tensor:
    """What was made of each bundle, span after span behind so many entries of zeros: [entries, G * numbers of a token]."""
    counts = [part.numel() // (num_groups * token_size) for part in parts]
    listed = parts[0].new_empty((num_zeros + sum(counts), num_groups * token_size))
    zeros, *places = listed.split([num_zeros, *counts])
    zeros.zero_()
    for place, count, part in zip(places, counts, parts, strict=True):
        by_group = part.view(num_groups, count, token_size)
        place.view(count, num_groups, token_size).copy_(by_group.transpose(0, 1))
    return listed


def _gathered(parts: Sequence[Tensor], slot_T: Tensor, like_BHLE: Tensor, num_groups: int, scale: float = 1) -> Tensor:
    """Each token's entry among the queries, [B, L, H, E] with the parts' own E: values may be shorter than queries."""
    num_rows, num_heads, length, _ = like_BHLE.shape
    size = parts[0].shape[2]
    listed = _listed(parts, num_groups, num_heads // num_groups * size, 1)
    taken = listed.index_select(0, slot_T).view(num_rows, length, num_heads, size)
    return (taken.mul_(scale) if scale != 1 else taken).to(like_BHLE.dtype)


def _summed(parts: Sequence[Tensor], bundles: Bundles, like_BGLE: Tensor, scale: float = 1) -> Tensor:
    """The sum of each token's entries among the keys, [B, L, G, E]."""
    num_rows, num_groups, length, size = like_BGLE.shape
    listed = _listed(parts, num_groups, size, 0)
    summed = functional.embedding_bag(bundles.key_slots, listed, bundles.key_offsets_T, mode="sum")
    summed = summed.view(num_rows, length, num_groups, size)
    return (summed.mul_(scale) if scale != 1 else summed).to(like_BGLE.dtype)
