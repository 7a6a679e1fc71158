"""`segment_scores` by Triton kernels: one launch forward, one backward.

Owns the kernels, their launch and their node of the autograd graph. The first S programs sum a segment each; the next C walk a
chain each, summing its (short) segments again instead of waiting for other programs. Every sum runs over fixed blocks in a fixed
order, so nothing is atomic and a chain sees the very means that are reported.

Legend: N rows, K target slots, M members, S segments, C chains.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from compact_ds.kernels.operands import FP_FUSION
from compact_ds.kernels.segment_scores import ScorePlan

BLOCK = 1024
ROWS = 256
WARPS = 4


@triton.jit
def segment_sum(lse, z, row, slot, first, end, K: tl.constexpr, BLOCK: tl.constexpr):
    """Sum of lse - z over members first:end, fp32."""
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(first, end, BLOCK):
        members = start + tl.arange(0, BLOCK)
        inside = members < end
        rows = tl.load(row + members, mask=inside, other=0)
        slots = tl.load(slot + members, mask=inside, other=0)
        total += tl.load(lse + rows, mask=inside, other=0.0) - tl.load(z + rows * K + slots, mask=inside, other=0.0)
    return tl.sum(total, 0)


@triton.jit
def score_segments(
    lse, z, row, slot, offsets, base, chain, nll, mean, total, jump, step, S, K: tl.constexpr, BLOCK: tl.constexpr
):
    """Write `nll[S]`, `mean[S]`, and of each chain `total[C]`, `jump[C]`, `step[C]`."""
    program = tl.program_id(0)
    if program < S:
        first = tl.load(offsets + program)
        end = tl.load(offsets + program + 1)
        value = segment_sum(lse, z, row, slot, first, end, K, BLOCK)
        tl.store(nll + program, value)
        tl.store(mean + program, value / tl.maximum(end - first, 1).to(tl.float32))
    else:
        c = program - S
        start = tl.load(base + c)
        first = tl.load(offsets + start)
        end = tl.load(offsets + start + 1)
        before = segment_sum(lse, z, row, slot, first, end, K, BLOCK) / tl.maximum(end - first, 1).to(tl.float32)
        at_start = before
        largest = tl.full((), float("-inf"), tl.float32)
        segment_first = tl.load(chain + c)
        segment_end = tl.load(chain + c + 1)
        # A rise of -inf reaches no more than the start's value; the first is then the largest.
        place = tl.where(segment_end > segment_first, 0, -1).to(tl.int64)
        for s in range(segment_first, segment_end):
            first = tl.load(offsets + s)
            end = tl.load(offsets + s + 1)
            now = segment_sum(lse, z, row, slot, first, end, K, BLOCK) / tl.maximum(end - first, 1).to(tl.float32)
            rise = before - now
            place = tl.where(rise > largest, (s - segment_first).to(tl.int64), place)
            largest = tl.maximum(largest, rise, propagate_nan=tl.PropagateNan.ALL)
            before = now
        tl.store(total + c, at_start - before)
        tl.store(jump + c, tl.where(segment_end > segment_first, largest, 0.0))
        tl.store(step + c, tl.where(largest == largest, place, -1))


@triton.jit
def grad_rows_of_segments(
    segment, offsets, grad_nll, grad_mean, grad_lse, grad_z, N, K: tl.constexpr, ROWS: tl.constexpr
):
    """Write `grad_lse[N]` and `grad_z[N, K]`: each (row, slot) takes its segment's gradient, so nothing is summed atomically."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < N
    of_row = tl.zeros((ROWS,), tl.float32)
    for k in tl.static_range(K):
        s = tl.load(segment + rows * K + k, mask=inside, other=-1)
        owned = s >= 0
        count = tl.load(offsets + s + 1, mask=owned, other=1) - tl.load(offsets + s, mask=owned, other=0)
        share = tl.load(grad_mean + s, mask=owned, other=0.0) / count.to(tl.float32)
        upstream = tl.load(grad_nll + s, mask=owned, other=0.0) + share
        of_row += upstream
        tl.store(grad_z + rows * K + k, -upstream, mask=inside)
    tl.store(grad_lse + rows, of_row, mask=inside)


def segment_scores_triton(
    lse_N: Tensor, z_NK: Tensor, plan: ScorePlan
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`(nll[S], mean[S], total[C], jump[C], step[C])`; see `segment_scores`."""
    return _SegmentScores.apply(lse_N, z_NK, plan)  # type: ignore[no-any-return,no-untyped-call]


class _SegmentScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx, lse_N, z_NK, plan):
        num_segments, num_chains = len(plan.offsets_S1) - 1, len(plan.base_C)
        nll_S, mean_S = (lse_N.new_empty(num_segments) for _ in range(2))
        total_C, jump_C = (lse_N.new_empty(num_chains) for _ in range(2))
        step_C = plan.base_C.new_empty(num_chains)
        if num_segments + num_chains:
            # Triton launches on the current device, which need not be that of the scores.
            with torch.cuda.device_of(lse_N):
                score_segments[(num_segments + num_chains,)](
                    lse_N.contiguous(), z_NK.contiguous(), plan.row_M, plan.slot_M, plan.offsets_S1, plan.base_C,
                    plan.chain_C1, nll_S, mean_S, total_C, jump_C, step_C, num_segments, K=z_NK.shape[1], BLOCK=BLOCK,
                    num_warps=WARPS, enable_fp_fusion=FP_FUSION,
                )  # fmt: skip
        ctx.plan, ctx.slots = plan, z_NK.shape[1]
        ctx.mark_non_differentiable(total_C, jump_C, step_C)
        return nll_S, mean_S, total_C, jump_C, step_C

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_nll_S, grad_mean_S, *_):
        plan, num_rows = ctx.plan, ctx.plan.segment_NK.shape[0]
        grad_lse_N = grad_nll_S.new_empty(num_rows)
        grad_z_NK = grad_nll_S.new_empty(num_rows, ctx.slots)
        if num_rows:
            with torch.cuda.device_of(grad_lse_N):
                grad_rows_of_segments[(triton.cdiv(num_rows, ROWS),)](
                    plan.segment_NK, plan.offsets_S1, grad_nll_S.contiguous(), grad_mean_S.contiguous(),
                    grad_lse_N, grad_z_NK, num_rows, K=ctx.slots, ROWS=ROWS, num_warps=WARPS, enable_fp_fusion=FP_FUSION,
                )  # fmt: skip
        return grad_lse_N, grad_z_NK, None
