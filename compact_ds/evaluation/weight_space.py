"""How far a student's matrices moved between two states of it, and along how many directions.

Owns the distance and the spectrum of each change. What it does to hidden states is `latent_space`.

Legend: M rows, N columns of a matrix, the smaller one S.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from compact_ds.errors import UserError


@dataclass(frozen=True, slots=True)
class Change:
    """One parameter's change: its Frobenius norm over that of the parameter before, and for a matrix its spectrum.

    `stable_rank` is the sum of squared singular values over the largest of them, `stable_rank_of_noise` what Gaussian noise of
    that shape has. `rank_90` and `rank_99` count the singular values that hold 90% and 99% of the change's squares; `energy` is
    the share that the first r hold, by r. None where there is no change or no matrix.
    """

    name: str
    shape: tuple[int, ...]
    relative_change: float
    stable_rank: float | None = None
    stable_rank_of_noise: float | None = None
    rank_90: int | None = None
    rank_99: int | None = None
    energy: dict[int, float] | None = None


@torch.no_grad()
def changes(before: Any, after: Any, ranks: Sequence[int]) -> Iterator[Change]:
    """The change of every parameter, a shared one once. Raises UserError where the two have other parameters."""
    own, other = (dict(lm.named_parameters()) for lm in (before, after))
    for name in sorted(own.keys() ^ other.keys()):
        raise UserError("AFTER", f"parameter {name} in one student only", "those of BEFORE", "compare one student")
    for name, weight in tqdm(own.items(), desc="weights", unit="parameter", leave=False):
        if weight.shape != other[name].shape:
            shapes = f"{name} {tuple(other[name].shape)}"
            raise UserError("AFTER", shapes, f"{tuple(weight.shape)} as in BEFORE", "compare one student")
        yield change(name, weight.double(), other[name].to(weight.device).double(), ranks)


def change(name: str, before: Tensor, after: Tensor, ranks: Sequence[int]) -> Change:
    """The change of one parameter, given in float64."""
    moved = after - before
    size, base = float(moved.norm()), float(before.norm())
    relative = size / base if base > 0 else float("inf") if size > 0 else 0.0
    if moved.ndim != 2 or size == 0:
        return Change(name, tuple(before.shape), relative)
    square_S = squared_singular_values(moved)
    share_S = square_S.cumsum(0) / square_S.sum()
    rank_90, rank_99 = (int((share_S < part).sum()) + 1 for part in (0.9, 0.99))
    rows, columns = moved.shape
    # The largest singular value of M x N noise tends to sqrt(M) + sqrt(N) (Bai and Yin 1988).
    noise = rows * columns / (rows**0.5 + columns**0.5) ** 2
    energy = {r: float(share_S[min(r, len(share_S)) - 1]) for r in ranks}
    stable = float(square_S.sum() / square_S[0])
    return Change(name, (rows, columns), relative, stable, noise, rank_90, rank_99, energy)


def squared_singular_values(matrix_MN: Tensor) -> Tensor:
    """Squared singular values, the largest first, [S] float64: eigenvalues of the smaller product with itself.

    Far cheaper than the decomposition of a wide matrix. A value below 1e-8 of the largest is lost in rounding.
    """
    wide_SN = matrix_MN if matrix_MN.shape[0] <= matrix_MN.shape[1] else matrix_MN.T
    square_S: Tensor = torch.linalg.eigvalsh(wide_SN @ wide_SN.T)
    return square_S.flip(0).clamp(min=0)


def summary(found: Sequence[Change], ranks: Sequence[int]) -> dict[str, Any]:
    """Medians over the matrices that changed, how many there are, and every parameter's row under `parameters`."""
    moved = [one for one in found if one.stable_rank is not None]
    rows = [asdict(one) for one in found]
    if not moved:
        return {"matrices_changed": 0, "parameters": rows}
    figures = ("relative_change", "stable_rank", "stable_rank_of_noise", "rank_90", "rank_99")
    medians: dict[str, float] = {name: median(getattr(one, name) for one in moved) for name in figures}
    medians |= {f"energy_{r}": median((one.energy or {})[r] for one in moved) for r in ranks}
    return {"matrices_changed": len(moved), **medians, "parameters": rows}
