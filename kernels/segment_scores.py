"""From the head's rows to scores of segments and chains: sums, means and gains in log-likelihood, bitwise repeatable.

Owns the plan (which row and target slot belongs to which segment, which segments make a chain), its checks, the plain PyTorch
path and the choice of a path. A segment is any set of (row, slot) pairs: the tokens of a rationale, or of a gold answer after a
step. A chain is a run of segments that is compared with a base segment: the probes of a rationale against the one on the
question. Knows no teacher.

Legend: N rows, K target slots, M members (row, slot) of segments, S segments, C chains, T the longest chain.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from compact_ds.kernels.choice import Kernels, choose

NO_SEGMENT = -1


@dataclass(frozen=True, slots=True)
class ScorePlan:
    """Segments in compressed rows: members `offsets_S1[s]:offsets_S1[s + 1]` are segment s. Made by `plan_scores`.

    All int64 and contiguous, which the kernels rely on.

    `segment_NK` is the inverse, for the backward pass: the segment of each (row, slot), -1 for none.
    """

    row_M: Tensor
    slot_M: Tensor
    offsets_S1: Tensor
    segment_NK: Tensor
    base_C: Tensor
    chain_C1: Tensor
    longest_chain: int

    def to(self, device: torch.device) -> ScorePlan:
        """The plan on a device."""
        moved: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {k: v.to(device, non_blocking=True) for k, v in moved.items() if isinstance(v, Tensor)}
        return replace(self, **moved)


@dataclass(frozen=True, slots=True)
class Scores:
    """`nll_S` in nats, `count_S` rows, `mean_S` in nats a row (0 when empty); differentiable but for the counts.

    Of chains, without a gradient: `total_C` is the last segment's mean log-likelihood less the base's, `jump_C` the largest
    rise from one segment to the next (the base before the first), `step_C` the place of the first segment that reaches it.
    An empty chain has 0, 0 and -1; one with a rise that is no number has a `jump_C` of NaN at -1.
    """

    nll_S: Tensor
    count_S: Tensor
    mean_S: Tensor
    total_C: Tensor
    jump_C: Tensor
    step_C: Tensor


def plan_scores(
    num_rows: int,
    num_slots: int,
    offsets_S1: Tensor,
    row_M: Tensor | None = None,
    slot_M: Tensor | None = None,
    base_C: Tensor | None = None,
    chain_C1: Tensor | None = None,
) -> ScorePlan:
    """A plan, checked on the host.

    Members lie in segment order; without `row_M` they are the rows 0, 1, ..., without `slot_M` all slots are 0. Chain c holds
    the segments `chain_C1[c]:chain_C1[c + 1]` and starts from segment `base_C[c]`. Raises ValueError when offsets do not
    ascend from 0 to M, an index is out of range, or a (row, slot) is in two segments.
    """
    if offsets_S1.ndim != 1 or not len(offsets_S1) or int(offsets_S1[-1]) < 0:
        raise ValueError(f"offsets must ascend from 0 to the members, got {offsets_S1.tolist()}")
    members = int(offsets_S1[-1])
    row_M = torch.arange(members) if row_M is None else row_M
    slot_M = torch.zeros(members, dtype=torch.int64) if slot_M is None else slot_M
    base_C = torch.zeros(0, dtype=torch.int64) if base_C is None else base_C
    chain_C1 = torch.zeros(1, dtype=torch.int64) if chain_C1 is None else chain_C1
    row_M, slot_M, offsets_S1, base_C, chain_C1 = (
        index.to(torch.int64).contiguous() for index in (row_M, slot_M, offsets_S1, base_C, chain_C1)
    )
    num_segments = len(offsets_S1) - 1
    if offsets_S1[0] != 0 or (offsets_S1.diff() < 0).any() or len(row_M) != members or len(slot_M) != members:
        raise ValueError(f"offsets must ascend from 0 to the {len(row_M)} members, got {offsets_S1.tolist()}")
    if len(chain_C1) != len(base_C) + 1 or (chain_C1.diff() < 0).any():
        raise ValueError(f"chains must ascend, one more bound than bases, got {chain_C1.tolist()}")
    for name, index, bound in (
        ("row", row_M, num_rows), ("slot", slot_M, num_slots), ("base", base_C, num_segments),
        ("chain", chain_C1, num_segments + 1),
    ):  # fmt: skip
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < bound:
            raise ValueError(f"{name} index outside [0, {bound})")
    segment_NK = torch.full((num_rows, num_slots), NO_SEGMENT)
    segment_NK[row_M, slot_M] = torch.repeat_interleave(torch.arange(num_segments), offsets_S1.diff())
    if int((segment_NK >= 0).sum()) != members:
        raise ValueError("a row's slot belongs to two segments; give each its own")
    longest = int(chain_C1.diff().max()) if len(base_C) else 0
    return ScorePlan(row_M, slot_M, offsets_S1, segment_NK, base_C, chain_C1, longest)


def segment_scores(lse_N: Tensor, z_NK: Tensor, plan: ScorePlan, *, kernels: Kernels = "auto") -> Scores:
    """Scores of the plan's segments and chains from the head's fp32 `lse` and `z`, by the path that `choice.choose` takes.

    Sums are taken in a fixed order on either path: two runs agree bit for bit. Raises ValueError when the rows or slots are not
    those that the plan was made for.
    """
    if plan.segment_NK.shape != z_NK.shape or lse_N.shape != z_NK.shape[:1]:
        planned, found = tuple(plan.segment_NK.shape), (tuple(lse_N.shape), tuple(z_NK.shape))
        raise ValueError(f"the plan is for z of {planned} and lse of {planned[:1]}, got lse and z of {found}")
    if choose(kernels, lse_N.device) == "triton":
        from compact_ds.kernels.segment_triton import segment_scores_triton

        nll_S, mean_S, total_C, jump_C, step_C = segment_scores_triton(lse_N, z_NK, plan)
        return Scores(nll_S, plan.offsets_S1.diff(), mean_S, total_C, jump_C, step_C)
    nll_M = lse_N.index_select(0, plan.row_M) - z_NK[plan.row_M, plan.slot_M]
    count_S = plan.offsets_S1.diff()
    nll_S = torch.segment_reduce(nll_M, "sum", offsets=plan.offsets_S1, axis=0, initial=0.0)
    mean_S = nll_S / count_S.clamp(min=1)
    return Scores(nll_S, count_S, mean_S, *_chains(mean_S.detach(), plan))


def segment_scores_reference(lse_N: Tensor, z_NK: Tensor, plan: ScorePlan) -> Scores:
    """The same by definition: Python loops, in the operands' own type, differentiated by autograd."""
    bounds, zero = plan.offsets_S1.tolist(), lse_N[:0].sum() + z_NK[:0].sum()
    sums = []
    for first, end in itertools.pairwise(bounds):
        rows = zip(plan.row_M[first:end].tolist(), plan.slot_M[first:end].tolist(), strict=True)
        sums.append(sum((lse_N[n] - z_NK[n, k] for n, k in rows), zero))
    count_S = plan.offsets_S1.diff()
    nll_S = torch.stack(sums) if sums else zero.expand(0)
    mean_S = nll_S / count_S.clamp(min=1)
    total, jump, step = [], [], []
    for base, first, end in zip(plan.base_C, plan.chain_C1, plan.chain_C1[1:], strict=False):
        levels = [-value for value in mean_S[[int(base), *range(int(first), int(end))]].tolist()]
        rises = [after - before for before, after in itertools.pairwise(levels)]
        total.append(levels[-1] - levels[0])
        jump.append(math.nan if any(map(math.isnan, rises)) else max(rises, default=0.0))
        step.append(rises.index(jump[-1]) if jump[-1] in rises else -1)
    total_C, jump_C = (torch.tensor(values, dtype=lse_N.dtype) for values in (total, jump))
    return Scores(nll_S, count_S, mean_S, total_C, jump_C, torch.tensor(step, dtype=torch.int64))


def _chains(mean_S: Tensor, plan: ScorePlan) -> tuple[Tensor, Tensor, Tensor]:
    length_C = plan.chain_C1.diff()
    if not plan.longest_chain:
        nothing_C = torch.zeros_like(length_C, dtype=mean_S.dtype)
        return nothing_C, nothing_C, length_C - 1
    # The longest is known on the host: asking the device would wait for it.
    step_T = torch.arange(plan.longest_chain, device=mean_S.device)
    inside_CT = step_T < length_C[:, None]
    level_CT = -mean_S[(plan.chain_C1[:-1, None] + step_T).clamp(max=len(mean_S) - 1)]
    base_C = -mean_S[plan.base_C]
    before_CT = torch.cat([base_C[:, None], level_CT[:, :-1]], dim=1)
    rise_CT = (level_CT - before_CT).masked_fill(~inside_CT, float("-inf"))
    # argmax of several equal values may be any of them; the first is the epiphany.
    jump_C = rise_CT.amax(1)
    step_C = torch.where(rise_CT == jump_C[:, None], step_T, len(step_T)).amin(1)
    full_C = length_C > 0
    last_C = level_CT.gather(1, (length_C - 1).clamp(min=0)[:, None])[:, 0]
    total_C = torch.where(full_C, last_C - base_C, 0.0)
    # Nothing equals a NaN, which therefore has no place.
    return total_C, torch.where(full_C, jump_C, 0.0), torch.where(full_C & ~jump_C.isnan(), step_C, -1)
