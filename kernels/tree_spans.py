"""Tree attention branch by branch, for devices whose attention computes what a mask forbids.

Owns one idea: in a tree whose branches hang on its root, a branch's keys are the root's and its own. So a row of many trees
takes as many small products as it has branches, none of which sees another branch or tree: work and mask memory grow with
the tokens, where a mask over the row grows with their square. Whose keys are whose ancestors is `tree_attention`'s.

One autograd node has all spans of a layer: it cuts queries and keys out of the row itself and writes gradients where they
belong, where a node a span would cut, join and zero whole rows. As in FlashAttention probabilities are made again in the
backward pass, from the log-sum-exp of their scores, and scores are in fp32 whatever the model computes in. They are in units
of ln 2, because the library's exp2, unlike its exp, is as fast for what a mask forbids as for the rest.

Legend: B rows, L tokens of a row, H query heads, G key/value heads, J query heads of each of these, E head size, S query
tokens of a span, Q = S * J rows of its matrices, K its keys.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Run = tuple[int, int]
"""First token and the one after the last."""

_LOG2_E = math.log2(math.e)


@dataclass(frozen=True, slots=True)
class TreePlace:
    """Where a tree lies: its row, first token, lengths of root and branches, which follow one another, and its leaves.

    `leaves` are the first leaf token and the one after the last; a leaf's ancestors are in its own tree.
    """

    row: int
    start: int
    lengths: tuple[int, ...]
    leaves: Run

    @property
    def stop(self) -> int:
        """The token after the last of the trunk."""
        return self.start + sum(self.lengths)

    def key_runs(self) -> list[tuple[Run, ...]]:
        """For root, branches and leaves: the runs of keys that hold all ancestors, the last one its own tokens."""
        cuts = list(itertools.accumulate(self.lengths, initial=self.start))
        root, *branches = itertools.pairwise(cuts)
        return [(root,), *((root, branch) for branch in branches), ((self.start, self.stop), self.leaves)]


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens of a row that share their keys: those of `runs`, the last run being the tokens themselves.

    `mask_S1K` is 0 for an ancestor and -inf for any other key.
    """

    row: int
    runs: tuple[Run, ...]
    mask_S1K: Tensor

    @property
    def own(self) -> slice:
        """Its tokens."""
        return slice(*self.runs[-1])


def make_spans(
    places: Sequence[TreePlace], sees: Callable[[int, Tensor, Tensor], Tensor], device: torch.device
) -> list[Span]:
    """Every place's root, branches and leaves but empty ones; `sees(row, queries_S, keys_K)` tells ancestors, bool [S, K]."""
    found = []
    for place in places:
        for runs in place.key_runs():
            if runs[-1][0] == runs[-1][1]:
                continue
            keys_K = torch.cat([torch.arange(*run, device=device) for run in runs])
            seen_SK = sees(place.row, torch.arange(*runs[-1], device=device), keys_K)
            mask_SK = torch.zeros(seen_SK.shape, device=device).masked_fill_(~seen_SK, -torch.inf)
            found.append(Span(place.row, runs, mask_SK[:, None]))
    return found


def span_attention(
    query_BHLE: Tensor, key_BGLE: Tensor, value_BGLE: Tensor, num_trunk: int, spans: Sequence[Span], scale: float,
    softcap: float | None,
) -> Tensor:  # fmt: skip
    """Output [B, H, L, E], 0 for tokens of no span; those from `num_trunk` on neither give nor take a gradient."""
    node: Any = _SpanAttention
    return node.apply(query_BHLE, key_BGLE, value_BGLE, num_trunk, spans, scale, softcap)  # type: ignore[no-any-return]


class _SpanAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query_BHLE, key_BGLE, value_BGLE, num_trunk, spans, scale, softcap):  # type: ignore[no-untyped-def]
        parts = _Parts(query_BHLE, key_BGLE, value_BGLE, scale, softcap)
        # A token's heads side by side, as the next layer wants them.
        out_BLHE = torch.zeros_like(query_BHLE.transpose(1, 2), memory_format=torch.contiguous_format)
        lse_BGLJ = parts.query_BGLJE.new_zeros(parts.query_BGLJE.shape[:4])
        for span in spans:
            score_GSJK, _ = parts.scores(span)
            max_GSJ1 = score_GSJK.amax(3, keepdim=True)
            weight_GSJK = score_GSJK.sub_(max_GSJ1).exp2_()
            sum_GSJ1 = weight_GSJK.sum(3, keepdim=True)
            out_GQE = torch.bmm(weight_GSJK.flatten(1, 2), parts.keys(parts.value_BGLE, span))
            parts.put(out_BLHE, span, out_GQE.div_(sum_GSJ1.flatten(1, 2)))
            lse_BGLJ[span.row, :, span.own] = sum_GSJ1.log2_().add_(max_GSJ1)[..., 0]
        ctx.save_for_backward(query_BHLE, key_BGLE, value_BGLE, out_BLHE, lse_BGLJ)
        ctx.options = num_trunk, spans, scale, softcap
        return out_BLHE.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BHLE):  # type: ignore[no-untyped-def]
        query_BHLE, key_BGLE, value_BGLE, out_BLHE, lse_BGLJ = ctx.saved_tensors
        num_trunk, spans, scale, softcap = ctx.options
        inputs = query_BHLE, key_BGLE, value_BGLE
        parts = _Parts(*inputs, scale, softcap)
        grad_BGLJE = parts.grouped(grad_BHLE)
        # What the softmax takes off a query's gradients, whose weights add up to 1.
        shift_BGLJ = (grad_BGLJE * parts.grouped(out_BLHE.transpose(1, 2))).sum(4)
        query_BLHE, key_BLGE, value_BLGE = (lse_BGLJ.new_zeros(x.transpose(1, 2).shape) for x in inputs)
        for span in spans:
            if span.own.start >= num_trunk:
                continue
            at = span.row, slice(None), span.own
            score_GSJK, slope_GSJK = parts.scores(span)
            weight_GSJK = score_GSJK.sub_(lse_BGLJ[at][..., None]).exp2_()
            grad_GQE = grad_BGLJE[at].flatten(1, 2)
            parts.add(value_BLGE, span, torch.bmm(weight_GSJK.flatten(1, 2).transpose(1, 2), grad_GQE))
            grad_GQK = torch.bmm(grad_GQE, parts.keys(parts.value_BGLE, span).transpose(1, 2))
            grad_GSJK = grad_GQK.view(weight_GSJK.shape).sub_(shift_BGLJ[at][..., None]).mul_(weight_GSJK)
            if slope_GSJK is not None:
                grad_GSJK.mul_(slope_GSJK)
            parts.put(query_BLHE, span, torch.bmm(grad_GQK, parts.keys(parts.key_BGLE, span)).mul_(scale))
            # These queries have the scale in them, and the unit.
            query_GQE = parts.query_BGLJE[at].flatten(1, 2)
            parts.add(key_BLGE, span, torch.bmm(grad_GQK.transpose(1, 2), query_GQE).div_(_LOG2_E))
        grads = (query_BLHE, key_BLGE, value_BLGE)
        return *(g.to(x.dtype).transpose(1, 2) for g, x in zip(grads, inputs, strict=True)), None, None, None, None


class _Parts:
    """Cuts spans out of a layer's queries, keys and values, and puts what was made of them back; all of it in fp32."""

    def __init__(
        self, query_BHLE: Tensor, key_BGLE: Tensor, value_BGLE: Tensor, scale: float, softcap: float | None
    ) -> None:
        self.num_groups = key_BGLE.shape[1]
        self.query_BGLJE = self.grouped(query_BHLE).mul_(scale * _LOG2_E)
        self.key_BGLE, self.value_BGLE = key_BGLE, value_BGLE
        self.softcap = None if softcap is None else softcap * _LOG2_E

    def grouped(self, x_BHLE: Tensor) -> Tensor:
        """[B, G, L, J, E]: so any run of tokens is a matrix for each key/value head, without a copy of its own."""
        x_BGLJE = x_BHLE.unflatten(1, (self.num_groups, -1)).transpose(2, 3)
        return torch.empty(x_BGLJE.shape, dtype=_wide(x_BHLE), device=x_BHLE.device).copy_(x_BGLJE)

    def keys(self, x_BGLE: Tensor, span: Span) -> Tensor:
        """What a span sees of keys or values, [G, K, E]."""
        x_GLE = x_BGLE[span.row]
        return torch.cat([x_GLE[:, start:stop] for start, stop in span.runs], dim=1).to(_wide(x_BGLE))

    def scores(self, span: Span) -> tuple[Tensor, Tensor | None]:
        """A span's masked scores in units of ln 2, [G, S, J, K], and their slope where they are capped."""
        query_GQE = self.query_BGLJE[span.row, :, span.own].flatten(1, 2)
        score_GQK = torch.bmm(query_GQE, self.keys(self.key_BGLE, span).transpose(1, 2))
        score_GSJK = score_GQK.unflatten(1, (span.mask_S1K.shape[0], -1))
        slope_GSJK = None
        if self.softcap is not None:
            score_GSJK.div_(self.softcap).tanh_()
            slope_GSJK = 1 - score_GSJK.square()
            score_GSJK.mul_(self.softcap)
        return score_GSJK.add_(span.mask_S1K), slope_GSJK

    def put(self, whole_BLHE: Tensor, span: Span, part_GQE: Tensor) -> None:
        """Write what belongs to a span's queries."""
        place_SGJE = whole_BLHE[span.row, span.own].unflatten(1, (self.num_groups, -1))
        place_SGJE.copy_(part_GQE.unflatten(1, (place_SGJE.shape[0], -1)).transpose(0, 1))

    def add(self, whole_BLGE: Tensor, span: Span, part_GKE: Tensor) -> None:
        """Add what belongs to a span's keys."""
        sizes = [stop - start for start, stop in span.runs]
        for (start, stop), part_GLE in zip(span.runs, part_GKE.split(sizes, dim=1), strict=True):
            whole_BLGE[span.row, start:stop] += part_GLE.transpose(0, 1)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
