"""Gradient shards between two optimizer steps.

Owns one promise that DeepSpeed does not give: a parameter that no pass of a step used has no gradient in that step. ZeRO-3
writes a shard only when its parameter was used, and would otherwise hand last step's gradient to the optimizer again.
"""

from __future__ import annotations

from typing import Any


def forget_gradients(optimizer: Any) -> None:
    """Set ZeRO-3's gradient shards to zero, offloaded ones too; call after the optimizer's step. Other stages clear theirs."""
    shards = getattr(optimizer, "grad_partitions_flat_buffer", None)
    if shards is None:
        return
    shards.zero_()
    if not optimizer.offload_optimizer:
        return
    optimizer.norm_for_param_grads.clear()
    for master in optimizer.fp32_partitioned_groups_flat:
        if master.grad is not None:
            master.grad.zero_()
