"""Sums and maxima over the rationales of an example or the probes of a rationale: the ragged layout of a micro-batch.

Legend for this folder: X examples, R rationales (sorted by example), P probes (sorted by rationale, then by step),
M metrics (`METRICS` in `running`). Owns no formula of the method.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sums(values_R: Tensor, segment_R: Tensor, num_segments: int) -> Tensor:
    """Sum of `values_R` within each segment, [num_segments]; 0 for an empty one.

    A masked dense sum, because `index_add` adds in any order on a GPU and a resumed run must agree bit for bit. A value
    that is not finite stays in its own segment.
    """
    segment_X1 = torch.arange(num_segments, device=values_R.device)[:, None]
    return torch.where(segment_X1 == segment_R[None, :], values_R[None, :], 0).sum(1)


def maxima(values_R: Tensor, segment_R: Tensor, num_segments: int) -> Tensor:
    """Largest of `values_R` within each segment, [num_segments]; -inf for an empty one."""
    start_X = values_R.new_full((num_segments,), float("-inf"))
    return start_X.scatter_reduce(0, segment_R, values_R, "amax")
