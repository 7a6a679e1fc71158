"""The weighted, globally normalised loss whose gradient is the mix of the teachers' gradients.

Owns one formula. With the weights detached, the gradient of sum w_ik L_ik is the weighted sum of the teachers' gradients, so
one backward mixes any number of teachers (DESIGN section 3).

Legend: R rationales.
"""

from __future__ import annotations

from torch import Tensor


def weighted_loss(token_loss_R: Tensor, weight_R: Tensor) -> Tensor:
    """Sum of w L over the rationales of a micro-batch, in nats per token; the caller divides by the global example count."""
    return (weight_R.detach() * token_loss_R).sum()
