"""What a micro-batch shows of its rationales: all that a method may weigh them by.

Owns nothing but the names. Legend: `compatibility.segments`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Evidence:
    """One entry a rationale, R of them, sorted by example; nothing here takes a gradient.

    `metrics_MR` are C, A and D in the order of `running.METRICS`, then those that users added, once they are there;
    `token_loss_R` is in nats per token, `tokens_R` counts tokens; `rank_ratio_R` is the rank-surprisal ratio where the method
    asked for it; `teacher_R` indexes the data's teachers.
    """

    metrics_MR: Tensor
    token_loss_R: Tensor
    tokens_R: Tensor
    rank_ratio_R: Tensor | None
    example_R: Tensor
    teacher_R: Tensor
    num_examples: int
