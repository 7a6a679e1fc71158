"""Where the teachers' rationales lie among one another in a student's space, and the plane in which to look at states.

Owns principal axes and the share of the rationales' spread that their teachers account for.

Legend: P rationales as vectors, D hidden size, K axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def principal_axes(states_PD: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The mean [D] and the `number` directions of most variance [D, K], float64."""
    states_PD = states_PD.double()
    mean_D = states_PD.mean(0)
    _, _, right_DD = torch.linalg.svd(states_PD - mean_D, full_matrices=False)
    return mean_D, right_DD[:number].T


def within_questions(states_PD: Tensor, questions: Sequence[int]) -> Tensor:
    """Each vector less the mean of its question's, so that what is asked drops out and how it is answered stays; float64."""
    centred_PD = states_PD.double().clone()
    question_P = torch.tensor(questions)
    for question in set(questions):
        mine_P = question_P == question
        centred_PD[mine_P] -= centred_PD[mine_P].mean(0)
    return centred_PD


def share_between(states_PD: Tensor, teachers: Sequence[str]) -> float:
    """Sum over teachers of n |mean|^2, over the sum of |vector|^2, for vectors centred within questions; 0 to 1.

    With teachers' names drawn at random the expected share is one over the number of questions. NaN when nothing differs.
    """
    total = float(states_PD.square().sum())
    between = 0.0
    for teacher in set(teachers):
        mine_PD = states_PD[torch.tensor([name == teacher for name in teachers])]
        between += len(mine_PD) * float(mine_PD.mean(0).square().sum())
    return between / total if total > 0 else math.nan


def drifts(before_PD: Tensor, after_PD: Tensor, teachers: Sequence[str]) -> dict[str, float]:
    """Per teacher the mean of 1 - cosine between a rationale's vector before and after."""
    drift_P = 1 - torch.nn.functional.cosine_similarity(before_PD.double(), after_PD.double(), dim=1, eps=1e-30)
    return {t: float(drift_P[torch.tensor([name == t for name in teachers])].mean()) for t in sorted(set(teachers))}
