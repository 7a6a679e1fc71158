"""Sums and means of row values over contiguous segments, in a fixed order and therefore bitwise repeatable.

Owns the reduction from rows to (example, teacher) and (example, teacher, step). Knows no teacher: a segment is a run of
rows given by offsets.

Legend: N rows, S segments.
"""

from __future__ import annotations

import torch
from torch import Tensor


def segment_means(values_N: Tensor, offsets_S1: Tensor) -> Tensor:
    """Mean of `values_N[offsets[s]:offsets[s + 1]]` for each segment, 0 for an empty one; differentiable.

    `offsets_S1` is int64, non-decreasing, from 0 to N.
    """
    sums_S = torch.segment_reduce(values_N, "sum", offsets=offsets_S1, axis=0, initial=0.0)
    return sums_S / offsets_S1.diff().clamp(min=1)
