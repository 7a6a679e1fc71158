"""Two sets of hidden states on the same tokens, taken in batch by batch as float64 moments, and what the moments tell.

Owns the formulas that compare one layer before and after. No state is kept: memory is 3 D^2 float64, however many tokens.

Legend: T tokens, D hidden size, K leading directions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import subspace_angles
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Leading:
    """How the K leading directions of the states turned.

    `angles_K`: principal angles between their spans before and after, in degrees, the largest first. `kept`: the variance of the
    later states that the earlier span holds, over the most that any K directions could hold; 1 when nothing turned.
    """

    angles_K: tuple[float, ...]
    kept: float


class PairMoments:
    """Means, scatter matrices and cosines of paired states; batches add up by the update of Chan, Golub and LeVeque (1983)."""

    def __init__(self, size: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self._mean_before_D, self._mean_after_D = _zeros(size, device=device), _zeros(size, device=device)
        self._before_DD, self._after_DD, self._cross_DD = (_zeros(size, size, device=device) for _ in range(3))
        self._cosines = _zeros(device=device)

    @torch.no_grad()
    def add(self, before_TD: Tensor, after_TD: Tensor) -> None:
        """Take in the states of T tokens. Centred first: raw second moments of states far from 0 would cancel."""
        num = len(before_TD)
        if num == 0:
            return
        before_TD, after_TD = before_TD.double(), after_TD.double()
        self._cosines += torch.nn.functional.cosine_similarity(before_TD, after_TD, dim=1, eps=1e-30).sum()
        mean_before_D, mean_after_D = before_TD.mean(0), after_TD.mean(0)
        before_TD, after_TD = before_TD - mean_before_D, after_TD - mean_after_D
        moved_before_D, moved_after_D = mean_before_D - self._mean_before_D, mean_after_D - self._mean_after_D
        total = self.count + num
        share = self.count * num / total
        self._before_DD += before_TD.T @ before_TD + share * torch.outer(moved_before_D, moved_before_D)
        self._after_DD += after_TD.T @ after_TD + share * torch.outer(moved_after_D, moved_after_D)
        self._cross_DD += before_TD.T @ after_TD + share * torch.outer(moved_before_D, moved_after_D)
        self._mean_before_D += moved_before_D * (num / total)
        self._mean_after_D += moved_after_D * (num / total)
        self.count = total

    @property
    def cka(self) -> float:
        """Linear CKA, 0 to 1: |Y'X|^2 / (|X'X| |Y'Y|) of the centred states, Frobenius norms (arXiv 1905.00414, equation 6).

        1 for states that are equal up to a rotation and one scale; NaN where the states of one side are all the same.
        """
        scale = self._before_DD.norm() * self._after_DD.norm()
        return float(self._cross_DD.norm() ** 2 / scale) if scale > 0 else math.nan

    @property
    def drift(self) -> float:
        """Mean over tokens of 1 - cosine between a token's state before and after, 0 to 2; not centred."""
        return 1.0 - float(self._cosines) / self.count

    @property
    def dimensions(self) -> tuple[float, float]:
        """Participation ratio of the states' spread before and after, 1 to D: (sum of variances)^2 / sum of their squares.

        It falls where states collapse onto few directions.
        """
        ratios = [float(m_DD.trace() ** 2 / m_DD.square().sum()) for m_DD in (self._before_DD, self._after_DD)]
        return ratios[0], ratios[1]

    def leading(self, number: int) -> Leading:
        """How the `number` directions of most variance turned; at most D."""
        before_DK, after_DK = (_directions(m_DD, number) for m_DD in (self._before_DD, self._after_DD))
        held, most = (float((d_DK * (self._after_DD @ d_DK)).sum()) for d_DK in (before_DK, after_DK))
        angles = np.degrees(subspace_angles(before_DK.cpu().numpy(), after_DK.cpu().numpy()))
        return Leading(tuple(float(a) for a in angles), held / most if most > 0 else math.nan)


def _directions(scatter_DD: Tensor, number: int) -> Tensor:
    vector_DD: Tensor = torch.linalg.eigh(scatter_DD).eigenvectors
    return vector_DD[:, -number:]


def _zeros(*shape: int, device: torch.device | str) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64, device=device)
