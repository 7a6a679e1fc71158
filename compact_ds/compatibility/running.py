"""Running statistics of all ranks: how far the metrics spread within an example, and the mean token loss.

Owns the decayed sums, their checkpoint form and the vector in which ranks and micro-batches add up their share. Does
not communicate: the caller adds the contributions of a step over micro-batches and ranks, then calls `update` once.
Legend: `segments`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compact_ds.compatibility.segments import sums

METRICS = ("consensus", "adaptability", "difficulty")
"""Order of the metrics along M; those that a user added come after them."""

SMALLEST_SCALE = 1e-6
"""A spread below this (shares or nats) is rounding of fp32 losses, and dividing by it would make weights of noise."""


class RunningScales:
    """Decayed sums over steps; a step reads them as they were before it, so no result depends on how it was split.

    `sums` is a float64 vector [2 M + 2]: per metric the squared within-example deviations, per metric their degrees of
    freedom, then the sum and the number of token losses. M is 3 and `num_added`.
    """

    def __init__(self, decay: float, device: torch.device | str = "cpu", num_added: int = 0) -> None:
        self.decay = decay
        self._num_metrics = len(METRICS) + num_added
        self.size = 2 * self._num_metrics + 2
        self.sums = torch.zeros(self.size, dtype=torch.float64, device=device)

    @property
    def scale_M(self) -> Tensor:
        """Pooled within-example standard deviation of each metric, float64; 0 where no spread was seen."""
        squares_M, freedom_M = self.sums[:-2].view(2, self._num_metrics)
        scale_M = (squares_M / torch.where(freedom_M > 0, freedom_M, 1.0)).sqrt()
        return torch.where(scale_M < SMALLEST_SCALE, 0.0, scale_M)

    @property
    def mean_loss(self) -> Tensor:
        """Mean token loss of a rationale in nats per token, 0-dim float64; +inf before anything was seen."""
        total, count = self.sums[-2], self.sums[-1]
        return torch.where(count > 0, total / torch.where(count > 0, count, 1.0), float("inf"))

    @torch.no_grad()
    def contribution(self, metrics_MR: Tensor, token_loss_R: Tensor, example_R: Tensor, num_examples: int) -> Tensor:
        """What these rationales add to the sums, float64 [2 M + 2]; contributions of a step are added up by the caller.

        Deviations are taken from the plain mean of an example's rationales and an example with n of them has n - 1
        degrees of freedom, so one with a single rationale adds nothing and few or many teachers give the same scale.
        Difficulty is not counted while there is no mean loss to measure it against.
        """
        metrics_MR, token_loss_R = metrics_MR.double(), token_loss_R.double()
        size_X = sums(torch.ones_like(token_loss_R), example_R, num_examples)
        squares = []
        for values_R in metrics_MR:
            mean_X = sums(values_R, example_R, num_examples) / size_X
            deviation_R = torch.where(size_X[example_R] > 1, values_R - mean_X[example_R], 0.0)
            squares.append((deviation_R**2).sum())
        freedom = (size_X - 1).clamp(min=0).sum()
        measured = torch.where(self.mean_loss.isinf(), 0.0, freedom)
        count = size_X.sum()
        freedoms = [measured if name == "difficulty" else freedom for name in METRICS]
        freedoms += [freedom] * (self._num_metrics - len(METRICS))
        return torch.stack([*squares, *freedoms, token_loss_R.sum(), count])

    @torch.no_grad()
    def update(self, total: Tensor) -> None:
        """Take in a whole step: `total` [2 M + 2] is the sum of its contributions over micro-batches and ranks."""
        self.sums = self.decay * self.sums + total.to(self.sums)

    def state_dict(self) -> dict[str, Tensor]:
        """The sums, for a checkpoint."""
        return {"sums": self.sums.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state_dict`, on this object's device. Raises ValueError for sums of another shape."""
        if state["sums"].shape != self.sums.shape:
            raise ValueError(f"running scales of shape {tuple(state['sums'].shape)}, not {tuple(self.sums.shape)}")
        self.sums = state["sums"].to(self.sums, copy=True)
