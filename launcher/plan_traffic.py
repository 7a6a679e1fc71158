"""Bytes that a rank's collectives carry in one optimizer step, by kind, as `engine.traffic` counts them: sizes of whole tensors.

Owns the counts for ZeRO stages 0 to 3 and the time that they take on a link. A ring sends (W - 1) / W of an all-gather or a
reduce-scatter and twice that of an all-reduce.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from compact_ds.launcher.plan_memory import ZeroSettings
from compact_ds.launcher.plan_shape import Parameter, Shape

AGREEMENT_BYTES = 304
"""What ranks agree on and the gradient norm: some dozens of numbers, whatever the student."""


def traffic(
    shape: Shape, zero: ZeroSettings, bytes_each: int, checkpointing: bool, micro_batches: int, world_size: int,
    passes: int = 1, gradients: int = 0,
) -> dict[str, int]:  # fmt: skip
    """Bytes by kind; empty on one rank. `micro_batches` are those of all `passes`, which mix so many `gradients`.

    At stages 0 and 1 gradients are reduced once a pass, at 2 and 3 with every micro-batch. Stage 3 gathers parameters for the
    forward pass, again for the backward pass what was given back in between, and checkpointed layers once more.
    """
    if world_size == 1:
        return {}
    trained = shape.trained * bytes_each
    # Their inner products and losses travel in one message of float64.
    agreed = AGREEMENT_BYTES + 8 * gradients * (gradients + 1)
    if zero.stage == 0:
        return {"all_reduce": trained * passes + agreed}
    if zero.stage < 3:
        # In bf16 stage 1 reduces its fp32 sums.
        reduced = 4 * shape.trained * passes if zero.stage == 1 else trained * micro_batches
        return {"all_gather": trained, "all_reduce": reduced + agreed}
    gathered = _gathers(shape, zero, bytes_each, checkpointing, micro_batches, world_size)
    own = [p for p in shape.parameters if p.trained]
    return {
        "all_gather": int(gathered),
        "reduce_scatter": micro_batches * _padded(own, world_size) * bytes_each,
        "all_reduce": agreed,
    }


def seconds(carried: Mapping[str, int], world_size: int, bytes_per_second: float) -> float:
    """Time of the transfers at the link's rate, one after the other, latencies apart."""
    times = {"all_reduce": 2.0}
    share = (world_size - 1) / world_size
    return sum(times.get(kind, 1.0) * size * share for kind, size in carried.items()) / bytes_per_second


def _gathers(
    shape: Shape, zero: ZeroSettings, bytes_each: int, checkpointing: bool, micro_batches: int, world_size: int
) -> float:
    """What is small stays whole and is gathered once, in the step."""
    small = [p for p in shape.parameters if p.numel <= zero.persistence]
    large = [p for p in shape.parameters if p.numel > zero.persistence]
    sizes = {"small": _padded(small, world_size), "large": _padded(large, world_size)}
    layers = _padded([p for p in large if ".layers." in p.name], world_size)
    # Of what is larger than may live at once, the share beyond is given back and gathered again.
    again = max(0.0, 1 - zero.max_live / max(1, shape.total))
    each = sizes["large"] * (1 + again)
    if checkpointing:
        each += layers * again
    if shape.tied:
        each += 2 * again * shape.vocabulary * shape.hidden
    return (sizes["small"] + micro_batches * each) * bytes_each


def _padded(parameters: list[Parameter], world_size: int) -> int:
    return sum(math.ceil(p.numel / world_size) * world_size for p in parameters)
