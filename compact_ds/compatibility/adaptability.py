"""Adaptability A: what a rationale does for the student's belief in the gold answer, measured by the probes.

Owns which summary of the pointwise mutual information is A. The summaries themselves (total, largest jump, epiphany) come with
the segments' scores (`kernels.segment_scores`), in one pass over the head's rows; placing probes is `tree`'s.
Legend: `segments`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Kind = Literal["total", "jump", "mix"]


@torch.no_grad()
def adaptability(total_R: Tensor, jump_R: Tensor, kind: Kind) -> Tensor:
    """A_k in nats per answer token, float64, [R], without a gradient (DESIGN section 3).

    `total_R` is PMI_k[S] = g_k[S] - g[0], `jump_R` the largest g_k[s] - g_k[s - 1]; both are 0 for a rationale without
    probes. `mix` is their mean.
    """
    if kind == "mix":
        return (total_R.double() + jump_R.double()) / 2
    return (total_R if kind == "total" else jump_R).double()
