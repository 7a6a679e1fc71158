"""How step time grows with ranks: Amdahl's law with a term for messages.

Owns the curve. With the batch fixed, a step on W ranks takes `constant + parallel / W + messages * (W - 1)` seconds: what every
rank does whatever W is, what ranks share out, and what grows with the length of a ring (Amdahl 1967). A ring's transfers take
(W - 1) / W of their size, which is one part constant and one part 1 / W: the data cannot tell them from the first two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls


@dataclass(frozen=True, slots=True)
class Curve:
    """Seconds of the three terms, none below 0, and the root of the mean squared relative residual."""

    constant: float
    parallel: float
    messages: float
    residual: float

    def seconds(self, world_size: float) -> float:
        """Predicted step time."""
        return self.constant + self.parallel / world_size + self.messages * (world_size - 1)

    @property
    def serial_share(self) -> float:
        """Amdahl's serial fraction: the constant's share of a step on one rank."""
        alone = self.constant + self.parallel
        return self.constant / alone if alone else 0.0

    @property
    def best_world_size(self) -> float:
        """Where the curve is lowest; infinite without a message term."""
        return float(np.sqrt(self.parallel / self.messages)) if self.messages > 0 else float("inf")


def fit(world_sizes: Sequence[int], seconds: Sequence[float]) -> Curve | None:
    """The curve by non-negative least squares of relative errors; None for fewer than two world sizes.

    Two world sizes leave out the message term, which they could not tell from the constant.
    """
    sizes, times = np.array(world_sizes, dtype=np.float64), np.array(seconds, dtype=np.float64)
    distinct = len(set(world_sizes))
    if distinct < 2:
        return None
    columns = np.stack([np.ones_like(sizes), 1 / sizes, sizes - 1], axis=1)[:, : 2 if distinct == 2 else 3]
    solution, _ = nnls(columns / times[:, None], np.ones_like(times))
    constant, parallel, messages = (*map(float, solution), 0.0)[:3]
    off = columns @ solution / times - 1
    return Curve(constant, parallel, messages, float(np.sqrt(np.mean(off**2))))
